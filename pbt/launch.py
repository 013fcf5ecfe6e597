"""A resolved sweep brought to where it trains: device and stacks settled, brain and hosts started, and watched."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import searchspaces
from pbt.errors import HostError, PbtError, SpecError, first_line
from pbt.member import lay_out
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.result import Result
from pbt.record.runs import Run, ask_to_stop, forget_end, is_asked_to_stop
from pbt.report.watch import Watch
from pbt.runtime.brain import Brain
from pbt.runtime.budget import Limits, check_limits
from pbt.runtime.local import num_cores
from pbt.runtime.machine import git_commit, hardware, software
from pbt.runtime.meter import can_measure
from pbt.runtime.plan import PerExample, Plan, Session
from pbt.runtime.states import States
from pbt.spec import Budget, Hosts, SweepSpec, from_dict, require, to_dict
from pbt.strategy import SearchStrategy, StrategyOptions, Task
from searchspaces import Space
from trainables import Capabilities, Place, Trainable
from trainables.core.plan import Ahead

#: Seconds that storage may be full, or out of reach, before a sweep ends.
_PATIENCE_S = 300.0
#: Seconds in which SIGTERM twice is SIGTERM once: `timeout` sends it to its child, and then to the whole group.
_ONCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Resolved:
    """Everything a spec names, found, built and checked against each other."""

    trainable: Trainable
    capabilities: Capabilities
    space: Space
    strategy: StrategyOptions
    task: Task


@dataclass(frozen=True, slots=True)
class Job:
    """A sweep to be taken up.

    Attributes:
        run: Its folder.
        spec: The spec it was begun with, its stacks settled.
        resolved: What that names.
        place: Device and precision.
        reason: `start`, `resume` or `extend`.
        extension: New spec and slots as canonical JSON, and which extension of the sweep this is, counted from 1.
    """

    run: Run
    spec: SweepSpec
    resolved: Resolved
    place: Place
    reason: str = "start"
    extension: tuple[int, str] | None = None


def launch(job: Job, *, progress: bool = True, baseline: Result | None = None) -> None:
    """Train, until the sweep has ended or is stopped.

    Raises:
        HostError: A host could not carry out its orders; what was recorded before is kept.
        KeyboardInterrupt: It was stopped; what was recorded before is kept.
    """
    forget_end(job.run)
    tracking = job.spec.tracking
    resumed = job.reason != "start"
    is_tunes = job.spec.hosts.reporter == "tune"
    if tracking.enabled and job.spec.hosts.kind == "local":
        # Before anybody trains in this process: MLflow imports much that libraries look for in `sys.modules`, such as
        # polars. What scikit-learn would find there while the watching thread imports it is half a module.
        import_module("pbt.record.mlflow")
    with Watch(job.run, tracking, show=progress, plain=is_tunes, baseline=baseline, resumed=resumed) as watch:
        with _stoppable(job.run, watch.say):
            _run_on_hosts(job, has_reporter=progress and is_tunes)
        if not Result(job.run).finished:
            raise KeyboardInterrupt(f"{_how_it_stopped(job.run)}. Go on with `pbt resume {job.run.path}`.")
        watch.finish()


def _how_it_stopped(run: Run) -> str:
    incidents = LedgerReader(run.path).rows(("incidents", "sessions"))
    began = incidents["sessions"][-1]["at"]
    left = [row for row in incidents["incidents"] if row["kind"] == "recovery_stopped" and row["at"] > began]
    return left[-1]["message"] if left else "stopped; every member is saved"


@contextmanager
def _stoppable(run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C, or SIGTERM of a batch system or `docker stop`, asks the sweep to stop; the second stops it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    told = -math.inf  # when by SIGTERM

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if number == signal.SIGTERM:
            before, told = told, time.monotonic()
            if told - before < _ONCE_S:
                return
        if is_asked_to_stop(run):
            raise KeyboardInterrupt(
                f"stopped at once; what was recorded is kept. `pbt resume {run.path}` goes on, and trains again what "
                "was not saved."
            )
        ask_to_stop(run)
        say("Stopping: segments under way are finished and members saved. Ctrl-C again stops at once.")

    handlers = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------------ settling


def load_space(space: str | Mapping[str, Any]) -> Space:
    """The space a spec names, or describes."""
    try:
        return searchspaces.load(space) if isinstance(space, str) else Space.from_json(space)
    except searchspaces.SpaceError as error:
        raise searchspaces.SpaceError(f"space.{error}" if isinstance(space, Mapping) else f"space: {error}") from error


def make_task(capabilities: Capabilities, spec: SweepSpec) -> Task:
    """What a strategy is told of a sweep."""
    space = load_space(spec.space)
    return Task(
        space=space,
        metric=spec.objective.metric,
        mode=spec.objective.mode or capabilities.metrics[spec.objective.metric].mode,
        budget=spec.budget,
        seed=spec.seed,
        final_split="test" if "test" in capabilities.splits else spec.objective.split,
        structural=tuple(name for name in space if capabilities.hparams[name].kind == "structural"),
    )


def check_budget(budget: Budget, capabilities: Capabilities, space: Space, place: Place) -> None:
    """Refuse limits that cannot be watched here.

    Raises:
        SpecError: A limit cannot be kept.
    """
    can_read_energy = budget.joules is not None and can_measure()
    check_limits(budget, place.device, can_read_energy, tokens_per_step=most_tokens(capabilities, space))


def most_tokens(capabilities: Capabilities, space: Space) -> int:
    """Tokens that a step of a member takes, at most."""
    known = per_example(capabilities, space)
    return round(capabilities.tokens_per_step * (1.0 if known is None else known.most_share))


def per_example(capabilities: Capabilities, space: Space) -> PerExample | None:
    """How what a step takes depends on what the space varies; None if it does not."""
    name = capabilities.per_example
    if name not in space:
        return None
    usual = capabilities.hparams[name].default
    assert isinstance(usual, int | float)
    return PerExample(name=name, usual=usual).in_space(space)


def find_place(hosts: Hosts) -> Place:
    """The device, settled: under Ray what the cluster has, else what this process has."""
    import torch

    if hosts.kind == "ray":
        from pbt.runtime.cluster import default_device

        device = default_device() if hosts.device == "auto" else hosts.device
        return Place(device=device, compile=hosts.compile, precision=hosts.precision, world_size=hosts.ranks)
    device = hosts.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError("hosts.device", f"{device!r} cannot be used here ({reason})", "Write cpu, or auto") from error
    return Place(device=device, compile=hosts.compile, precision=hosts.precision)


def with_stacks(spec: SweepSpec, place: Place, max_capacity: int | None) -> SweepSpec:
    """The spec with the number of stacks settled, so that the run can be repeated elsewhere.

    Args:
        spec: The sweep.
        place: Where it trains.
        max_capacity: Most members that a stack of its trainable takes; None for any number.

    Raises:
        SpecError: So many stacks cannot be, or the cluster has no room for one.
    """
    members = spec.budget.members
    most = 1 if spec.hosts.ranks > 1 else max_capacity or members
    fewest = math.ceil(members / most)
    room = num_devices(spec.hosts, place)  # at least one, whatever was asked for
    stacks = spec.hosts.stacks or max(fewest, min(room, members))
    require(
        stacks >= fewest,
        "hosts.stacks",
        f"is {stacks}, but {members} members need {fewest}, as a stack takes {most} of them at most",
        "Leave it out",
    )
    require(
        stacks <= members,
        "hosts.stacks",
        f"{stacks} stacks are more than the {members} members",
        "Write fewer",
    )
    return dataclasses.replace(spec, hosts=dataclasses.replace(spec.hosts, stacks=stacks))


def num_devices(hosts: Hosts, place: Place) -> int:
    """How many hosts there is room for.

    Raises:
        SpecError: For none.
    """
    if hosts.kind == "ray":
        from pbt.runtime import cluster

        return cluster.num_devices(place, hosts.gpus)
    return 1 if place.device != "cpu" else num_cores()


def describe_run(spec: SweepSpec, resolved: Resolved, place: Place) -> dict[str, Any]:
    """What `run.json` keeps besides the ledger."""
    capabilities = resolved.capabilities
    varied = resolved.space.to_json()
    strategy = resolved.strategy.begin(resolved.task)
    search: dict[str, Any] = {}
    if isinstance(strategy, SearchStrategy):
        search = {"target_steps": strategy.target_steps}
        search |= {} if strategy.fidelity is None else {"fidelity": strategy.fidelity}
    return {
        "spec": to_dict(spec),
        "objective": {"metric": resolved.task.metric, "mode": resolved.task.mode, "split": spec.objective.split},
        "metrics": {name: {"mode": kind.mode, "unit": kind.unit} for name, kind in capabilities.metrics.items()},
        "hparams": varied,
        "fixed": {name: value for name, value in live_defaults(capabilities).items() if name not in varied},
        "data": dict(capabilities.data),
        "tokens_per_step": capabilities.tokens_per_step,
        **search,
        "versions": software(),
        "device": place.device,
    }


def live_defaults(capabilities: Capabilities) -> dict[str, Any]:
    """Value of every live hyperparameter where a sweep does not say."""
    return {name: known.default for name, known in capabilities.hparams.items() if known.kind == "live"}


@contextmanager
def started(hosts: Hosts, storage: Path) -> Iterator[None]:
    """Ray, up, if the hosts are Ray's.

    Args:
        hosts: Where members train.
        storage: The folder of the runs.

    Raises:
        SpecError: There is no such cluster, or its other nodes do not see the folder and that is not accepted.
    """
    if hosts.kind == "local":
        yield
        return
    from pbt.runtime.cluster import check_shared, cluster

    with cluster(hosts.address):
        if hosts.local_storage == "refuse":
            check_shared(storage)
        yield


# -------------------------------------------------------------------------------------------------------------- hosts


def _run_on_hosts(job: Job, has_reporter: bool) -> None:
    trainable, capabilities, hosts = job.resolved.trainable, job.resolved.capabilities, job.spec.hosts
    plan = _plan(job)
    run, archive = job.run.path.absolute(), job.spec.archive
    place = None if archive is None else f"{archive.rstrip('/')}/{run.name}"
    make_brain = partial(_make_brain, plan, job.resolved.strategy, job.resolved.task, run, place)
    common: dict[str, Any] = {
        "run": job.run.path,
        "trainable": trainable,
        "bucket": plan.bucket,
        "place": dataclasses.replace(job.place, fixed=frozenset(capabilities.hparams) - set(job.resolved.space)),
        "ahead": _ahead(job.spec.budget) if _is_to_plan(hosts) else None,
        "is_to_stop": partial(is_asked_to_stop, job.run),
    }
    try:
        if hosts.kind == "local":
            from pbt.runtime.local import run_local

            run_local(make_brain, **common)
        else:
            from pbt.runtime.tune import run_tune

            own = {"gpus": hosts.gpus, "retries": hosts.retries, "hang_s": 60.0 * hosts.hang_minutes}
            run_tune(make_brain, num_stacks=_num_stacks(job), has_reporter=has_reporter, **common | own)
    except HostError:
        raise
    except PbtError as error:
        raise HostError(str(error)) from error
    except Exception as error:
        raise HostError(f"the sweep stopped: {first_line(error)}. --debug shows where.") from error


def _ahead(budget: Budget) -> Ahead:
    """What every stack has to train at most."""
    return Ahead(budget.generations * budget.steps, min(Limits.of(budget).seconds, default=math.inf))


def _is_to_plan(hosts: Hosts) -> bool:
    return hosts.plan == "auto" and hosts.ranks == 1


def _plan(job: Job) -> Plan:
    spec, capabilities = job.spec, job.resolved.capabilities
    defaults = live_defaults(capabilities)  # and what a member's weights are made for where that is inactive
    defaults |= {name: capabilities.hparams[name].default for name in job.resolved.task.structural}
    return Plan(
        slots=lay_out(spec.budget.members, spec.hosts.stacks or 1),
        bucket=job.resolved.trainable.bucket(defaults),
        defaults=defaults,
        metric=job.resolved.task.metric,
        split=spec.objective.split,
        tokens_per_step=capabilities.tokens_per_step,
        devices=spec.hosts.ranks * (spec.hosts.gpus if job.place.device.startswith("cuda") else 1.0),
        flops_per_step=capabilities.flops_per_step,
        budget=spec.budget,
        synchronous=getattr(job.resolved.strategy, "synchronous", True),
        checkpoints=spec.checkpoints,
        session=_session(job),
        retries=spec.hosts.retries,
        extend=partial(_extended_task, capabilities),
        per_example=per_example(capabilities, job.resolved.space),
    )


def _session(job: Job) -> Session:
    spec = to_dict(job.spec)
    if job.extension is not None:
        extended = json.loads(job.extension[1])["spec"]
        spec = {**extended, "hosts": {**spec["hosts"], "stacks": extended["hosts"]["stacks"]}}
    # The dtype of parameters, and what computes with them where that is another.
    dtype = job.place.dtype if job.place.precision == "fp32" else f"{job.place.dtype} {job.place.precision}"
    place = {"device": job.place.device, "dtype": dtype, "compile": job.place.compile}
    return Session(
        reason=job.reason,
        software=software(),
        hardware=hardware(),
        git_commit=git_commit(Path.cwd()),
        spec=spec,
        place={**place, "rng": job.resolved.capabilities.rng},
        extension=job.extension,
    )


def _num_stacks(job: Job) -> int:
    slots = json.loads(job.extension[1])["slots"] if job.extension else None
    return 1 + max(stack for stack, _ in slots) if slots else job.spec.hosts.stacks or 1


def _extended_task(capabilities: Capabilities, spec: Mapping[str, Any]) -> Task:
    return make_task(capabilities, from_dict(spec))


def _make_brain(
    plan: Plan,
    strategy: StrategyOptions,
    task: Task,
    run: Path,
    archive: str | None,
    states: States,
    is_restarted: bool = False,
) -> Brain:
    """The brain is built where it lives, which under Ray is another process, and another one after a crash."""
    if is_restarted:
        plan = dataclasses.replace(plan, session=dataclasses.replace(plan.session, reason="restart"))
    is_new = plan.session.reason == "start"
    ledger = Ledger(run, archive=archive if is_new else None, existing=not is_new, patience_s=_PATIENCE_S)
    try:
        return Brain(plan, strategy.begin(task), ledger, states)
    except BaseException:
        ledger.close(finished=False)
        raise
