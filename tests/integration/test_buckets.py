"""Sweeps whose members change their batch sizes: they move between buckets, and what they cost is counted as it is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import pbt
from pbt.errors import SpecError
from pbt.record.result import Result
from searchspaces import Choice, Float, Int
from trainables import Capabilities, Language, Place, Quadratic, Stack
from trainables.base import Hparams, HparamSpec

SPACE = {"lr": Float(1e-3, 1e-1, log=True), "batch_size": Choice([2, 4, 7])}
CONTEXT = 8


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(bytes(range(32, 127)) * 100)
    return str(path)


def sweep(folder: Path, text: str, generations: int = 6, **changes: Any) -> pbt.Sweep:
    """Six members in two stacks; hyperparameters change often."""
    parts = {
        "name": "sizes",
        "trainable": Language(width=8, depth=1, heads=2, context=CONTEXT, batch=4, eval_bytes=256, data=text),
        "space": SPACE,
        "strategy": pbt.PBT(quantile=0.5, resample_probability=0.5),
        "objective": "loss",
        "budget": {"members": 6, "generations": generations, "steps": 5},
        "hosts": {"kind": "local", "stacks": 2},
        "storage": folder,
        "tracking": False,
    }
    return pbt.Sweep(**parts | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, text: str) -> Result:
    """A sweep that nobody disturbed."""
    return sweep(tmp_path_factory.mktemp("whole"), text).run(progress=False)


def sizes(result: Result) -> dict[tuple[int, int], int]:
    return {(key.member, key.index): segment.hparams["batch_size"] for key, segment in result.lineage.segments.items()}


def test_members_move_between_buckets(whole: Result) -> None:
    """By copies from other buckets, and by exploring; what was ordered is in effect."""
    found = sizes(whole)
    assert set(found.values()) == {2, 4, 7}
    moved = [key for key in found if key[1] and found[key] != found[key[0], key[1] - 1]]
    assert len(moved) >= 4
    assert {row["status"] for row in whole.rows["outcomes"]} == {"ended"}


def test_what_was_consumed_is_counted_by_each_members_own_size(whole: Result) -> None:
    """Tokens and FLOPs of every segment, and of all together."""
    found, steps = sizes(whole), 5
    for row in whole.rows["outcomes"]:
        assert row["tokens"] == found[row["member"], row["segment"]] * CONTEXT * steps
    outcomes = whole.rows["outcomes"]
    per_token = {row["flops"] / row["tokens"] for row in outcomes}
    assert max(per_token) == pytest.approx(min(per_token))
    assert whole.rows["usage"][-1]["tokens"] == sum(row["tokens"] for row in outcomes)


def test_more_generations_later_are_as_good_as_at_once(tmp_path: Path, text: str, whole: Result) -> None:
    """Stopped, saved and brought back, members are in other slots of their buckets' stacks: all is the same."""
    first = sweep(tmp_path, text, generations=3).run(progress=False)
    extended = pbt.extend(first.path, generations=6, progress=False)
    assert extended.digest() == whole.digest()
    assert [row["score"] for row in _in_order(extended)] == [row["score"] for row in _in_order(whole)]


def _in_order(result: Result) -> list[Any]:
    return sorted(result.rows["outcomes"], key=lambda row: (row["member"], row["segment"]))


def test_a_budget_of_tokens_is_not_exceeded(tmp_path: Path, text: str) -> None:
    """What the next round takes is reckoned with the largest size, as nobody knows who will have which."""
    budget = {"members": 6, "generations": 50, "steps": 5, "tokens": 5_000}
    result = sweep(tmp_path, text, budget=budget).run(progress=False)
    used = sum(row["tokens"] for row in result.rows["outcomes"])
    assert 5_000 - 6 * 5 * 7 * CONTEXT < used <= 5_000
    finish = [row for row in result.rows["decisions"] if row["kind"] == "finish"][-1]
    assert "tokens are used up" in finish["reason"]


def test_a_wider_space_is_reckoned_with(tmp_path: Path, text: str) -> None:
    """Extended to larger sizes, the sweep still ends inside its budget of tokens."""
    first = sweep(tmp_path, text, generations=2, space=SPACE | {"batch_size": Choice([2, 4])}).run(progress=False)
    wider = SPACE | {"batch_size": Choice([2, 4, 32])}
    extended = pbt.extend(first.path, generations=50, tokens=20_000, space=wider, progress=False)
    assert 32 in sizes(extended).values()
    assert 20_000 - 6 * 5 * 32 * CONTEXT < sum(row["tokens"] for row in extended.rows["outcomes"]) <= 20_000


def test_a_budget_that_not_one_generation_fits_into_is_refused(tmp_path: Path, text: str) -> None:
    """Of the largest size."""
    most = 6 * 5 * 7 * CONTEXT
    budget = {"members": 6, "generations": 3, "steps": 5, "tokens": most - 1}
    with pytest.raises(SpecError, match=f"Write {most} or more"):
        sweep(tmp_path, text, budget=budget).run(progress=False)


@pytest.mark.parametrize("name", ["mf_pb2", "pb2", "ipbt"])
def test_other_strategies_vary_it_too(tmp_path: Path, text: str, name: str) -> None:
    """Models of gains, and weights that are shrunk on the way into another bucket."""
    strategy = pbt.IPBT(patience=1) if name == "ipbt" else name
    space = SPACE | {"batch_size": Int(2, 7)}
    budget = {"members": 8, "generations": 6, "steps": 3}
    result = sweep(tmp_path, text, strategy=strategy, space=space, budget=budget).run(progress=False)
    assert result.winner is not None
    assert len(set(sizes(result).values())) > 3


def test_the_exported_script_moves_as_the_member_did(tmp_path: Path, text: str, whole: Result) -> None:
    """A schedule with several sizes is trained from scratch."""
    folder = pbt.export(whole, tmp_path / "winner")
    schedule = [step.hparams["batch_size"] for step in whole.best.schedule]
    done = subprocess.run(
        [sys.executable, folder / "train.py", "--device", "cpu"], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == len(schedule)


@dataclass(frozen=True)
class Deep:
    """A trainable whose members may have another depth, with which no weights can be shared."""

    def describe(self) -> Capabilities:
        known = Quadratic().describe()
        return replace(known, hparams={**known.hparams, "depth": HparamSpec(kind="structural", default=2, low=1)})

    def bucket(self, hparams: Hparams) -> str:
        return Quadratic().bucket({})

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        return Quadratic().build(bucket, capacity, place)


def test_what_cannot_share_weights_is_refused_with_the_mend() -> None:
    """Before anything starts."""
    budget = {"members": 2, "generations": 2, "steps": 1}
    with pytest.raises(SpecError, match=r"space.depth: is structural: .* run a sweep for each value"):
        pbt.Sweep(trainable=Deep(), space={"depth": Int(1, 3)}, objective="Q", budget=budget)


@pytest.mark.full
@pytest.mark.ray
def test_under_ray_it_is_the_same(ray_cluster: None, tmp_path: Path, text: str, whole: Result) -> None:
    """Hosts in other processes, states of other buckets through the object store: scores agree bit for bit."""
    there = sweep(tmp_path, text, hosts={"kind": "ray", "stacks": 2}).run(progress=False)
    assert there.digest() == whole.digest()
    assert [row["score"] for row in _in_order(there)] == [row["score"] for row in _in_order(whole)]
