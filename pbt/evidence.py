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

_ARMS, _SEEDS = 3, 5
#: Characters of a run's name that are kept in names of runs made from it.
_STEM = 56


@dataclass(frozen=True, slots=True)
class _Path:
    """A schedule to be trained anew: where it comes from, its changes by age, and its rounds."""

    source: str
    schedule: tuple[tuple[int, Mapping[str, Any]], ...]
    shrinks: tuple[tuple[int, float, float], ...]
    generations: int
    steps: int


@dataclass(frozen=True, slots=True)
class _Size:
    """How many members a replay has, on how many stacks."""

    seeds: int
    stacks: int | None

    def __post_init__(self) -> None:
        """Refuse what the sweep would, before the baseline is trained."""
        _check_count("seeds", self.seeds)
        if self.stacks is not None:
            _check_count("stacks", self.stacks, self.members)

    @property
    def members(self) -> int:
        return _ARMS * self.seeds


def _check_count(name: str, value: object, most: int | None = None) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= 1 and (most is None or value <= most)
    problem = f"{value!r} is not a whole number of at least 1" + (f" and at most {most}" if most else "")
    require(ok, name, problem, f"Write {most or _SEEDS}")


@dataclass(frozen=True, slots=True)
class _Beside:
    """Trains sweeps beside a run: in the same storage folder, and in MLflow in the same experiment."""

    result: Result
    spec: SweepSpec
    trainable: Trainable | None
    progress: bool

    def train(self, name: str, strategy: StrategyOptions, budget: Budget, stacks: int | None) -> Result:
        """Train what the run trained, with the same objective, space and seed."""
        spec = self.spec
        made = dataclasses.replace(
            spec,
            name=f"{spec.name[:_STEM]}-{name}",
            storage=str(self.result.path.parent),
            budget=budget,
            hosts=dataclasses.replace(spec.hosts, stacks=stacks),
            tracking=dataclasses.replace(spec.tracking, experiment=spec.tracking.experiment or spec.name),
        )
        imports = self.result.run.info.get("imports")
        return Sweep.from_spec(made, self.trainable, strategy).run(progress=self.progress, imports=imports)


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
    spec = with_hosts(from_dict(result.run.info["spec"]), hosts or {})
    size = _Size(_SEEDS if seeds is None else seeds, stacks)
    path = _path(result, spec, result.best.member if member is None else member)
    known = trainable or trainables.load(spec.trainable.name, spec.trainable.options)
    check_data(result.run, known.describe().data)
    if baseline is not None:
        _check_baseline(result, baseline)
    beside = _Beside(result, spec, trainable, progress)
    with started(spec.hosts, result.path.parent):
        return _compared(beside, path, baseline or _fixed(beside), size)


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
    shrinks = tuple((step.age_start, it.keep, it.noise) for step in steps if (it := step.shrink) is not None)
    length = math.gcd(spec.budget.steps, *(age for age, _ in kept), *(age for age, _, _ in shrinks))
    source = f"member {key.member} of {result.run.id}, {tell(key)}"
    return _Path(source, kept, shrinks, math.ceil(end / length), length)


def _compared(beside: _Beside, path: _Path, fixed: Result, size: _Size) -> Comparison:
    best = load_space(beside.spec.space).point(fixed.best.hparams)
    arms = [
        Arm(name="the schedule", schedule=path.schedule, source=path.source, shrinks=path.shrinks),
        Arm(
            name="the best fixed configuration",
            schedule=((0, best),),
            source=f"member {fixed.best.member} of {fixed.run.id}",
        ),
        Arm(name="random search"),
    ]
    budget = Budget(members=size.members, generations=path.generations, steps=path.steps)
    return compare(beside.train("replay", Replay(arms=arms, seeds=size.seeds), budget, size.stacks))


# -------------------------------------------------------------------------------------------------------- the baseline


def _fixed(beside: _Beside) -> Result:
    """The run's initial population, trained as long with everybody keeping its hyperparameters; the run, if it did."""
    result, spec = beside.result, beside.spec
    if spec.strategy.name == "fixed":
        return result
    space = load_space(spec.space)
    strategy = Fixed(initial=[space.point(hparams) for hparams, _ in _population(result)])
    try:
        return beside.train("fixed", strategy, _budget(result), spec.hosts.stacks)
    except KeyboardInterrupt as stopped:
        told = " ".join(map(str, stopped.args))
        raise KeyboardInterrupt(f"{told} Then `pbt replay {result.path} --baseline` with that run.") from None


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
