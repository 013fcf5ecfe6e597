"""A search with two fidelities, live: what is decided is not changed by a driver that is killed in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pbt
from pbt import Budget, Result
from pbt.errors import SpecError
from pbt.record.sizes import Sizes
from pbt.record.validity import violations
from searchspaces import Float
from tests.integration.sized import search
from tests.integration.test_resume import only_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The search in this process."""
    return search(tmp_path_factory.mktemp("undisturbed"), "local").run(progress=False)


def decisions(result: Result) -> list[tuple[object, ...]]:
    """Who was begun, frozen, thawed and announced, with what, in which order."""
    names = ("kind", "member", "segment", "hparams", "reason")
    return [tuple(row.get(name) for name in names) for row in result.rows["decisions"]]


def test_smaller_models_are_tried_first_and_the_winner_is_full_sized(undisturbed: Result) -> None:
    """Within a budget that counts a step with half the width as half a step."""
    begun: dict[int, dict[str, object]] = {}
    for row in undisturbed.rows["segments"]:
        begun.setdefault(row["member"], json.loads(row["hparams"]))
    widths = [hparams["width"] for hparams in begun.values()]
    assert {8, 16, 32} == set(widths)
    assert undisturbed.best.hparams["width"] == 32
    ended = [row["consumed_end"] for row in undisturbed.rows["outcomes"] if row["member"] == undisturbed.best.member]
    assert max(ended) == 40
    rate = Sizes(undisturbed.run.info).rate
    assert [rate({"width": it}) for it in (8, 16, 32)] == [0.25, 0.5, 1.0]
    budget = Budget(**undisturbed.run.info["spec"]["budget"])
    assert [] == violations(undisturbed.rows, lambda digest: True, budget, rate)


@pytest.mark.ray
@pytest.mark.full
def test_the_driver_is_killed(ray_cluster: None, tmp_path: Path, undisturbed: Result) -> None:
    """With it go brain and hosts; resumed by another, the search decides what it would have decided."""
    import ray

    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-m", "tests.integration.sized", str(tmp_path), address])
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.1):
            runs = [run for run in tmp_path.glob("toy-*") if (run / "ledger" / "manifest.json").exists()]
            if runs and len(pbt.load(runs[0]).rows["outcomes"]) >= len(undisturbed.rows["outcomes"]) // 2:
                driver.kill()
                return

    threading.Thread(target=kill, daemon=True).start()
    assert driver.wait(timeout=300) == -signal.SIGKILL
    over.set()
    stopped = pbt.load(only_run(tmp_path))
    assert not stopped.finished
    assert len(stopped.rows["outcomes"]) < len(undisturbed.rows["outcomes"])
    result = pbt.resume(only_run(tmp_path), progress=False)
    assert result.finished
    assert undisturbed.digest() == result.digest()
    assert sorted(map(repr, decisions(undisturbed))) == sorted(map(repr, decisions(result)))


def toy(storage: Path, **options: object) -> pbt.Sweep:
    """The paper's toy, of which a run to the end takes three generations."""
    return pbt.Sweep(
        name="toy",
        trainable="quadratic",
        space={"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)},
        objective="Q",
        strategy=pbt.ASHA(target_generations=3, **options),  # type: ignore[arg-type]
        budget=Budget(members=3, generations=9, steps=4),
        hosts=pbt.Hosts(kind="local"),
        storage=storage,
        tracking=False,
    )


def test_a_search_is_extended_to_a_target_that_is_further(tmp_path: Path) -> None:
    """Who was complete goes on; the record says what a run to the end is now."""
    before = toy(tmp_path).run(progress=False)
    result = pbt.extend(before.path, generations=36, target_generations=9, progress=False)
    assert result.finished
    consumed: dict[int, int] = {}
    for row in result.rows["outcomes"]:
        consumed[row["member"]] = max(consumed.get(row["member"], 0), row["consumed_end"])
    assert consumed[result.best.member] == 36
    assert result.run.info["target_steps"] == 36
    assert result.run.info["spec"]["strategy"]["options"]["target_generations"] == 9
    complete = {row["member"] for row in before.rows["outcomes"] if row["consumed_end"] == 12}
    assert any(consumed[member] > 12 for member in complete)
    assert [] == violations(result.rows, lambda digest: True, Budget(members=3, generations=36, steps=4))
    further = pbt.extend(before.path, generations=72, progress=False)
    assert further.run.info["target_steps"] == 36


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target_generations": 2}, "target_generations: .*2"),
        ({"target_generations": 30}, "the budget has 9 generations"),
        ({"target_generations": 9}, r"target_generations: leads 24 steps .* has 0 left\. .* to 11 or more"),
        ({"generations": 9}, "changes nothing"),
    ],
)
def test_a_target_that_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, int], told: str) -> None:
    result = toy(tmp_path).run(progress=False)
    with pytest.raises(SpecError, match=told):
        pbt.extend(result.path, progress=False, **changes)  # type: ignore[arg-type]


def test_other_sizes_are_another_search(tmp_path: Path, undisturbed: Result) -> None:
    space = {**undisturbed.run.info["hparams"], "width": {"type": "choice", "options": [8, 16, 32, 64]}}
    with pytest.raises(SpecError, match=r"space.width.*begin another search"):
        pbt.extend(undisturbed.path, space=space, progress=False)


def test_a_population_has_no_target(tmp_path: Path) -> None:
    fixed = pbt.Sweep(
        name="toy", trainable="quadratic", space={"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)}, objective="Q",
        strategy="fixed", budget=Budget(members=2, generations=2, steps=2), hosts=pbt.Hosts(kind="local"),
        storage=tmp_path, tracking=False,
    )  # fmt: skip
    result = fixed.run(progress=False)
    with pytest.raises(SpecError, match="is of searches"):
        pbt.extend(result.path, generations=4, target_generations=3, progress=False)
