"""Runs that are there already: taken up again, extended, stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pbt.errors import LedgerError, RunNotFound, SpecError
from pbt.launch import (
    Job,
    Resolved,
    check_budget,
    find_place,
    launch,
    load_space,
    most_tokens,
    num_devices,
    started,
)
from pbt.member import Slot, lay_out
from pbt.record.ledger import LedgerReader, is_written
from pbt.record.result import Result
from pbt.record.runs import Run, ask_to_stop, open_run, rewrite_run
from pbt.record.sizes import Sizes
from pbt.runtime.budget import Limits, Usage, exceeded
from pbt.runtime.history import read_usage
from pbt.spec import Budget, SweepSpec, at_least, from_dict, require, to_dict
from pbt.strategy import StrategyOptions
from pbt.sweep import Sweep, check_wider, space_data
from searchspaces import Space
from trainables import Place, Trainable
from trainables.core.step import warn_if_not_compiled

#: The option that raises the limit of which a reason says that it is used up.
_OPTIONS = {"token": "--tokens", "GPU": "--gpu-hours", "energy": "--joules"}

#: Seconds between two looks whether a run has stopped, and for how long who goes on with it waits for that.
_LOOK_S, _PATIENCE_S = 0.2, 5.0


def resume(
    run: str | Path | Run,
    *,
    progress: bool = True,
    trainable: Trainable | None = None,
    strategy: StrategyOptions | None = None,
    hosts: Mapping[str, Any] | None = None,
) -> Result:
    """Go on with a run that was stopped, failed or killed, from where its ledger ends.

    What happened is told to the strategy again, which must decide the same; states that were not saved are trained
    again. In synchronous mode the sweep ends as it would have without the interruption, digest and all.

    Args:
        run: Its folder.
        progress: Show a live table, or plain lines where there is no terminal.
        trainable: The very object the sweep was begun with, where it cannot be found by its name.
        strategy: Likewise.
        hosts: Fields of `Hosts` that are to be others than at the beginning: `{"kind": "local"}`, `{"ranks": 4}`.

    Raises:
        RunNotFound: It is not a run folder.
        LedgerError: It has finished, is being trained, or is damaged.
        SpecError: Data or device are not those it was begun with.
        KeyboardInterrupt: It was stopped again.
    """
    return _take_up(_open(run), "resume", {}, progress, trainable, strategy, hosts or {})


def extend(
    run: str | Path | Run,
    *,
    members: int | None = None,
    generations: int | None = None,
    tokens: int | None = None,
    wall_minutes: float | None = None,
    gpu_hours: float | None = None,
    joules: float | None = None,
    space: str | Space | Mapping[str, Any] | None = None,
    target_generations: int | None = None,
    progress: bool = True,
    trainable: Trainable | None = None,
    strategy: StrategyOptions | None = None,
    hosts: Mapping[str, Any] | None = None,
) -> Result:
    """Go on with a run beyond its end: more members, more generations, a larger budget, a wider space.

    Every number is the new total. New members begin with fresh weights, on stacks of their own, and first train as
    long as the others have, so that all are compared at equal age.

    Args:
        run: Its folder.
        members: Size of the population.
        generations: Number of generations.
        tokens: Limits, as in `Budget`; those left out stay as they are.
        wall_minutes: Likewise.
        gpu_hours: Likewise.
        joules: Likewise.
        space: Must hold every point of the old one.
        target_generations: Of a search: generations of a run to the end. Those that were complete can go on.
        progress: As in `resume`.
        trainable: As in `resume`.
        strategy: As in `resume`.
        hosts: As in `resume`.

    Raises:
        SpecError: Something would become smaller, or nothing larger.
        RunNotFound: It is not a run folder.
        LedgerError: It is being trained, or is damaged.
        KeyboardInterrupt: It was stopped.
    """
    budget: dict[str, float | None] = {"members": members, "generations": generations, "tokens": tokens}
    budget |= {"wall_minutes": wall_minutes, "gpu_hours": gpu_hours, "joules": joules}
    changes: dict[str, Any] = {"budget": {name: value for name, value in budget.items() if value is not None}}
    if space is not None:
        changes["space"] = space_data(space)
    if target_generations is not None:
        changes["target_generations"] = target_generations
    return _take_up(_open(run), "extend", changes, progress, trainable, strategy, hosts or {})


def stop(run: str | Path | Run, *, wait: bool = True) -> None:
    """Ask whoever trains a run to finish the segments under way, save every member, and stop.

    Args:
        run: Its folder.
        wait: Return once it has stopped.

    Raises:
        RunNotFound: It is not a run folder.
        LedgerError: Nobody trains it.
    """
    found = _open(run)
    if not is_written(found.path):
        if _is_begun(found) and LedgerReader(found.path).finished:
            raise LedgerError(f"{found.id} has finished: there is nothing to stop.")
        raise LedgerError(f"{found.id} is not running. `pbt resume {found.path}` goes on with it.")
    ask_to_stop(found)
    while wait and is_written(found.path):
        time.sleep(_LOOK_S)


def _open(run: str | Path | Run) -> Run:
    return run if isinstance(run, Run) else open_run(Path(run))


def _wait_for_the_end(run: Run) -> None:
    """Under Ray, a brain outlives a driver that was killed by some moments, in which nobody else can go on."""
    until = time.monotonic() + _PATIENCE_S
    while is_written(run.path):
        if time.monotonic() > until:
            raise LedgerError(f"{run.id} is running. Stop it first with `pbt stop {run.path}`.")
        time.sleep(_LOOK_S)


def _take_up(
    run: Run,
    reason: str,
    changes: Mapping[str, Any],
    progress: bool,
    trainable: Trainable | None,
    strategy: StrategyOptions | None,
    hosts: Mapping[str, Any],
) -> Result:
    _wait_for_the_end(run)
    if reason == "resume" and not _is_begun(run):
        return _begin(run, progress, trainable, strategy, hosts)
    reader = LedgerReader(run.path)
    if reason == "resume" and reader.finished:
        raise LedgerError(_beyond_its_end(run, reader))
    begun = with_hosts(_begun(run), hosts)
    told = [row["data"] for row in reader.rows(("decisions",))["decisions"] if row["kind"] == "extend"]
    extension = (len(told), told[-1]) if told else None
    if reason == "extend":
        extension = (len(told) + 1, _extension(run, extension, changes))
    in_force = _in_force(run, extension)
    with _brought_back(run, begun, in_force.budget, trainable, strategy, hosts) as (resolved, place):
        if reason == "extend":
            usage = read_usage(reader)
            _check_limits_left(usage, changes.get("budget", {}))
            is_search = "target_steps" in run.info
            _check_room(reader, usage, in_force, is_search, most_tokens(resolved.capabilities, resolved.space))
        target = None if extension is None else json.loads(extension[1]).get("target_steps")
        if target is not None and target > run.info["target_steps"]:
            _check_within_reach(run, reader, in_force.budget, target)
        if extension is not None or "begun" in run.info:  # the latter: an extension died before the ledger had it
            run = _remember(run, in_force, target)
        launch(Job(run, begun, resolved, place, reason, extension), progress=progress)
    return Result(run)


def _beyond_its_end(run: Run, reader: LedgerReader) -> str:
    """How to go on with a run that has finished: what ended it is what has to be raised."""
    ends = [row for row in reader.rows(("decisions",))["decisions"] if row["kind"] in ("budget", "extend")]
    if ends and ends[-1]["kind"] == "budget":
        option = next((option for word, option in _OPTIONS.items() if word in ends[-1]["reason"]), "--wall-minutes")
        return f"{run.id} has finished: {ends[-1]['reason']}. `pbt extend {run.path} {option} N` goes on with more."
    return f"{run.id} has finished. `pbt extend {run.path} --generations N` goes on beyond its end."


def _is_begun(run: Run) -> bool:
    """Whether anything is recorded: its driver may have died before it came to that."""
    try:
        LedgerReader(run.path)
    except RunNotFound:
        return False
    return True


def _check_untouched(run: Run) -> None:
    """A run that has trained has a ledger; where it is gone, beginning anew would cost what is left.

    Raises:
        LedgerError: Its ledger is missing.
    """
    left = [name for name in ("checkpoints", "plots", "end.json") if (run.path / name).exists()]
    if left or "begun" in run.info:
        has = f" though it has {left[0]}" if left else ""
        raise LedgerError(
            f"{run.path / 'ledger'} is missing{has}. Restore it from a backup; checkpoints are good without it, but "
            "nobody knows what they are."
        )


def _begin(
    run: Run,
    progress: bool,
    trainable: Trainable | None,
    strategy: StrategyOptions | None,
    hosts: Mapping[str, Any],
) -> Result:
    _check_untouched(run)
    spec = with_hosts(_begun(run), hosts)
    with _brought_back(run, spec, spec.budget, trainable, strategy, hosts) as (resolved, place):
        launch(Job(run, spec, resolved, place), progress=progress)
    return Result(run)


@contextmanager
def _brought_back(
    run: Run,
    spec: SweepSpec,
    budget: Budget,
    trainable: Trainable | None,
    strategy: StrategyOptions | None,
    hosts: Mapping[str, Any],
) -> Iterator[tuple[Resolved, Place]]:
    """What a run's spec names and where it trains, both as they were when it was begun."""
    resolved = Sweep.from_spec(spec, trainable, strategy).resolved
    check_data(run, resolved.capabilities.data)
    with started(spec.hosts, run.path.parent):
        place = find_place(spec.hosts)
        _check_device(run, place.device, hosts)
        num_devices(spec.hosts, place)
        warn_if_not_compiled(place)
        check_budget(budget, resolved.capabilities, resolved.space, place)
        yield resolved, place


