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
from pbt.record.sizes import Sizes
from pbt.record.validity import violations
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
