"""Hosts as Ray Tune trials, and the brain as a Ray actor.

Tune owns resources, placement and the life of the trials. A trial is a host: it asks the brain for work, carries it
out on its stacks, and brings the reports with its next question. Which stacks a host has is settled when it asks, so
a sweep with more stacks than hosts, or a host that starts late, cannot deadlock: an idle host takes the stacks nobody
has. Tune's own scheduler, searcher, checkpoints and restore are not used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ray
import torch
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pbt.errors import HostError, SpecError, first_line
from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.exchange import LocalExchange, pack, unpack
from pbt.runtime.orders import StackReport, WorkOrder, perform
from pbt.runtime.planning import ToBuild, settled
from pbt.runtime.states import States, StoredStates
from pbt.runtime.telemetry import Telemetry
from trainables import Place, Stack, State, Trainable

#: Seconds a host's question may wait in the brain before it is answered with nothing to do.
_LONG_POLL_S = 5.0
#: Seconds the brain keeps a stack for a host that has not come up yet, before an idle host may take it too.
_GRACE_S = 60.0

_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a user's trainable keep their meaning
    "RAY_worker_niceness": "0",  # hosts are the work, not the background
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is for the brain, which finishes and saves what is under way
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # they are raised, in one line, by `run_tune`
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


#: Builds the brain, given what it does with published states, and whether Ray has restarted its actor.
MakeBrain: TypeAlias = Callable[[States, bool], Brain]


@dataclass(frozen=True, slots=True)
class Turn:
    """The brain's answer to a host.

    Attributes:
        epoch: Names this life of the brain. A host that knows another gives up its stacks, which nobody knows of.
        build: Stacks to build first.
        orders: Then to be carried out.
        done: Whether that is the end.
    """

    epoch: str
    build: tuple[ToBuild, ...]
    orders: tuple[WorkOrder, ...]
    done: bool


class BrainActor:
    """Holds the brain and the exchange. All its methods run on one event loop, so nothing needs a lock.

    If its process dies, Ray starts it again: it rebuilds the brain from the ledger, and the hosts begin anew with it.

    Args:
        make_brain: Builds the brain.
        run: The run's folder, on this node.
        num_hosts: Number of hosts that will come up, sooner or later.
        is_to_stop: Asked now and then whether somebody wants the sweep to stop.
    """

    def __init__(self, make_brain: MakeBrain, run: str, num_hosts: int, is_to_stop: Callable[[], bool]) -> None:
        self._epoch = secrets.token_hex(4)
        store = CheckpointStore(Path(run) / "checkpoints")
        store.sweep_leftovers()
        self._published = LocalExchange()
        self._states = StoredStates(self._published, store, self._wake, _wrap, _unwrap)
        self._brain = make_brain(self._states, ray.get_runtime_context().was_current_actor_reconstructed)
        self._is_to_stop, self._is_stopping = is_to_stop, False
        self._num_hosts = num_hosts
        self._hosts: set[int] = set()
        self._owner: dict[int, int] = {}
        self._began = time.monotonic()
        self._changed = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._brain.start()

    async def exchange(self, host: int, epoch: str, reports: Sequence[StackReport]) -> Turn:
        """Take a host's reports and answer with its next turn; waits a while if there is nothing to do."""
        self._loop = asyncio.get_running_loop()
        async with self._changed:
            if reports and epoch == self._epoch:
                self._brain.report(reports)
                self._changed.notify_all()
            turn = self._turn(host)
            try:
                async with asyncio.timeout(_LONG_POLL_S):
                    while not (turn.orders or turn.build or turn.done):
                        await self._changed.wait()
                        turn = self._turn(host)
            except TimeoutError:
                pass
            if turn.orders:
                self._changed.notify_all()  # others may have waited for what these publish
            return turn

    async def publish(self, epoch: str, token: str, reference: list[ray.ObjectRef]) -> None:
        """Make a packed state, already in the object store, known to those who wait for it."""
        async with self._changed:
            if epoch == self._epoch:
                self._published.publish(token, reference)
                self._changed.notify_all()

    async def fetch(self, epoch: str, token: str) -> list[ray.ObjectRef] | None:
        """Wait for a published state and answer with its reference; None if the asker's brain is no more."""
        async with self._changed:
            if epoch != self._epoch:
                return None
            await self._changed.wait_for(lambda: token in self._published)
            reference: list[ray.ObjectRef] = self._published.fetch(token)
            return reference

    async def planned(self, epoch: str, stack: int, plan: str) -> None:
        """Record the plan that a host has measured."""
        async with self._changed:
            if epoch == self._epoch:
                self._brain.planned(stack, plan)

    async def close(self) -> None:
        """Seal the ledger."""
        self._states.tell(self._brain)
        self._brain.close()

    def _turn(self, host: int) -> Turn:
        self._states.tell(self._brain)
        if not self._is_stopping and self._is_to_stop():
            self._is_stopping = True
            self._brain.stop()
        self._hosts.add(host)
        owned = [stack for stack, owner in self._owner.items() if owner == host]
        orders = self._brain.orders(owned)
        if orders or self._brain.done or (owned and self._is_expecting_hosts()):
            return Turn(self._epoch, (), tuple(orders), self._brain.done)
        free = [stack for stack in range(self._brain.num_stacks) if stack not in self._owner][:1]
        self._owner.update(dict.fromkeys(free, host))
        build = tuple(map(self._brain.to_build, free))
        return Turn(self._epoch, build, tuple(self._brain.orders(free)), done=False)

    def _is_expecting_hosts(self) -> bool:
        """Whether hosts may still come up, for which free stacks are kept a while."""
        return len(self._hosts) < self._num_hosts and time.monotonic() - self._began < _GRACE_S

    def _wake(self) -> None:
        """Called by the thread that saves: have the hosts look again."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._notify(), self._loop)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _wrap(state: State) -> list[ray.ObjectRef]:
    # Inside a list a reference travels as itself; bare, Ray would replace it by the object.
    return [ray.put(pack(state))]


def _unwrap(reference: list[ray.ObjectRef]) -> State:
    return unpack(ray.get(reference[0]))


class _Stale(Exception):
    """The brain that gave an order is no more, and so is what the order was to fetch."""


@dataclass(frozen=True, slots=True)
class RayExchange:
    """The exchange of hosts in different processes: states lie in the object store, references in the brain."""

    brain: Any
    epoch: str

    def publish(self, token: str, state: State) -> None:
        """Pack a state into the object store and make its reference known."""
        ray.get(self.brain.publish.remote(self.epoch, token, _wrap(state)))

    def fetch(self, token: str) -> State:
        """Wait for a state; its tensors are read-only views into the object store."""
        reference = ray.get(self.brain.fetch.remote(self.epoch, token))
        if reference is None:
            raise _Stale
        return _unwrap(reference)


@dataclass(frozen=True, slots=True)
class Work:
    """What every host of a sweep is given: whom to ask, and what to build where."""

    brain: Any
    trainable: Trainable
    data: Mapping[str, Any]
    bucket: str
    place: Place
    steps: int | None = None


def _difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return ", ".join(f"{name} {found.get(name)!r} instead of {wanted[name]!r}" for name in names[:3])


class Host(tune.Trainable):
    """A Tune trial that hosts stacks. It knows nothing that the brain does not tell it."""

    def setup(self, config: dict[str, Any], *, work: Work) -> None:
        """Called by Tune once the trial's actor is up."""
        if torch.device(work.place.device).type == "cpu":
            torch.set_num_threads(1)
        if (found := dict(work.trainable.describe().data)) != dict(work.data):
            differences = _difference(work.data, found)
            raise HostError(f"node {socket.gethostname()} has other data than the driver: {differences}")
        self._host: int = config["host"]
        self._work = work
        self._telemetry = Telemetry(work.place)
        self._epoch = ""
        self._stacks: dict[int, Stack] = {}
        self._reports: list[StackReport] = []

    def step(self) -> dict[str, Any]:
        """One turn: bring the last reports, take the next orders, carry them out."""
        work = self._work
        turn: Turn = ray.get(work.brain.exchange.remote(self._host, self._epoch, self._reports))
        if turn.epoch != self._epoch:
            self._epoch, self._stacks = turn.epoch, {}
        for item in turn.build:
            place, new = settled(item, work.trainable, work.bucket, work.place, work.steps)
            if new is not None:
                ray.get(work.brain.planned.remote(self._epoch, item.stack, new))
            self._stacks[item.stack] = work.trainable.build(work.bucket, item.capacity, place)
        try:
            self._reports = perform(self._stacks, turn.orders, RayExchange(work.brain, turn.epoch), self._telemetry)
        except _Stale:
            self._reports = []
        return {"done": turn.done, "stacks": len(self._stacks)}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: a host has no state of its own."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing: a host has no state of its own."""