def _check_limits_left(usage: Usage, changed: Mapping[str, Any]) -> None:
    """Refuse a new limit that the sweep has used up already."""
    used = dataclasses.replace(usage, joules=usage.joules or 0.0)
    for name in changed.keys() & {"tokens", "wall_minutes", "gpu_hours", "joules"}:
        only = Budget(members=1, generations=1, steps=1, **{name: changed[name]})
        if (reason := exceeded(Limits.of(only), used, Usage())) is not None:
            raise SpecError(f"budget.{name}", reason, "Write more than that, or leave it out")


def _check_room(reader: LedgerReader, usage: Usage, spec: SweepSpec, is_search: bool, tokens_per_step: int) -> None:
    """Refuse an extension of which not even the first round fits into the budget."""
    budget, full = spec.budget, spec.budget.generations * spec.budget.steps
    outcomes = reader.rows(("outcomes",))["outcomes"]
    consumed = {row["member"]: row["consumed_end"] for row in outcomes}
    failed = {row["member"] for row in outcomes if row["status"] == "failed"}
    reached = max(consumed.values(), default=0)
    newcomers = [member for member in range(budget.members) if member not in consumed]
    steps = sum(min(budget.steps, full - consumed[member]) for member in consumed.keys() - failed)
    steps += len(newcomers) * min(full, reached + budget.steps)
    if is_search:  # members come and go; slots train a generation each
        steps = budget.members * budget.steps
    reason = exceeded(Limits.of(budget), usage, Usage(tokens=steps * tokens_per_step))
    if steps and reason is not None:
        raise SpecError("budget", reason, "Raise that limit as well, for example with --tokens or --wall-minutes")


