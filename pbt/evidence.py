"""Is a schedule that a population found worth it? It is trained anew, from scratch, beside what it has to beat.

Three arms, each with the same seeds, all in one sweep, all trained as long as the schedule is:

- the schedule: what the weights of a member were trained with, hyperparameters changed at the same ages;
- the best fixed configuration: the initial population of the run, trained by itself with everybody keeping its
  hyperparameters, for as many member-steps as the run; then the configuration of its winner;
- random search: a configuration of its own for each seed, drawn from the space.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trainables
from pbt.control import check_data, resume, with_hosts
from pbt.launch import load_space, started
from pbt.lineage import Reference, tell
from pbt.member import Hparams
from pbt.population import Arm, Fixed, Replay
from pbt.record.result import Result
from pbt.report.comparison import Comparison, compare, is_replay
from pbt.report.provenance import named
from pbt.spec import Budget, SweepSpec, from_dict, require
from pbt.strategy import StrategyOptions
from pbt.sweep import Sweep
from trainables import Trainable

_SEEDS = 5
#: Characters of a run's name that are kept in names of runs made from it.
_STEM = 56


@dataclass(frozen=True, slots=True)
class _Path:
    """A schedule to be trained anew: where it comes from, its changes by age, and its rounds."""

    source: str
    schedule: tuple[tuple[int, Mapping[str, Any]], ...]
    generations: int
    steps: int


def replay(
    result: Result,
    *,
    member: Reference | None = None,
    seeds: int | None = None,
    baseline: Result | None = None,
    stacks: int | None = None,
    hosts: Mapping[str, Any] | None = None,
    progress: bool = True,
    trainable: Trainable | None = None,
) -> Comparison:
    """Train a schedule anew, beside the best fixed configuration and random search, and compare them.

    Of a run that is a replay already nothing is begun: what it lacks is trained, and it is compared.

    Args:
        result: The run that found it.
        member: Whose weights' schedule: `3`, `"3:5"` or `"best"`; None takes the announced winner's.
        seeds: How many; 5 unless told otherwise.
        baseline: A finished run of the strategy `fixed` with the run's population; None trains one.
        stacks: Stacks of the replay; None takes one per core or GPU.
        hosts: Fields of `Hosts` that are to be others than the run's, as in `pbt.resume`.
        progress: Show a live table, or plain lines where there is no terminal.
        trainable: The very object the run was begun with, where it cannot be found by its name.

    Raises:
        LedgerError: The run, or the baseline, has no winner.
        MemberNotFound: There is no such member or segment.
        SpecError: Nothing was trained yet, the baseline is of another population, or the data have changed.
        KeyboardInterrupt: It was stopped; `pbt resume` goes on with what was under way.
    """
    given = {"member": member, "seeds": seeds, "baseline": baseline, "stacks": stacks}
    if is_replay(result):
        return _again(result, given, hosts or {}, progress, trainable)
    num = _SEEDS if seeds is None else seeds
    is_count = isinstance(num, int) and not isinstance(num, bool) and num >= 1
    require(is_count, "seeds", f"{num!r} is not a whole number of at least 1", "Write 5, or more")
    spec = with_hosts(from_dict(result.run.info["spec"]), hosts or {})
    path = _path(result, spec, result.best.member if member is None else member)
    known = trainable or trainables.load(spec.trainable.name, spec.trainable.options)
    check_data(result.run, known.describe().data)
    if baseline is not None:
        _check_baseline(result, baseline)
    with started(spec.hosts, result.path.parent):
        fixed = baseline or _fixed(result, spec, trainable, progress)
        return _compared(result, spec, path, fixed, num, stacks, trainable, progress)


def _again(
    result: Result,
    given: Mapping[str, Any],
    hosts: Mapping[str, Any],
    progress: bool,
    trainable: Trainable | None,
) -> Comparison:
    for name, value in given.items():
        problem = f"is given, but {result.run.id} is a replay already"
        require(value is None, name, problem, "Leave it out, or name the run that found the schedule")
    if not result.finished:
        result = resume(result.run, progress=progress, trainable=trainable, hosts=hosts)
    return compare(result)


# ------------------------------------------------------------------------------------------------------ what to train


def _path(result: Result, spec: SweepSpec, member: Reference) -> _Path:
    """A member's schedule with changes at ends of generations, which are shortened if they must."""
    if isinstance(member, str):
        member = named(result, member)
    key, steps = result.lineage.find(member).key, result.lineage.schedule(member)
    end = steps[-1].age_end
    require(end > 0, "member", f"{tell(key)} has trained nothing yet", "Name another, or wait")
    space = load_space(spec.space)
    changes = [(step.age_start, space.point(step.hparams)) for step in steps]
    kept = tuple(it for place, it in enumerate(changes) if place == 0 or it[1] != changes[place - 1][1])
    length = math.gcd(spec.budget.steps, *(age for age, _ in kept))
    return _Path(f"member {key.member} of {result.run.id}, {tell(key)}", kept, math.ceil(end / length), length)