def run_tune(
    make_brain: MakeBrain,
    *,
    run: Path,
    num_stacks: int,
    trainable: Trainable,
    bucket: str,
    place: Place,
    steps: int | None = None,
    is_to_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run a sweep to its end as Ray Tune trials, or until it is stopped. Ray must be up (see `cluster`).

    Args:
        make_brain: Builds the brain inside its actor.
        run: The run's folder, on this node; the brain is pinned here.
        num_stacks: Number of stacks the sweep is laid out on.
        trainable: What is trained.
        bucket: The bucket of all stacks.
        place: Device and precision.
        steps: Steps each member is going to train, for the planner; None plans nothing.
        is_to_stop: Asked now and then, on this node; once true, what is under way is finished and saved, and that is
            all.

    Raises:
        HostError: A host could not carry out its orders.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(BrainActor).options(
        name=f"pbt-brain-{run.name}",
        num_cpus=0,
        max_concurrency=1000,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=here,
    )
    num_hosts = min(num_stacks, num_devices(place))
    brain = actor.remote(make_brain, str(run.absolute()), num_hosts, is_to_stop)
    try:
        _fit(Work(brain, trainable, trainable.describe().data, bucket, place, steps), run, num_hosts)
        ray.get(brain.close.remote())
    except BaseException:
        with suppress(ray.exceptions.RayError):  # what went wrong first is the news
            ray.get(brain.close.remote())
        raise
    finally:
        ray.kill(brain)


def _fit(work: Work, run: Path, num_hosts: int) -> None:
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Host, work=work), _resources(work.place)),
        param_space={"host": tune.grid_search(list(range(num_hosts)))},
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(run.absolute()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0, fail_fast=True),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        results = tuner.fit()
    finally:
        shutil.rmtree(run / "tune", ignore_errors=True)  # Tune's own pickles: the ledger is the record
    for error in results.errors:
        cause = getattr(error, "cause", None) or error
        raise HostError(f"a host stopped: {first_line(cause)}. --debug shows where.") from error


