"""Hosts as Ray Tune trials.

Tune owns resources, placement and the life of the trials. A trial is a host: it asks the brain for work, carries it
out on its stacks, and brings the reports with its next question. Which stacks a host has is settled when it asks, so
a sweep with more stacks than hosts, or a host that starts late, cannot deadlock: an idle host takes the stacks nobody
has. A host that dies is started anew by Tune, empty; the brain has what was lost trained again. Tune's own scheduler,
searcher, checkpoints and restore are not used.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ray
import torch
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pbt.errors import HostError, PbtError, first_line
from pbt.runtime.brain_actor import BrainActor, MakeBrain, Turn, unwrap, wrap
from pbt.runtime.cluster import num_devices, resources
from pbt.runtime.exchange import Staging, Withdrawn
from pbt.runtime.gang import Gang
from pbt.runtime.notice import Notice
from pbt.runtime.orders import Leaves, StackReport, WorkOrder, attempt, publish, trouble_of
from pbt.runtime.planning import ToBuild, settled
from pbt.runtime.telemetry import Telemetry
from trainables import Place, Stack, State, Trainable
from trainables.core.plan import Ahead

#: Seconds that a host takes turns before Tune hears of them, and works on orders before the brain hears of those done.
_RESULT_S = 1.0


@dataclass(frozen=True, slots=True)
class RayExchange:
    """The exchange of hosts in different processes: states lie in the object store, references in the brain.

    Attributes:
        brain: The brain's actor.
        host: Whose exchange it is.
        life: Name of that host's life.
        order: What its states are for.
        staging: Where states are packed.
        announced: Calls that make references known; each is done before the host's next report.
    """

    brain: Any
    host: int
    life: str
    order: WorkOrder
    staging: Staging
    announced: list[Any]
    copies: ClassVar[bool] = True

    def publish(self, token: str, state: State) -> None:
        """Pack a state into the object store and have its reference made known."""
        self.announced.append(self.brain.publish.remote(self.host, self.life, token, wrap(state, self.staging)))

    def fetch(self, token: str) -> State:
        """Wait for a state; its tensors are read-only views into the object store.

        Raises:
            Withdrawn: It does not come, or is lost.
        """
        asker = (self.host, self.life, self.order.stack, self.order.id, token)
        reference = ray.get(self.brain.fetch.remote(*asker))
        if reference is None:
            raise Withdrawn
        try:
            return unwrap(reference)
        except ray.exceptions.ObjectLostError as error:
            ray.get(self.brain.fetch.remote(*asker, is_unreadable=True))
            raise Withdrawn from error


@dataclass(frozen=True, slots=True)
class Work:
    """What every host of a sweep is given: whom to ask, and what to build where."""

    brain: Any
    trainable: Trainable
    data: Mapping[str, Any]
    bucket: str
    place: Place
    each: Mapping[str, float]
    ahead: Ahead | None = None


def _difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return ", ".join(f"{name} {found.get(name)!r} instead of {wanted[name]!r}" for name in names[:3])


class Host(tune.Trainable):
    """A Tune trial that hosts stacks. It knows nothing that the brain does not tell it."""

    def setup(self, config: dict[str, Any], *, work: Work) -> None:
        """Called by Tune in the trial's new actor. What may fail comes later: Tune starts only those anew that run."""
        self._host: int = config["host"]
        self._work = work
        self._life = ""
        self._telemetry: Telemetry | Gang | None = None
        self._gang: Gang | None = None
        self._notice = Notice()
        self._staging, self._announced = Staging(), list[Any]()
        self._stacks: dict[int, Stack] = {}
        self._orders: deque[tuple[WorkOrder, float]] = deque()  # to be carried out, and when they were given
        self._reports: list[StackReport] = []
        self._segments = 0

    def ping(self) -> None:
        """Asked by the brain, to hear of this actor's end."""

    def step(self) -> dict[str, Any]:
        """Turns, for a while: what Tune does about a result takes longer than a turn of ours may."""
        if self._telemetry is None:
            self._begin()
        until = time.monotonic() + _RESULT_S
        try:
            while True:
                result = self._turn()
                if result["done"] or time.monotonic() >= until:
                    return result
        except Leaves as leaves:
            self._await_announced()
            ray.get(self._work.brain.leave.remote(self._host, self._life, self._reports, str(leaves)))
            raise

    def _turn(self) -> dict[str, Any]:
        """Bring the last reports, take the next orders, carry out those there is time for."""
        work = self._work
        self._await_announced()
        if self._notice.is_given:
            self._forgo()
        reports, self._reports = self._reports, []
        is_busy = bool(self._orders)
        asked = work.brain.exchange.remote(self._host, self._life, reports, self._notice.is_given, is_busy)
        turn: Turn = ray.get(asked)
        if not turn.is_known:
            self._join()
            return self._result(turn)
        for stack in turn.drop:
            self._drop(stack)
        if self._notice.is_final and not (self._stacks or turn.done):
            raise Leaves("its process was told to end, and its stacks were moved")
        for item in turn.build:
            self._try_to_build(item)
        if turn.is_stopping:
            self._forgo()
        self._take(turn.orders)
        self._carry_out()
        return self._result(turn)

    def _forgo(self) -> None:
        """Give back what is not begun: there may not be time for it, or nobody wants it any more."""
        names = [(order.stack, order.id) for order, _ in self._orders]
        self._orders.clear()
        if names:
            ray.get(self._work.brain.forgo.remote(self._host, self._life, names))

    def _take(self, orders: Sequence[WorkOrder]) -> None:
        """Publish at once: an order may fetch what another, of this host or elsewhere, publishes."""
        now = time.monotonic()
        self._orders += [(order, now) for order in orders]
        for order in orders:
            publish(self._stacks[order.stack], order, self._exchange(order))

    def _carry_out(self) -> None:
        """One order after another, until the brain should hear of those that are done."""
        until = time.monotonic() + _RESULT_S
        while self._orders:
            order, given = self._orders.popleft()
            report = attempt(self._stacks[order.stack], order, self._exchange(order), self._telemetry, given)
            if report is not None:  # otherwise it is forgotten: a state did not come, and the brain gives it again
                self._reports.append(report)
                self._segments += len(report.segments)
                self._heed(report)
            if time.monotonic() >= until:
                return

    def _heed(self, report: StackReport) -> None:
        """Draw the consequences of an order that broke off; it does not concern other stacks."""
        if report.trouble is None:
            return
        del self._stacks[report.stack]  # what it holds nobody knows; its memory is free before another is built
        if report.trouble.is_lasting:
            raise Leaves("its process could use its device no more")
        if self._gang is not None:  # other ranks have ended, or wait for a step that this one broke off
            raise Leaves("all its processes are started anew, as one of them broke off")

    def _result(self, turn: Turn) -> dict[str, Any]:
        """What Tune hears of a turn, and its reporter shows."""
        return {"done": turn.done, "stacks": len(self._stacks), "segments": self._segments}

    def _await_announced(self) -> None:
        """Ray may carry calls out in another order; what a report says was published must be known by then."""
        ray.get(self._announced)
        self._announced.clear()

    def _begin(self) -> None:
        work = self._work
        if torch.device(work.place.device).type == "cpu":
            torch.set_num_threads(1)
        if (found := dict(work.trainable.describe().data)) != dict(work.data):
            differences = _difference(work.data, found)
            raise HostError(f"node {socket.gethostname()} has other data than the driver: {differences}")
        if work.place.world_size > 1:
            self._gang = Gang(work.trainable, work.place, ray.util.get_current_placement_group(), work.each)
        node = ray.get_runtime_context().get_node_id()
        self._telemetry = self._gang or Telemetry(work.place, share=work.each.get("GPU", 1.0), node=node)
        self._join()

    def _join(self) -> None:
        self._stacks = {}
        self._orders.clear()
        actor = ray.get_runtime_context().current_actor
        self._life = ray.get(self._work.brain.join.remote(self._host, actor))

    def _try_to_build(self, item: ToBuild) -> None:
        """Build a stack, or end this process: what is left of one that could not be built nobody knows."""
        try:
            self._build(item)
        except Leaves:
            raise
        except Exception as error:
            call = self._work.brain.unbuilt.remote(self._host, self._life, item.stack, trouble_of(error))
            ray.get(call)
            raise Leaves("a stack could not be built") from error

    def _build(self, item: ToBuild) -> None:
        work = self._work
        place, new = settled(item, work.trainable, work.bucket, work.place, work.ahead)
        if new is not None:
            ray.get(work.brain.planned.remote(self._host, self._life, item.stack, new))
        if self._gang is not None:
            self._stacks[item.stack] = self._gang.build(item.stack, work.bucket, place)
        else:
            self._stacks[item.stack] = work.trainable.build(work.bucket, item.capacity, place)

    def _drop(self, stack: int) -> None:
        del self._stacks[stack]
        if self._gang is not None:
            self._gang.drop(stack)

    def _exchange(self, order: WorkOrder) -> RayExchange:
        return RayExchange(self._work.brain, self._host, self._life, order, self._staging, self._announced)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: a host has no state of its own."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing: a host has no state of its own."""