def _compared(
    result: Result,
    spec: SweepSpec,
    path: _Path,
    fixed: Result,
    seeds: int,
    stacks: int | None,
    trainable: Trainable | None,
    progress: bool,
) -> Comparison:
    space = load_space(spec.space)
    source = f"member {fixed.best.member} of {fixed.run.id}"
    arms = [
        Arm(name="the schedule", schedule=path.schedule, source=path.source),
        Arm(name="the best fixed configuration", schedule=((0, space.point(fixed.best.hparams)),), source=source),
        Arm(name="random search"),
    ]
    budget = Budget(members=len(arms) * seeds, generations=path.generations, steps=path.steps)
    hosts = dataclasses.replace(spec.hosts, stacks=stacks)
    told = dataclasses.replace(spec, hosts=hosts, budget=budget)
    return compare(_trained(result, told, Replay(arms=arms, seeds=seeds), "replay", trainable, progress))


def _trained(
    result: Result,
    spec: SweepSpec,
    strategy: StrategyOptions,
    name: str,
    trainable: Trainable | None,
    progress: bool,
) -> Result:
    """A sweep beside the run's: in the same storage folder, and in MLflow in the same experiment."""
    tracking = dataclasses.replace(spec.tracking, experiment=spec.tracking.experiment or spec.name)
    made = dataclasses.replace(
        spec, name=f"{spec.name[:_STEM]}-{name}", storage=str(result.path.parent), tracking=tracking
    )
    return Sweep.from_spec(made, trainable, strategy).run(progress=progress, imports=result.run.info.get("imports"))


# -------------------------------------------------------------------------------------------------------- the baseline


def _fixed(result: Result, spec: SweepSpec, trainable: Trainable | None, progress: bool) -> Result:
    """The run's initial population, trained as long with everybody keeping its hyperparameters; the run, if it did."""
    if spec.strategy.name == "fixed":
        return result
    space = load_space(spec.space)
    strategy = Fixed(initial=[space.point(hparams) for hparams, _ in _population(result)])
    return _trained(result, dataclasses.replace(spec, budget=_budget(result)), strategy, "fixed", trainable, progress)


def _population(result: Result) -> list[tuple[Hparams, int]]:
    """What each member began with, and its seed: on record, as a space may be wider now than when it was drawn from."""
    firsts = [result.lineage.of(member)[0] for member in result.lineage.members]
    return [(first.hparams, first.seed) for first in firsts]


def _budget(result: Result) -> Budget:
    """Members, generations and steps that a run came to; it may have ended inside a limit."""
    budget = from_dict(result.run.info["spec"]).budget
    reached = max((row["consumed_end"] or 0 for row in result.rows["outcomes"]), default=0)
    generations = max(1, math.ceil(reached / budget.steps))
    return Budget(members=budget.members, generations=generations, steps=budget.steps)


def _check_baseline(result: Result, baseline: Result) -> None:
    """Refuse a baseline that was not trained as the run was.

    Raises:
        SpecError: It was not.
        LedgerError: It has no winner.
    """
    own, other = (_facts(it) for it in (result, baseline))
    name = baseline.run.info["spec"]["strategy"]["name"]
    mend = "Leave it out: the right one is trained"
    require(name == "fixed", "baseline", f"{baseline.run.id} is of the strategy {name}, not fixed", mend)
    for what, value in own.items():
        problem = f"{baseline.run.id} has another {what} than {result.run.id}"
        require(bool(other[what] == value), "baseline", problem, mend)
    _ = baseline.best


def _facts(result: Result) -> dict[str, Any]:
    """What has to be the same for two runs to begin with the same population and train it as long."""
    info = result.run.info
    return {
        "trainable": info["spec"]["trainable"],
        "set of hyperparameters": list(info["hparams"]),
        "objective": info["objective"],
        "data": info.get("data"),
        "initial population": _population(result),
        "number of member-steps": _budget(result).member_steps,
    }