def _check_within_reach(run: Run, reader: LedgerReader, budget: Budget, target: int) -> None:
    """Refuse a target to which nobody could be trained with what is left."""
    rows, sizes = reader.rows(("segments", "outcomes")), Sizes(run.info)
    hparams = {row["member"]: json.loads(row["hparams"]) for row in rows["segments"]}
    consumed = {row["member"]: row["consumed_end"] or 0 for row in rows["outcomes"]}
    used = sum(steps * sizes.rate(hparams[member]) for member, steps in consumed.items())
    furthest = max((it for member, it in consumed.items() if sizes.is_wanted(hparams[member])), default=0)
    left, to_go, round_ = budget.member_steps - used, target - furthest, budget.members * budget.steps
    told = f"leads {to_go:,} steps beyond where any run is, and the budget has {max(0.0, left):,g} left"
    mend = f"Raise generations as well, to {budget.generations + math.ceil((to_go - left) / round_)} or more"
    require(to_go <= left, "target_generations", told, mend)


def _begun(run: Run) -> SweepSpec:
    """The spec a run was begun with, before any extension."""
    return from_dict(run.info.get("begun") or run.info["spec"])


def _remember(run: Run, spec: SweepSpec, target: int | None) -> Run:
    """Let `run.json` show what the sweep is now; what counts stands in the ledger."""
    space = load_space(spec.space).to_json()
    changes: dict[str, Any] = {"begun": to_dict(_begun(run)), "spec": to_dict(spec), "hparams": space}
    if target is not None:
        changes["target_steps"] = target
    return rewrite_run(run, {**run.info, **changes})


def with_hosts(spec: SweepSpec, changes: Mapping[str, Any]) -> SweepSpec:
    """The spec with other fields of `Hosts`; in this process alone, without what only Ray can do."""
    if changes.get("kind") == "local":
        changes = {"address": None, "ranks": 1, "reporter": "pbt", **changes}
    return dataclasses.replace(spec, hosts=dataclasses.replace(spec.hosts, **changes))


def _in_force(run: Run, extension: tuple[int, str] | None) -> SweepSpec:
    return from_dict(json.loads(extension[1])["spec"]) if extension else _begun(run)


