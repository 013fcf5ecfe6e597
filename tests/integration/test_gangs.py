"""Members that two processes share, under Ray: trained, copied, killed and brought back."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pbt
from benchmarks.processes import of_actors
from pbt import PBT, Budget, Checkpoints, Hosts, Result, Sweep
from pbt.errors import HostError, SpecError
from pbt.report.show import as_json
from searchspaces import Float
from tests.integration.test_resume import meanwhile, only_run
from tests.integration.toys import kinds
from tests.trainables.ranked import module
from trainables.gang import Gang

pytestmark = pytest.mark.ray

GENERATIONS, TRAINABLE = 6, module("fsdp")


def sweep(
    storage: Path, kind: str = "ray", generations: int = GENERATIONS, trainable: Gang = TRAINABLE, **hosts: Any
) -> Sweep:
    """Three members, of which one is replaced in every generation."""
    return Sweep(
        name="toy",
        trainable=trainable,
        space={"lr": Float(1e-4, 1e-1, log=True), "clip_norm": Float(0.1, 1.0)},
        objective="loss",
        strategy=PBT(quantile=0.34),
        budget=Budget(members=3, generations=generations, steps=5),
        checkpoints=Checkpoints(every_steps=10),
        hosts=Hosts(kind=kind, stacks=3, **hosts),  # type: ignore[arg-type]
        storage=storage,
        tracking=False,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Every member by itself, in this process."""
    return sweep(tmp_path_factory.mktemp("alone"), "local").run(progress=False)


@pytest.mark.full
def test_two_ranks_decide_as_one(ray_cluster: None, tmp_path: Path, alone: Result) -> None:
    """They share every member, learn what one would, and their checkpoints can be read by one."""
    result = sweep(tmp_path, ranks=2).run(progress=False)
    assert result.finished
    assert alone.digest() == result.digest()
    assert 0 < sum(row["start"] == "copied" for row in result.rows["segments"])
    assert [] == result.rows["incidents"]
    scores, expected = (
        {(row["member"], row["segment"]): row["score"] for row in found.rows["outcomes"]} for found in (result, alone)
    )
    assert expected == pytest.approx(scores, rel=1e-4)


def unmakeable() -> Any:
    """A network that cannot be built."""
    raise ValueError("no such layer")


@pytest.mark.full
def test_a_module_that_cannot_be_built_is_told_with_its_cause(ray_cluster: None, tmp_path: Path) -> None:
    """At once, and where that was; not that some process ended."""
    impossible = dataclasses.replace(TRAINABLE, make=f"{__name__}:unmakeable")
    with pytest.raises(HostError, match="stack 0 could not be built: ValueError: no such layer") as caught:
        sweep(tmp_path, trainable=impossible, ranks=2).run(progress=False)
    assert "in unmakeable" in "".join(caught.value.__notes__)
    incidents = pbt.load(only_run(tmp_path)).rows["incidents"]
    assert ["exception"] == [row["kind"] for row in incidents]
    assert "in unmakeable" in incidents[0]["message"]


@pytest.mark.full
def test_a_rank_is_killed(ray_cluster: None, tmp_path: Path) -> None:
    """The member is rolled back to its last checkpoint, and nobody is to blame."""
    alone = sweep(tmp_path / "alone", "local", generations=60).run(progress=False)
    with meanwhile(tmp_path / "killed", 8, lambda run: os.kill(of_actors("Rank")[0], signal.SIGKILL)):
        result = sweep(tmp_path / "killed", generations=60, ranks=2).run(progress=False)
    assert result.finished
    assert alone.digest() == result.digest()
    (lost,) = {row["message"] for row in result.rows["incidents"] if row["kind"] == "host_lost"}
    assert re.match(r"host \d: a process of its gang was lost \(rank 1\).*; lost 1 of at most 5 times in a row", lost)
    assert "exception" not in kinds(result)


@pytest.mark.full
def test_a_sweep_of_gangs_goes_on_in_this_process(ray_cluster: None, tmp_path: Path) -> None:
    """Checkpoints are whole, whoever wrote them; and what is shown is how it was trained last."""
    alone = sweep(tmp_path / "alone", "local", generations=30).run(progress=False)
    with meanwhile(tmp_path / "stopped", 8, lambda run: pbt.stop(run, wait=False)), pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "stopped", generations=30, ranks=2).run(progress=False)
    run = only_run(tmp_path / "stopped")
    result = pbt.resume(run, progress=False, hosts={"kind": "local"})
    assert alone.digest() == result.digest()
    assert [2, 1] == [session["ranks"] for session in json.loads(as_json(result))["summary"]["sessions"]]
    assert not {"differs", "checkpoint_damaged"} & set(kinds(result))


@pytest.mark.full
def test_gangs_copy_from_each_other(tmp_path: Path, alone: Result) -> None:
    """Three at once, each with processes of its own, in a Ray that believes in six cores."""
    subprocess.run([sys.executable, "-m", "tests.integration.gangs", str(tmp_path)], check=True, timeout=600)
    result = pbt.load(only_run(tmp_path))
    assert alone.digest() == result.digest()
    assert set(kinds(result)) <= {"moved", "recovered"}  # where three are too many at once for this machine


def test_without_gangs_every_member_has_a_stack_of_its_own_too(tmp_path: Path) -> None:
    """Nobody has to say so; fewer stacks are refused before anything is begun."""
    budget = {"members": 3, "generations": 2, "steps": 2}
    common: dict[str, Any] = {"trainable": TRAINABLE, "space": {"lr": Float(1e-4, 1e-1, log=True)}, "objective": "loss"}
    common |= {"budget": budget, "tracking": False}
    result = Sweep(**common, hosts=Hosts(kind="local"), storage=tmp_path / "own").run(progress=False)
    assert {0, 1, 2} == {row["stack"] for row in result.rows["segments"]}
    with pytest.raises(SpecError, match=r"hosts\.stacks: is 2, but 3 members need 3"):
        Sweep(**common, hosts=Hosts(kind="local", stacks=2), storage=tmp_path / "two").run(progress=False)


def test_members_that_share_a_stack_cannot_be_shared(ray_cluster: None, tmp_path: Path) -> None:
    """Said before anything is begun."""
    with pytest.raises(SpecError, match=r"hosts\.stacks: is 2, but 3 members need 3, as a stack takes 1"):
        Sweep(
            trainable=module(),
            space={"lr": Float(1e-4, 1e-1, log=True)},
            objective="loss",
            budget={"members": 3, "generations": 2, "steps": 2},
            hosts=Hosts(stacks=2, ranks=2),
            storage=tmp_path,
            tracking=False,
        ).run(progress=False)
    assert [] == list(tmp_path.iterdir())
