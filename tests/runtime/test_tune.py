"""Hosts, without Ray and Tune: they do what the brain tells them, and know nothing else."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from pbt.errors import HostError
from pbt.runtime import tune as hosts
from pbt.runtime.brain_actor import Turn
from pbt.runtime.exchange import Staging
from pbt.runtime.orders import Admit, Fetch, Publish, StackReport, Train, Trouble, WorkOrder
from pbt.runtime.planning import ToBuild
from pbt.runtime.tune import Host, Leaves, RayExchange, Work
from tests.runtime.miniature import Clear, make_state, weight_of
from trainables import Place


class Remote:
    """An actor whose methods are called as those of Ray's, answers being there at once."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.asked: list[tuple[int, str, int]] = []
        self.leaving: list[bool] = []
        self.busy: list[bool] = []
        self.references: dict[str, Any] = {}
        self.unreadable: list[str] = []
        self.left: list[StackReport] = []
        self.not_built: list[tuple[int, Trouble]] = []
        self.why: list[str] = []
        self._turns, self._lives = iter(turns), iter("abc")
        self.forgone: list[tuple[int, str]] = []
        for name in ("join", "exchange", "forgo", "leave", "unbuilt", "publish", "fetch"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    def _join(self, host: int, actor: Any) -> str:
        return next(self._lives)

    def _exchange(self, host: int, life: str, reports: Sequence[StackReport], is_leaving: bool, is_busy: bool) -> Turn:
        self.asked.append((host, life, len(reports)))
        self.leaving.append(is_leaving)
        self.busy.append(is_busy)
        return next(self._turns)

    def _forgo(self, host: int, life: str, orders: Sequence[tuple[int, str]]) -> None:
        self.forgone += orders

    def _leave(self, host: int, life: str, reports: Sequence[StackReport], why: str) -> None:
        self.left += reports
        self.why.append(why)

    def _unbuilt(self, host: int, life: str, stack: int, trouble: Trouble) -> None:
        self.not_built.append((stack, trouble))

    def _publish(self, host: int, life: str, token: str, reference: Any) -> str:
        self.references[token] = reference
        return f"{token} is known"

    def _fetch(self, host: int, life: str, stack: int, order: str, token: str, is_unreadable: bool = False) -> Any:
        if is_unreadable:
            self.unreadable.append(token)
            return None
        return self.references.get(token)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Hosts take SIGTERM for notice."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def make_host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host, its trainable and what it asks, without Tune, which hears of every turn; every order takes long."""
    monkeypatch.setattr(hosts, "_RESULT_S", 0.0)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(ray, "put", lambda value: value)
    context = SimpleNamespace(current_actor="itself", get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)

    def make(*turns: Turn, data: Any = None) -> tuple[Host, Remote, Clear]:
        trainable, remote = Clear(), Remote(turns)
        host = object.__new__(Host)
        data = dict(trainable.describe().data) if data is None else data
        host.setup({"host": 3}, work=Work(remote, trainable, data, "clear", Place(device="cpu"), {"CPU": 1.0}))
        return host, remote, trainable

    return make


def order(stack: int, **parts: Any) -> WorkOrder:
    """A work order."""
    return WorkOrder(id=f"order:1:{stack}", stack=stack, split="validation", **parts)


def test_a_host_builds_what_it_is_given_and_brings_its_reports(make_host: Any) -> None:
    """With the next question, to the brain that gave the orders."""
    turns = (
        Turn((ToBuild(0, 2), ToBuild(1, 1)), (order(0),)),
        Turn(),
        Turn(done=True),
    )
    host, remote, trainable = make_host(*turns)
    both = {"stacks": 2, "segments": 0}
    assert [{"done": False, **both}, {"done": False, **both}, {"done": True, **both}] == [host.step() for _ in turns]
    assert [(3, "a", 0), (3, "a", 1), (3, "a", 0)] == remote.asked
    assert [2, 1] == [stack.capacity for stack in trainable.built]


def test_a_report_does_not_wait_for_the_other_stacks_of_its_host(make_host: Any) -> None:
    """What others may read is published when the order is given, whatever is to be done before."""
    give = {"publish": (Publish(0, "0:0"),)}
    fresh = {"admit": (Admit(0, {"gain": 1.0}, 1, 0),), "train": (Train(0, 0, 0, 10, {"gain": 1.0}),)}
    host, remote, _ = make_host(
        Turn((ToBuild(0, 1), ToBuild(1, 1), ToBuild(2, 1)), tuple(order(stack, **fresh) for stack in range(3))),
        Turn(orders=(order(0, **give),)),
        Turn(),
        Turn(),
        Turn(),
    )
    host.step()
    assert [0] == [report.stack for report in host._reports]
    host.step()
    assert {"0:0"} == remote.references.keys()
    assert [1] == [report.stack for report in host._reports]
    for stack in (2, 0):
        host.step()
        assert [stack] == [report.stack for report in host._reports]
    host.step()
    assert [False, True, True, True, False] == remote.busy


def test_orders_that_take_no_time_are_reported_together(make_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question takes as long as they do."""
    host, remote, _ = make_host(Turn((ToBuild(0, 1), ToBuild(1, 1)), (order(0), order(1))), Turn(), Turn(done=True))
    monkeypatch.setattr(hosts, "_RESULT_S", 60.0)
    host.step()
    assert [0, 2, 0] == [reports for _, _, reports in remote.asked]


def test_tune_hears_of_many_turns_together(make_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does about a result takes longer than a turn may; of the end it hears at once."""
    turns = (Turn((ToBuild(0, 2),), (order(0),)), Turn(orders=(order(0),)), Turn(), Turn(done=True))
    host, remote, _ = make_host(*turns)
    monkeypatch.setattr(hosts, "_RESULT_S", 60.0)
    assert {"done": True, "stacks": 1, "segments": 0} == host.step()
    assert [(3, "a", 0), (3, "a", 1), (3, "a", 1), (3, "a", 0)] == remote.asked


def test_a_host_that_is_not_known_gives_up_its_stacks_and_joins_anew(make_host: Any) -> None:
    """By another brain, or because it was given up: nobody knows what they hold. What it is given is built anew."""
    turns = (
        Turn((ToBuild(0, 2), ToBuild(1, 2)), (order(1), order(0))),
        Turn(is_known=False),
        Turn((ToBuild(1, 2),), (order(1),)),
        Turn(done=True),
    )
    host, remote, trainable = make_host(*turns)
    assert [2, 0, 1, 1] == [host.step()["stacks"] for _ in turns]
    assert [(3, "a", 0), (3, "a", 1), (3, "b", 0), (3, "b", 1)] == remote.asked
    assert 3 == len(trainable.built)
    assert host._stacks[1] is trainable.built[2]


def test_an_order_whose_state_does_not_come_is_forgotten(make_host: Any) -> None:
    """The brain gives it again; the stack is as it was, and the host's other orders are carried out."""
    fetch = Fetch(0, "9:9", {}, 0, 0)
    turns = (
        Turn((ToBuild(0, 1), ToBuild(1, 1)), (order(0, fetch=(fetch,)), order(1))),
        Turn(),
        Turn(),
    )
    host, remote, _ = make_host(*turns)
    assert [2, 2, 2] == [host.step()["stacks"] for _ in turns]
    assert [(3, "a", 0), (3, "a", 0), (3, "a", 1)] == remote.asked


def test_a_state_that_is_lost_is_said_to_be_so(make_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node is gone, perhaps; the order is forgotten."""
    host, remote, _ = make_host(Turn((ToBuild(0, 1),), (order(0, fetch=(Fetch(0, "9:9", {}, 0, 0),)),)), Turn())
    remote.references["9:9"] = ["gone"]

    def get(reference: Any) -> Any:
        if reference == "gone":
            raise ray.exceptions.ObjectLostError("9:9", None, "")
        return reference

    monkeypatch.setattr(ray, "get", get)
    host.step()
    host.step()
    assert ["9:9"] == remote.unreadable
    assert [0, 0] == [reports for _, _, reports in remote.asked]


def broken(error: Exception) -> Any:
    """A `run` that breaks off."""

    def run(until: Any) -> Any:
        raise error

    return run


def test_a_stack_that_breaks_off_is_reported_and_let_go(make_host: Any) -> None:
    """With its traceback; the host's other stack goes on."""
    fresh = {"admit": (Admit(0, {"gain": 1.0}, 1, 0),), "train": (Train(0, 0, 0, 10, {"gain": 1.0}),)}
    host, _, trainable = make_host(
        Turn((ToBuild(0, 1), ToBuild(1, 1))), Turn(orders=(order(0, **fresh), order(1, **fresh))), Turn()
    )
    host.step()
    trainable.built[0].run = broken(RuntimeError("no such layer"))
    assert 1 == host.step()["stacks"]
    (first,) = host._reports
    assert 0 == first.stack
    assert "RuntimeError: no such layer" == first.trouble.message
    assert "Traceback" in first.trouble.traceback
    host.step()
    (second,) = host._reports
    assert 1 == second.stack == host._segments
    assert second.trouble is None
    assert [10] == [result.consumed for result in second.segments]


def test_a_host_whose_device_can_be_used_no_more_says_so_and_ends(make_host: Any) -> None:
    """Tune starts another process in its place."""
    fresh = {"admit": (Admit(0, {"gain": 1.0}, 1, 0),), "train": (Train(0, 0, 0, 10, {"gain": 1.0}),)}
    host, remote, trainable = make_host(Turn((ToBuild(0, 1),)), Turn(orders=(order(0, **fresh),)))
    host.step()
    trainable.built[0].run = broken(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(Leaves, match="could use its device no more"):
        host.step()
    assert [True] == [report.trouble.is_lasting for report in remote.left]


def test_a_stack_that_cannot_be_built_is_reported_and_its_host_ends(make_host: Any) -> None:
    """With what the trainable raised, and where."""
    host, remote, trainable = make_host(Turn((ToBuild(1, 1),)))
    trainable.build = lambda bucket, capacity, place: broken(ValueError("no such layer"))(None)
    with pytest.raises(Leaves, match="could not be built"):
        host.step()
    ((stack, trouble),) = remote.not_built
    assert (1, "ValueError: no such layer") == (stack, trouble.message)
    assert "in run" in trouble.traceback


def test_a_host_that_is_told_to_end_gives_its_stacks_back_first(make_host: Any) -> None:
    """SIGTERM is notice: it ends what it was doing, and goes once all its stacks are others'."""
    turns = (Turn((ToBuild(0, 1), ToBuild(1, 1))), Turn(drop=(1,)), Turn(drop=(0,)))
    host, remote, _ = make_host(*turns)
    assert 2 == host.step()["stacks"]
    signal.raise_signal(signal.SIGTERM)
    assert 1 == host.step()["stacks"]
    with pytest.raises(Leaves, match="its stacks were moved"):
        host.step()
    assert ["its process was told to end, and its stacks were moved"] == remote.why
    assert [False, True, True] == remote.leaving


def test_a_host_that_is_told_to_end_leaves_what_it_has_not_begun_to_others(make_host: Any) -> None:
    """It may have minutes; what it has done is reported, and its members are saved."""
    fresh = {"admit": (Admit(0, {"gain": 1.0}, 1, 0),)}
    give = {"publish": (Publish(0, "0:0"),)}
    turns = (
        Turn((ToBuild(0, 1), ToBuild(1, 1), ToBuild(2, 1)), (order(0, **fresh), order(1), order(2))),
        Turn(orders=(order(0, **give),)),
        Turn(drop=(0, 1, 2)),
    )
    host, remote, _ = make_host(*turns)
    host.step()
    signal.raise_signal(signal.SIGTERM)
    host.step()
    assert [(1, "order:1:1"), (2, "order:1:2")] == remote.forgone
    assert {"0:0"} == remote.references.keys()
    with pytest.raises(Leaves, match="its stacks were moved"):
        host.step()
    assert [0, 1, 1] == [reports for _, _, reports in remote.asked]
    assert [False, False, False] == remote.busy


def test_a_host_gives_back_what_it_has_not_begun_when_the_sweep_is_to_stop(make_host: Any) -> None:
    """And does what it is given from then on: members are saved, or brought back to be."""
    fresh, give = {"admit": (Admit(0, {"gain": 1.0}, 1, 0),)}, {"publish": (Publish(0, "0:0"),)}
    turns = (
        Turn((ToBuild(0, 1), ToBuild(1, 1)), (order(0, **fresh), order(1))),
        Turn(orders=(order(0, **give),), is_stopping=True),
        Turn(is_stopping=True, done=True),
    )
    host, remote, _ = make_host(*turns)
    for _ in turns:
        host.step()
    assert [(1, "order:1:1")] == remote.forgone
    assert [0, 1, 1] == [reports for _, _, reports in remote.asked]


def test_a_file_is_notice_as_long_as_it_is_there(
    make_host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host stays, in case it was a false alarm."""
    monkeypatch.setenv("PBT_PREEMPTION_NOTICE", str(tmp_path / "notice"))
    host, remote, _ = make_host(Turn((ToBuild(0, 1),)), Turn(drop=(0,)), Turn((ToBuild(0, 1),)))
    host.step()
    (tmp_path / "notice").touch()
    assert 0 == host.step()["stacks"]
    (tmp_path / "notice").unlink()
    assert 1 == host.step()["stacks"]
    assert [False, True, False] == remote.leaving


# --- what the driver makes of hosts that fail


class Counted:
    """A brain that says how much has been trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained = 0
        self.num_trained = SimpleNamespace(remote=lambda: self.trained)
        monkeypatch.setattr(ray, "get", lambda reference: reference)


def fails(failures: Any, trial: str, error: BaseException | None = None) -> None:
    """A trial fails, and Tune starts it anew."""
    failures.on_trial_recover(0, [], SimpleNamespace(trial_id=trial, get_error=lambda: error))


def test_a_host_that_fails_again_and_again_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing is trained in between; many hosts that fail at once are one node that was lost."""
    brain, end = Counted(monkeypatch), hosts._End()
    failures = hosts._Failures(brain, 2, end)
    for trial in "abcdefgh":
        fails(failures, trial)
    fails(failures, "a")
    brain.trained += 1
    fails(failures, "a")
    fails(failures, "a")
    assert not end.is_near
    fails(failures, "a")
    assert end.is_near
    assert "a host failed 3 times in a row" in str(failures.error)


def test_a_host_that_takes_leave_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often; one that cannot work here has, at once."""
    end = hosts._End()
    failures = hosts._Failures(Counted(monkeypatch), 0, end)
    for _ in range(3):
        fails(failures, "a", Leaves("the device can be used no more"))
    assert not end.is_near
    fails(failures, "a", HostError("this node has other data"))
    assert end.is_near
    assert "this node has other data" in str(failures.error)


def test_a_state_travels_packed(make_host: Any) -> None:
    """And comes back as it was."""
    _, remote, _ = make_host()
    exchange = RayExchange(remote, 3, "a", order(0), Staging(), [])
    exchange.publish("0:0", make_state(2.5, age=3, consumed=4, seed=5))
    state = exchange.fetch("0:0")
    assert (2.5, 3, 4, 5) == (weight_of(state), state.age, state.consumed, state.seed)


def test_what_a_report_says_was_published_is_known_by_then(make_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may carry calls out in another order; nobody waits for them while there is work to do."""
    fresh = {"admit": (Admit(0, {"gain": 1.0}, 1, 0),), "train": (Train(0, 0, 0, 10, {"gain": 1.0}),)}
    give = {"publish": (Publish(0, "0:0"),)}
    host, remote, _ = make_host(Turn((ToBuild(0, 1),), (order(0, **fresh),)), Turn(orders=(order(0, **give),)), Turn())
    waited: list[Any] = []

    def get(reference: Any) -> Any:
        if isinstance(reference, list):
            waited.append((list(reference), len(remote.asked)))
        return reference

    monkeypatch.setattr(ray, "get", get)
    for _ in range(3):
        host.step()
    assert [([], 0), ([], 1), (["0:0 is known"], 2)] == waited


def test_a_node_with_other_data_is_refused(make_host: Any) -> None:
    """Named, with the difference: training on would compare members that learn different things."""
    host, _, _ = make_host(data={"tokens": 7})
    with pytest.raises(HostError, match="has other data than the driver: tokens None instead of 7"):
        host.step()


def test_a_host_keeps_nothing(make_host: Any, tmp_path: Path) -> None:
    """Tune may save and restore it as it likes."""
    host, _, _ = make_host()
    assert {} == host.save_checkpoint(str(tmp_path))
    host.load_checkpoint({})
    assert [] == list(tmp_path.iterdir())