def default_device() -> str:
    """`cuda` if the cluster has GPUs, else `cpu`."""
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def num_devices(place: Place) -> int:
    """How many hosts the cluster has room for: one for each core, or for each GPU.

    Raises:
        SpecError: There is room for none.
    """
    resources = _resources(place)
    there = ray.cluster_resources()
    room = min(int(there.get(name, 0) // amount) for name, amount in resources.items())
    if room == 0:
        needed = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
        problem = f"the Ray cluster has no room for a host: each needs {needed}"
        raise SpecError("hosts", problem, "Add a node, or set hosts.device")
    return room


def _resources(place: Place) -> dict[str, float]:
    return {"CPU": 1.0, "GPU": 1.0} if place.device.startswith("cuda") else {"CPU": 1.0}


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Ray, up: the one this process is connected to already, the one at `address`, or one started for the occasion.

    Args:
        address: Address of a running cluster, `auto`, or None: inside a Ray job (or with `RAY_ADDRESS` set) that
            cluster is joined, elsewhere Ray is started here, and its session files are removed at the end.

    Raises:
        SpecError: There is no cluster at the address.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with _session_folder() as folder:
        _connect(address or os.environ.get("RAY_ADDRESS"), folder)
        try:
            with _terminating_like_an_interrupt():
                yield
        finally:
            ray.shutdown()


def _connect(address: str | None, folder: Path) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            ray.init(address=address, runtime_env={"env_vars": _ENVIRONMENT}, **quiet)
            return
        # A token of this process's own: Ray would write one to the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(address="local", include_dashboard=False, _temp_dir=str(folder), **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        problem = f"Ray cannot be reached at {address!r}" if address else "Ray cannot be started here"
        mend = "Start it with `ray start --head`, or leave the address out" if address else "Try hosts.kind: local"
        raise SpecError("hosts.address", f"{problem} ({first_line(error)})", mend) from error


@contextmanager
def _session_folder() -> Iterator[Path]:
    """A folder for Ray's session files that is removed at the end; near the root, as Ray's sockets need short paths."""
    folder = Path(tempfile.mkdtemp(prefix="pbt-ray-", dir="/tmp" if Path("/tmp").is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _terminating_like_an_interrupt() -> Iterator[None]:
    """SIGTERM (a batch system, `docker stop`) ends a sweep as Ctrl-C does; Ray's own handler would abort it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
