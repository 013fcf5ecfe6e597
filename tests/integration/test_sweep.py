"""The main job, end to end: the same decisions in process and under Ray Tune, recorded and mirrored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pbt
from pbt import PBT, Budget, Checkpoints, Hosts, Objective, Result, Sweep, Tracking
from pbt.errors import SpecError
from searchspaces import Float
from trainables import Language, Quadratic

SPACE = {"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)}


def sweep(storage: Path, kind: str, *, seed: int = 0, stacks: int = 2, tracking: bool = False, **hosts: Any) -> Sweep:
    """Seven members of the paper's toy on two stacks: exploits cross stacks."""
    return Sweep(
        name="toy",
        trainable=Quadratic(),
        space=SPACE,
        objective="Q",
        strategy=PBT(quantile=0.3),
        budget=Budget(members=7, generations=6, steps=10),
        seed=seed,
        hosts=Hosts(kind=kind, stacks=stacks, **hosts),  # type: ignore[arg-type]
        storage=storage,
        tracking=tracking,
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The sweep, run in this process."""
    return sweep(tmp_path_factory.mktemp("local"), "local").run(progress=False)


def test_the_same_seed_gives_the_same_digest_in_process(local: Result, tmp_path: Path) -> None:
    """Two runs, one digest."""
    assert local.digest() == sweep(tmp_path, "local").run(progress=False).digest()


def test_another_seed_gives_another_digest(local: Result, tmp_path: Path) -> None:
    """The digest is not blind."""
    assert local.digest() != sweep(tmp_path, "local", seed=1).run(progress=False).digest()


@pytest.mark.ray
def test_the_same_seed_gives_the_same_digest_under_ray_tune(local: Result, ray_cluster: None, tmp_path: Path) -> None:
    """Hosts in other processes, states through the object store, the same decisions, twice."""
    first, second = (sweep(tmp_path, "ray").run(progress=False) for _ in range(2))
    assert local.digest() == first.digest() == second.digest()
    assert [0] == first.tables["nodes"]["node"].unique().to_pylist(), "two hosts on one node, which is told of once"
    across = [
        row
        for row in local.segments.to_pylist()
        if row["start"] == "copied" and (row["parent_member"] < 3) != (row["member"] < 3)
    ]
    assert across, "no exploit crossed the stacks, so nothing was shown"


@pytest.mark.ray
@pytest.mark.full
def test_tunes_own_reporter_tells_of_hosts(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If that is wanted: its tables of trials, and our lines between them."""
    sweep(tmp_path, "ray", reporter="tune").run()
    shown = capsys.readouterr().out
    assert "generation 6/6" in shown
    assert "Host_" in shown
    assert "TERMINATED" in shown


def language_sweep(storage: Path, kind: str, text: Path) -> Sweep:
    """Five small language models on two stacks."""
    return Sweep(
        name="language",
        trainable=Language(width=16, depth=1, heads=2, context=16, batch=4, data=str(text), eval_bytes=1024),
        space={"lr": Float(1e-3, 3e-2, log=True), "dropout": Float(0.0, 0.2)},
        objective="bits_per_byte",
        strategy=PBT(quantile=0.4),
        budget=Budget(members=5, generations=3, steps=10),
        hosts=Hosts(kind=kind, stacks=2),  # type: ignore[arg-type]
        storage=storage,
        tracking=False,
    )


@pytest.mark.ray
@pytest.mark.full
def test_language_models_decide_alike_in_process_and_under_ray(ray_cluster: None, tmp_path: Path) -> None:
    """Real matrix arithmetic too: scores agree bit for bit, and with them the decisions."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 500)
    here, there = (language_sweep(tmp_path / kind, kind, text).run(progress=False) for kind in ("local", "ray"))
    assert here.digest() == there.digest()
    scores = [[row["score"] for row in result.segments.to_pylist()] for result in (here, there)]
    assert scores[0] == scores[1]
    assert not (there.path / "tune").exists(), "Tune's own pickles stay out of the record"


@pytest.mark.full
@pytest.mark.ray
def test_more_stacks_than_hosts_do_not_deadlock(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two hosts and five stacks, each host takes several, and the barrier is passed."""
    monkeypatch.setattr("pbt.runtime.brain_actor._GRACE_S", 0.0)
    result = sweep(tmp_path, "ray", stacks=5).run(progress=False)
    assert result.finished
    assert result.segments.num_rows == 7 * 6


def test_the_result_is_typed_and_complete(local: Result) -> None:
    """Best, schedule, segments, checkpoint: everything a person needs to go on."""
    best = local.best
    assert local.finished
    assert local.segments.num_rows == 7 * 6
    assert best.schedule[-1].age_end == 60
    assert best.schedule[0].age_start == 0
    assert best.hparams == best.schedule[-1].hparams
    assert best.metrics["test/Q"] == pytest.approx(best.score)
    assert best.checkpoint is not None
    assert best.checkpoint.exists()
    frame = local.to_pandas()
    assert {"hparams/lr", "hparams/h0", "score", "start"} <= set(frame.columns)
    assert frame[frame.member == best.member].score.iloc[-1] == best.score
    assert pbt.load(local.path).digest() == local.digest()


def test_what_was_ordered_was_in_effect(local: Result) -> None:
    """The ledger holds the values read back from the device, and they are the ones ordered."""
    segments = local.lineage.segments.values()
    assert len(segments) == 42
    for segment in segments:
        assert segment.hparams == segment.hparams_in_effect


def test_only_the_announced_winner_saw_the_test_split(local: Result) -> None:
    """The test split decides nothing."""
    tested = {row["member"] for row in local.metrics.to_pylist() if row["split"] == "test"}
    assert {local.best.member} == tested


def test_a_language_model_population_learns(tmp_path: Path) -> None:
    """Byte-level language models on the standard library's text: better than 8 bits, and than where they began."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 2000)
    result = Sweep(
        trainable=Language(width=16, depth=1, heads=2, context=16, batch=4, data=str(text), eval_bytes=1024),
        space={"lr": Float(1e-3, 3e-2, log=True), "dropout": Float(0.0, 0.2)},
        objective="bits_per_byte",
        budget={"members": 4, "generations": 3, "steps": 20},
        hosts=Hosts(kind="local", stacks=2),
        storage=tmp_path / "runs",
        tracking=False,
    ).run(progress=False)
    first = [row["score"] for row in result.segments.to_pylist() if row["generation"] == 0]
    assert result.best.score < min(first)
    assert result.best.score < 6
    assert result.run.info["data"]["sha256"]


def test_parts_may_be_mappings(tmp_path: Path) -> None:
    """As in a sweep file: the same spec as with objects."""
    parts: dict[str, Any] = {
        "objective": {"metric": "Q"},
        "budget": {"members": 2, "generations": 2, "steps": 3},
        "hosts": {"kind": "local", "stacks": 1},
        "tracking": {"enabled": False},
        "checkpoints": {"keep": 3},
    }
    objects = {
        "objective": Objective(metric="Q"),
        "budget": Budget(members=2, generations=2, steps=3),
        "hosts": Hosts(kind="local", stacks=1),
        "tracking": Tracking(enabled=False),
        "checkpoints": Checkpoints(keep=3),
    }
    common: dict[str, Any] = {"trainable": Quadratic(), "space": SPACE, "storage": tmp_path}
    assert Sweep(**common, **objects).spec == Sweep(**common, **parts).spec


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"hosts": {"knd": "local"}}, "hosts.knd: is not a known key. Did you mean 'kind'?"),
        ({"objective": {}}, "objective.metric: is missing. Add 'metric'"),
        (
            {"objective": 3},
            "objective: 3 is no Objective. Write a pbt.Objective, or a mapping with metric",
        ),
        ({"tracking": "off"}, "tracking: 'off' is no Tracking. Write a pbt.Tracking, or a mapping with enabled"),
        (
            {"checkpoints": 5},
            "checkpoints: 5 is no Checkpoints. Write a pbt.Checkpoints, or a mapping with every",
        ),
    ],
)
def test_parts_that_are_none(part: dict[str, Any], message: str) -> None:
    """Field, value and mend, as everywhere."""
    fields: dict[str, Any] = {
        "trainable": Quadratic(),
        "space": SPACE,
        "objective": "Q",
        "budget": Budget(members=2, generations=2, steps=3),
    }
    with pytest.raises(SpecError) as caught:
        Sweep(**(fields | part))
    assert str(caught.value).startswith(message)