def _extension(run: Run, before: tuple[int, str] | None, changes: Mapping[str, Any]) -> str:
    """The extended spec and its slots, as the ledger keeps them."""
    old = _in_force(run, before)
    budget = dataclasses.replace(old.budget, **changes["budget"])
    new = dataclasses.replace(old, budget=budget, space=_in_old_order(changes.get("space"), old.space))
    target = _target(run, changes, budget)
    if "target_generations" in changes:
        options = {**new.strategy.options, "target_generations": changes["target_generations"]}
        new = dataclasses.replace(new, strategy=dataclasses.replace(new.strategy, options=options))
    for name in ("members", "generations", "tokens", "wall_minutes", "gpu_hours", "joules"):
        _check_no_less(f"budget.{name}", getattr(old.budget, name), getattr(budget, name))
    check_wider(load_space(old.space), load_space(new.space))
    _check_fidelity(run, load_space(old.space), load_space(new.space))
    mend = "Raise members, generations or a limit of the budget, or widen the space"
    require(new != old, "extend", "changes nothing", mend)
    slots = _slots(run, before)
    added = _more_slots(slots, budget.members)
    stacks = 1 + max(slot.stack for slot in added)
    new = dataclasses.replace(new, hosts=dataclasses.replace(new.hosts, stacks=stacks))
    # Not sorted: in which order a space names its hyperparameters decides what is drawn for which.
    further = {} if target is None else {"target_steps": target}
    return json.dumps({"spec": to_dict(new), "slots": [[slot.stack, slot.index] for slot in added], **further})


def _check_fidelity(run: Run, old: Space, new: Space) -> None:
    """Refuse other sizes than those that a search has gone through from its beginning."""
    name = (run.info.get("fidelity") or {}).get("name")
    told = "is the fidelity of this search, whose values stay as they are"
    mend = "Leave it as it was, and begin another search that is told of this one (strategy.options.earlier)"
    require(name is None or old[name] == new[name], f"space.{name}", told, mend)


def _target(run: Run, changes: Mapping[str, Any], budget: Budget) -> int | None:
    """Steps of a run to the end, in a search; None in any other sweep.

    Raises:
        SpecError: It is no search, or the target would come nearer, or lie beyond the budget.
    """
    now, wanted = run.info.get("target_steps"), changes.get("target_generations")
    field = "target_generations"
    require(wanted is None or now is not None, field, "is of searches, and this run is none", "Leave it out")
    if wanted is None or now is None:
        return None if now is None else int(now)
    at_least(math.ceil(now / budget.steps), field, wanted)
    told = f"is {wanted}, but the budget has {budget.generations} generations"
    require(wanted <= budget.generations, field, told, f"Raise generations to {wanted} or more, or write less")
    return int(wanted) * budget.steps


def _in_old_order(wider: str | Mapping[str, Any] | None, old: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    """The wider space with its hyperparameters in the order of the old one: what is drawn depends on it."""
    if wider is None:
        return old
    names, found = list(load_space(old)), load_space(wider).to_json()
    ordered = [name for name in names if name in found] + [name for name in found if name not in names]
    return wider if list(found) == ordered else {name: found[name] for name in ordered}


def _check_no_less(field: str, old: float | None, new: float | None) -> None:
    if old is not None and new is not None:
        require(new >= old, field, f"{new:g} is less than the {old:g} there are", f"Write {old:g} or more")


def _slots(run: Run, extension: tuple[int, str] | None) -> tuple[Slot, ...]:
    if extension:
        return tuple(Slot(stack, index) for stack, index in json.loads(extension[1])["slots"])
    spec = _begun(run)
    return lay_out(spec.budget.members, spec.hosts.stacks or 1)


def _more_slots(slots: tuple[Slot, ...], members: int) -> tuple[Slot, ...]:
    """Newcomers get stacks of their own, as large as those there are, so that nobody else's stack changes."""
    new = members - len(slots)
    if new == 0:
        return slots
    stacks = 1 + max(slot.stack for slot in slots)
    largest = max(slot.index for slot in slots) + 1
    return slots + tuple(Slot(slot.stack + stacks, slot.index) for slot in lay_out(new, -(-new // largest)))


def check_data(run: Run, data: Mapping[str, Any]) -> None:
    """Refuse data that are not those a run was begun with.

    Raises:
        SpecError: Names, sizes or hashes differ.
    """
    known = run.info.get("data", {})
    different = [name for name in {**known, **data} if known.get(name) != data.get(name)]
    if different:
        name = different[0]
        problem = f"{name} is {data.get(name)!r}, but the run was begun with {known.get(name)!r}"
        raise SpecError("data", problem, "Put the data back as it was, or begin a new run")


def _check_device(run: Run, device: str, hosts: Mapping[str, Any]) -> None:
    known = run.info.get("device", device)
    mend = f"Go on where there is {known}, or write --device {device} to go on with other rounding"
    require(
        "device" in hosts or device.partition(":")[0] == known.partition(":")[0],
        "hosts.device",
        f"is {device} here, but the run was begun on {known}",
        mend,
    )
