"""Sweeps whose members change their batch sizes: they move between buckets, and what they cost is counted as it is."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pbt
from pbt.errors import SpecError
from pbt.member import SegmentKey
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


@pytest.mark.full
def test_the_exported_script_moves_as_the_member_did(tmp_path: Path, text: str, whole: Result) -> None:
    """A schedule with several sizes is trained from scratch."""
    folder = pbt.export(whole, tmp_path / "winner")
    schedule = [step.hparams["batch_size"] for step in whole.best.schedule]
    done = subprocess.run(
        [sys.executable, folder / "train_winner.py", "--device", "cpu"], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == len(schedule)


#: Depths are an option of the trainable; `heads` are those of the deepest only.
DEPTHS = SPACE | {"depth": Choice([1, 2, 3]), "heads": Choice([1, 2], when={"depth": 3})}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, text: str) -> Result:
    """A sweep over models of several depths that nobody disturbed."""
    return sweep(tmp_path_factory.mktemp("grown"), text, space=DEPTHS, seed=1).run(progress=False)


def check_structure(result: Result) -> int:
    """Depth and heads change with weights and never otherwise; returns how often they did."""
    moved = 0
    for segment in result.lineage.segments.values():
        own = (segment.hparams["depth"], segment.hparams["heads"])
        if segment.parent is not None:
            donor = result.lineage.segments[segment.parent].hparams
            assert own == (donor["depth"], donor["heads"])
        if segment.key.index:
            before = result.lineage.segments[SegmentKey(segment.key.member, segment.key.index - 1)].hparams
            moved += own != (before["depth"], before["heads"])
    return moved


def test_models_of_several_depths_are_one_population(grown: Result) -> None:
    """An option of the trainable, named in the space: who takes over weights takes over their depth."""
    assert {segment.hparams["depth"] for segment in grown.lineage.segments.values()} == {1, 2, 3}
    assert check_structure(grown) >= 3
    assert not grown.rows["incidents"]
    assert {row["flops"] for row in grown.rows["outcomes"]} == {None}


def test_they_go_on_later_as_if_never_interrupted(tmp_path: Path, text: str, grown: Result) -> None:
    """Stopped, saved and brought back: each into a stack of its own model."""
    first = sweep(tmp_path, text, generations=3, space=DEPTHS, seed=1).run(progress=False)
    extended = pbt.extend(first.path, generations=6, progress=False)
    assert extended.digest() == grown.digest()
    assert [row["score"] for row in _in_order(extended)] == [row["score"] for row in _in_order(grown)]


@pytest.mark.full
def test_their_winners_schedule_is_replayed_and_exported(tmp_path: Path, grown: Result) -> None:
    """With the model that won; random search draws models, too."""
    compared = pbt.replay(grown, seeds=2, progress=False)
    assert compared.result.winner is not None
    assert not compared.result.rows["incidents"]
    done = subprocess.run(
        [sys.executable, pbt.export(grown, tmp_path / "winner") / "train_winner.py", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == len(grown.best.schedule)


@pytest.mark.parametrize(
    "strategy",
    ["mf_pb2", "pb2", pbt.IPBT(patience=1), pbt.PBT(quantile=0.5, explore="resample"), pbt.PBT(inherit_hparams=False)],
    ids=["mf_pb2", "pb2", "ipbt", "resample", "own hyperparameters"],
)
def test_every_strategy_keeps_weights_and_models_together(tmp_path: Path, text: str, strategy: Any) -> None:
    """Whatever it proposes; the bandit's own model is asked here."""
    budget = {"members": 8, "generations": 7, "steps": 2}
    result = sweep(tmp_path, text, strategy=strategy, space=DEPTHS, budget=budget).run(progress=False)
    assert check_structure(result) >= 1
    assert not result.rows["incidents"]


BUDGET = {"members": 2, "generations": 2, "steps": 1}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"depth": Float(1.0, 3.0)}, r"space.depth: is structural: .* Write a choice"),
        ({"width": Int(8, 800)}, r"space.width: is structural: .* of 64 values at most"),
        ({"heads": Choice([2, 3])}, r"space.heads: reaches 3.*width"),
        ({"context": Choice([8, 16])}, r"space.context: reaches 16.* other tokens in a step"),
        (SPACE | {"depth": Choice([1, 2], when={"batch_size": 2})}, r"space.depth.when: .* batch_size"),
        ({"dpeth": Int(1, 3)}, r"space.dpeth: is no hyperparameter of the trainable, and no option of it.*'depth'"),
    ],
)
def test_what_members_of_one_population_cannot_differ_in_is_refused(text: str, space: Any, message: str) -> None:
    """Before anything starts."""
    with pytest.raises(SpecError, match=f"(?s){message}"):
        sweep(Path("unused"), text, space=space, budget=BUDGET)


@dataclass(frozen=True)
class Own:
    """A trainable that has a structural hyperparameter of its own, with which no weights can be shared."""

    def describe(self) -> Capabilities:
        known = Quadratic().describe()
        depth = HparamSpec(kind="structural", default=2, low=1)
        return dataclasses.replace(known, hparams={**known.hparams, "depth": depth})

    def bucket(self, hparams: Hparams) -> str:
        return f"depth {hparams.get('depth', 2)}"

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        return OwnStack(Quadratic().build(Quadratic().bucket({}), capacity, place), int(bucket.split()[1]))


class OwnStack:
    """Quadratics that say what depth they have."""

    def __init__(self, stack: Stack, depth: int) -> None:
        self.stack, self.depth, self.capacity = stack, depth, stack.capacity

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stack, name)

    def admit(self, slot: int, hparams: Hparams, *rest: Any) -> None:
        assert hparams.get("depth", 2) == self.depth
        self.stack.admit(slot, {name: value for name, value in hparams.items() if name != "depth"}, *rest)

    def hparams(self, slot: int) -> dict[str, Any]:
        return {**self.stack.hparams(slot), "depth": self.depth}


def test_a_structural_hyperparameter_of_the_trainables_own(tmp_path: Path) -> None:
    """Is as an option is."""
    space, budget = {"h0": Float(0.0, 1.0), "depth": Int(1, 3)}, {"members": 6, "generations": 6, "steps": 2}
    result = sweep(tmp_path, "", trainable=Own(), space=space, budget=budget, objective="Q").run(progress=False)
    segments = result.lineage.segments
    for segment in segments.values():
        assert segment.parent is None or segment.hparams["depth"] == segments[segment.parent].hparams["depth"]
    assert not result.rows["incidents"]


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.parametrize("space", [SPACE, DEPTHS], ids=["sizes", "depths"])
def test_under_ray_it_is_the_same(
    ray_cluster: None, tmp_path: Path, text: str, whole: Result, grown: Result, space: Any
) -> None:
    """Hosts in other processes, states of other buckets through the object store: scores agree bit for bit."""
    seed = 0 if space is SPACE else 1
    there = sweep(tmp_path, text, space=space, seed=seed, hosts={"kind": "ray", "stacks": 2}).run(progress=False)
    here = whole if space is SPACE else grown
    assert there.digest() == here.digest()
    assert [row["score"] for row in _in_order(there)] == [row["score"] for row in _in_order(here)]