class _End(tune.Stopper):
    """Ends all trials once one has heard of the end, so that nobody waits for those that never came up."""

    def __init__(self) -> None:
        self.is_near = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A single trial ends of itself."""
        return False

    def stop_all(self) -> bool:
        """Whether it is the end."""
        return self.is_near


class _Failures(tune.Callback):
    """Watches, in the driver, hosts that fail and are started anew: too many in a row are the end.

    Args:
        brain: Says whether anything was trained in between.
        most: Failures of one host in a row that are borne.
        end: Told of the end.
    """

    def __init__(self, brain: Any, most: int, end: _End) -> None:
        self._brain, self._most, self._end = brain, most, end
        self._failed: dict[str, tuple[int, int]] = {}
        self.error: BaseException | None = None

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A host has heard of the end."""
        self._end.is_near = True

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A host failed, and Tune starts it anew."""
        cause = _cause(trial.get_error())
        if isinstance(cause, Leaves):
            return
        trained = ray.get(self._brain.num_trained.remote())
        before, in_a_row = self._failed.get(trial.trial_id, (trained, 0))
        in_a_row = in_a_row + 1 if trained == before else 1
        self._failed[trial.trial_id] = trained, in_a_row
        if isinstance(cause, PbtError) or in_a_row > self._most:
            problem = f"a host failed {in_a_row} times in a row without anything having been trained in between"
            self.error, self._end.is_near = cause or HostError(problem), True


def _cause(error: Any) -> Any:
    """What a host raised: Ray wraps it."""
    return getattr(error, "cause", None) or error


def run_tune(
    make_brain: MakeBrain,
    *,
    run: Path,
    num_stacks: int,
    trainable: Trainable,
    bucket: str,
    place: Place,
    ahead: Ahead | None = None,
    gpus: float = 1.0,
    retries: int = 5,
    hang_s: float = 3600.0,
    has_reporter: bool = False,
    is_to_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run a sweep to its end as Ray Tune trials, or until it is stopped. Ray must be up (see `cluster`).

    Args:
        make_brain: Builds the brain inside its actor.
        run: The run's folder, on this node; the brain is pinned here.
        num_stacks: Number of stacks the sweep is laid out on. There are as many trials: those the cluster has no room
            for wait until it has.
        trainable: What is trained.
        bucket: The bucket of all stacks.
        place: Device and precision.
        ahead: What there is to train, for the planner; None plans nothing.
        gpus: Of a host; see `spec.Hosts`.
        retries: See there.
        hang_s: Seconds that a host may take for an order; see `spec.Hosts.hang_minutes`.
        has_reporter: Whether Tune's own reporter prints its status of hosts.
        is_to_stop: Asked now and then, on this node; once true, what is under way is finished and saved, and that is
            all.

    Raises:
        HostError: The sweep could not go on.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(BrainActor).options(
        name=f"pbt-brain-{run.name}",
        num_cpus=0,
        max_concurrency=100_000,  # hosts wait in their calls, however many there are
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=here,
    )
    num_hosts = min(num_stacks, num_devices(place, gpus))
    brain = actor.remote(make_brain, str(run.absolute()), num_hosts, hang_s, is_to_stop)
    try:
        each = resources(place, gpus)
        work = Work(brain, trainable, trainable.describe().data, bucket, place, each, ahead)
        _fit(work, run, num_stacks, retries, has_reporter)
        problem: HostError | None = ray.get(brain.close.remote())
    except BaseException:
        with suppress(ray.exceptions.RayError):  # what went wrong first is the news
            ray.get(brain.close.remote())
        raise
    finally:
        ray.kill(brain)
    if problem is not None:
        raise problem


def _fit(work: Work, run: Path, num_trials: int, retries: int, has_reporter: bool) -> None:
    end = _End()
    failures = _Failures(work.brain, retries, end)
    bundles = [dict(work.each)] * work.place.world_size
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Host, work=work), tune.PlacementGroupFactory(bundles)),
        param_space={"host": tune.grid_search(list(range(num_trials)))},
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(run.absolute()),
            verbose=2 if has_reporter else 0,  # 1 says nothing of single hosts
            stop=end,
            callbacks=[failures],
            failure_config=tune.FailureConfig(max_failures=-1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        results = tuner.fit()
    finally:
        shutil.rmtree(run / "tune", ignore_errors=True)  # Tune's own pickles: the ledger is the record
    error = failures.error or next(iter(results.errors), None)
    if error is not None:
        cause = _cause(error)
        said = str(cause) if isinstance(cause, PbtError) else first_line(cause)
        raise HostError(f"a host stopped: {said}. --debug shows where.") from error
