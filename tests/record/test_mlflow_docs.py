"""Every filter that docs/mlflow.md names finds what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pbt.record.mlflow_address import connect, quiet
from tests import ledgers, mirrors
from tests.mirrors import WINNER, Store

DOCS = Path(__file__).parents[2] / "docs/mlflow.md"
#: The sweep that the documentation talks about; another one is in the same experiment.
SWEEP, OTHER = "language-20261120-101500", "other"


def documented() -> tuple[dict[str, str], dict[str, str]]:
    """The filters for runs and for models, by the line above each."""
    blocks = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    runs, models = (dict(re.findall(r"^-- (.*)\n(.*)$", block, re.MULTILINE)) for block in blocks)
    return runs, models


RUNS, MODELS = documented()


def members(*numbers: int, sweep: str = SWEEP) -> set[str]:
    return {f"{sweep}: member {number}" for number in numbers}


def segments(*numbers: tuple[int, int], sweep: str = SWEEP) -> set[str]:
    return {f"{sweep}: member {member} segment {segment}" for member, segment in numbers}


FOUND_RUNS = {
    "members of a sweep": members(0, 1, 2),
    "the winner": members(1),
    "members and segments whose weights descend from member 2": (
        members(2)
        | segments((2, 0), (2, 1), (2, 2))
        | members(2, sweep=OTHER)
        | segments((2, 0), (2, 1), (2, 2), (2, 3), sweep=OTHER)
    ),
    "members whose weights go back to the beginning of member 0": members(0, 1, 2) | members(0, 1, 5, sweep=OTHER),
    "all exploits of a sweep": segments((2, 1), (1, 2)),
    "exploits of member 0's weights that begin the third generation (counted from 0, as in the ledger: 2)": segments(
        (1, 2)
    ),
    "members with a score below 1.7": members(0, 1) | members(0, 1, 5, sweep=OTHER),
    "members whose learning rate at the end lay in a range": members(0),
    "segments trained with one value": segments((2, 1), (2, 2)) | segments((1, 3), sweep=OTHER),
    "members with a named option": members(3, 5, sweep=OTHER),
    "members that failed": members(2) | members(3, sweep=OTHER),
    "segments that diverged": segments((4, 0), sweep=OTHER),
    "sweeps of the experiment, by their best score": {SWEEP},
    "sweeps of a size and a strategy": {SWEEP},
    "sweeps that were taken up again": {SWEEP},
    "sweeps with a damaged checkpoint": {SWEEP},
    "sweeps that took more than two minutes of their devices": {SWEEP},
    "sweeps begun at a commit": {SWEEP},
}

FOUND_MODELS = {
    "weights that can be loaded, with a score below 1.5": {
        f"{SWEEP}: member-1-segment-2",
        f"{OTHER}: member-1-segment-3",
    },
    "weights that were copied and are gone": {f"{SWEEP}: member-0-segment-0", f"{SWEEP}: member-0-segment-1"},
    "weights trained with one value": {f"{SWEEP}: member-0-segment-{segment}" for segment in range(3)},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two sweeps in one experiment."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with quiet():
        store = Store(uri, connect(uri))
    for run, score in ((mirrors.tell_eventful(folder / SWEEP), 1.3), (ledgers.tell(folder / OTHER), 1.45)):
        mirror = store.mirror(run, "language", segment_runs=200)
        assert mirror.finish("finished", WINNER | {"score": score}), mirror.last_error
    return store


@pytest.mark.parametrize("about", RUNS)
def test_a_documented_filter_finds_the_runs_it_speaks_of(store: Store, about: str) -> None:
    found = store.client.search_runs([store.experiment_id("language")], RUNS[about])
    assert FOUND_RUNS[about] == {_named(run.data.tags, run.info.run_name) for run in found}


@pytest.mark.parametrize("about", MODELS)
def test_a_documented_filter_finds_the_models_it_speaks_of(store: Store, about: str) -> None:
    found = store.client.search_logged_models([store.experiment_id("language")], MODELS[about])
    assert FOUND_MODELS[about] == {_named(model.tags, model.name) for model in found}


def test_every_filter_is_documented() -> None:
    """What is tested here stands there."""
    assert (FOUND_RUNS.keys(), FOUND_MODELS.keys()) == (RUNS.keys(), MODELS.keys())


def _named(tags: dict[str, str], name: str) -> str:
    sweep = tags["pbt.run_id"]
    return name if name == sweep else f"{sweep}: {name}"


def test_every_tag_the_documentation_names_is_there(store: Store) -> None:
    """In the runs or models of one of the two sweeps."""
    named = {name.rstrip(".*") for name in re.findall(r"`(pbt\.[a-z_.*]+)`", DOCS.read_text())}
    named -= {"pbt.shrink"}  # which only sweeps of `ipbt` have
    runs = store.client.search_runs([store.experiment_id("language")])
    models = store.client.search_logged_models([store.experiment_id("language")])
    there = {tag for run in runs for tag in run.data.tags} | {tag for model in models for tag in model.tags}
    assert set() == {name for name in named if not any(tag == name or tag.startswith(f"{name}.") for tag in there)}
