"""Searches as strategies: their options.

All of them read a budget in the same way: `members` train at once, and so many times `generations` times `steps` are
trained in all, as by any other strategy. A run that is trained to the end takes `target_generations` of them.

What most have in common:

Attributes:
    target_generations: Of a run that is trained to the end; None takes a quarter of the budget's.
    min_generations: Of the first rung.
    reduction_factor: A rung is about so many times as far as the one before, and one in so many goes on to it.
    fidelity: A hyperparameter of the space whose smaller values are tried first, such as the width of a model or the
        share of the data; the largest is what is wanted. It is not searched.
    cost: A step costs as the product of these powers of hyperparameters: `{width: 2}`. The budget counts steps of the
        target: a step with half the width is a quarter of a step.
    resumable: Whether a run can go on from a rung. Not if a schedule ends there; then it begins again.
    earlier: What was trained before, for the model to know: runs, or where they were recorded (`pbt.earlier`).
    guess: Where the best may lie, of some or all hyperparameters: half of what is drawn at random is drawn around it.
    initial: The first configurations.
    synchronous: Whether slots that are free wait for the others to end their generation. Then the same seed gives the
        same sweep, whatever it runs on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pbt.errors import SpecError, nearest
from pbt.member import Hparams, generator
from pbt.search.beforehand import Earlier, Guess
from pbt.search.curve_model import CurveModel
from pbt.search.ensemble_search import EnsembleSearch
from pbt.search.entropy_search import EntropySearch
from pbt.search.fidelity import Course, course
from pbt.search.freeze_thaw import FreezeThawPolicy
from pbt.search.policy import Ladder, Policy
from pbt.search.promotion import Halving, MedianStopping, Proposer, Straight
from pbt.search.proposers import sobol, uniform
from pbt.search.search import Search
from pbt.spec import Budget, at_least, is_number, require
from pbt.strategy import Strategy, Task, badness
from searchspaces import Choice, Int, Space
from searchspaces.domains import Domain

#: Of the generations of the budget, a run to the end takes this part unless said otherwise.
_PART = 4
#: What Optuna's samplers are called.
_SAMPLERS = ("tpe", "gp", "cma_es")


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithTarget:
    """What all have; see this module."""

    target_generations: int | None = None
    initial: Sequence[Hparams] = ()
    synchronous: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithRungs(_WithTarget):
    """What those that compare runs on their way have besides."""

    min_generations: int = 1
    reduction_factor: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithFidelity(_WithRungs):
    """What those that may try smaller models have besides."""

    fidelity: str | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    resumable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithModel(_WithFidelity):
    """What those that learn have besides."""

    startup: int = 8
    random: float = 0.1
    earlier: Sequence[Mapping[str, Any] | str] = ()
    guess: Hparams = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeThaw(_WithModel):
    """Options of freeze-thaw search; see `pbt.search.freeze_thaw`, and this module for those not named here.

    Attributes:
        startup: Configurations drawn at random before the model is asked.
        random: Share of decisions that are random starts, in [0, 1].
    """

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        _check_model(self)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""

        def policy_for(space: Space) -> Policy:
            eta, model = float(self.reduction_factor), _model(self, task, space)
            return FreezeThawPolicy(model=model, eta=eta, startup=self.startup, random=self.random)

        return _begun(self, task, policy_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class MFMES(_WithModel):
    """Options of multi-fidelity max-value entropy search; see `pbt.search.entropy_search`, and this module.

    For runs that cannot go on (a smaller model, a schedule that ends): it weighs what each rung tells against its cost.

    Attributes:
        startup: Configurations drawn at random before the model is asked.
        random: Share of decisions that are random starts, in [0, 1].
    """

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        _check_model(self)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""

        def policy_for(space: Space) -> Policy:
            return EntropySearch(model=_model(self, task, space), startup=self.startup, random=self.random)

        return _begun(self, task, policy_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungEnsemble(_WithModel):
    """Options of promotions by rank with a model for each rung; see `pbt.search.ensemble_search`, and this module.

    Attributes:
        startup: Configurations drawn at random before the models are asked.
        random: Share of configurations that are drawn at random, in [0, 1].
    """

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        _check_model(self)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""

        def policy_for(space: Space) -> Policy:
            eta = float(self.reduction_factor)
            model = _model(self, task, space)
            return EnsembleSearch(model=model, eta=eta, startup=self.startup, random=self.random)

        return _begun(self, task, policy_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class ASHA(_WithFidelity):
    """Options of asynchronous successive halving with promotions; see `pbt.search.promotion`, and this module.

    Attributes:
        brackets: With 1 all begin on the first rung; with more it is Hyperband, in which some begin on later ones.
    """

    brackets: int = 1

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        at_least(1, "strategy.options.brackets", self.brackets)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        eta = float(self.reduction_factor)
        return _begun(self, task, lambda space: Halving(uniform(space), eta, self.brackets))


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianRule(_WithFidelity):
    """Options of the median stopping rule: who is worse than the median of those that came as far is not gone on with.

    See this module for those not named here.

    Attributes:
        least: So many must have come as far before anybody is stopped there.
    """

    least: int = 5

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        at_least(2, "strategy.options.least", self.least)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        return _begun(self, task, lambda space: MedianStopping(uniform(space), self.least))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch(_WithTarget):
    """Options of random search: every configuration is trained to the end. See this module for those not named here.

    Attributes:
        sobol: Whether configurations come from a scrambled Sobol sequence, which fills the space more evenly.
    """

    sobol: bool = False

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check_target(self.target_generations, 1)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        scrambled = int(generator(task.seed, "sobol").integers(2**62))

        def policy_for(space: Space) -> Policy:
            return Straight(sobol(space, scrambled) if self.sobol else uniform(space))

        return _straight(self, task, policy_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptunaSearch(_WithRungs):
    """Options of a search by one of Optuna's samplers; see `pbt.search.optuna_proposer`, and this module.

    Attributes:
        sampler: `tpe`, `gp` or `cma_es`.
        halving: Whether runs are promoted from rung to rung; otherwise all are trained to the end. `gp` and `cma_es`
            learn from those only.
        min_generations: Of the first rung, if there are any.
        reduction_factor: One in so many goes on from a rung, if there are any.
    """

    sampler: str = "tpe"
    halving: bool = False

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check_rungs(self)
        is_known = self.sampler in _SAMPLERS
        require(
            is_known, "strategy.options.sampler", f"{self.sampler!r} is unknown", nearest(str(self.sampler), _SAMPLERS)
        )

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        from pbt.search.optuna_proposer import OptunaProposer

        seed = int(generator(task.seed, "optuna").integers(2**31))
        eta = float(self.reduction_factor)

        def policy_for(space: Space) -> Policy:
            propose: Proposer = OptunaProposer(space, self.sampler, seed)
            return Halving(propose, eta) if self.halving else Straight(propose)

        if not self.halving:
            return _straight(self, task, policy_for)
        way = course(_rungs(self, task.budget), generation=task.budget.steps, eta=eta)
        return Search(task, policy_for, way, self.synchronous, self.initial)


def _begun(options: _WithFidelity, task: Task, policy_for: Callable[[Space], Policy]) -> Search:
    """The search by options that have rungs.

    Raises:
        SpecError: The task leaves no room for them.
    """
    for name, value in getattr(options, "guess", {}).items():
        where = f"strategy.options.guess.{name}"
        is_searched = name in task.space and name != options.fidelity
        require(is_searched, where, "is not searched", nearest(name, task.space))
        require(task.space[name].contains(value), where, f"{value!r} is out of bounds", task.space[name].mend(value))
    for name in options.cost:
        require(name in task.space, f"strategy.options.cost.{name}", "is not in the space", nearest(name, task.space))
        _check_base(name, task.space[name])
    way = _course(options, task)
    _check_room(way.ladder, task.budget)
    return Search(task, policy_for, way, options.synchronous, options.initial, options.cost)


def _check_room(ladder: Ladder, budget: Budget) -> None:
    """Refuse a budget in which not even the first configuration can be trained to the end."""
    first = ladder.rungs[0]
    needed = first + ladder.to_train(first, ladder.target)
    told = f"leaves {budget.member_steps} steps, but the first configuration takes {needed:g} to the end"
    mend = f"Write {math.ceil(needed / (budget.members * budget.steps))} or more"
    require(needed <= budget.member_steps, "budget.generations", told, mend)


def _model(options: _WithModel, task: Task, space: Space) -> CurveModel:
    """What is known before anything is tried."""
    way = _course(options, task)
    earlier = tuple(_earlier(run, task, way) for run in options.earlier if isinstance(run, Mapping))
    _check_on_rungs(earlier, way.ladder)
    return CurveModel(space, earlier, Guess(options.guess))


def _check_on_rungs(earlier: Sequence[Earlier], ladder: Ladder) -> None:
    """Refuse runs of which none was looked at near a rung: all of them would count for nothing."""
    if not earlier or any(True for run in earlier for _ in run.on(ladder)):
        return
    reached = [steps for run in earlier for steps, _ in run.curve]
    rungs = ", ".join(f"{it:g}" for it in ladder.rungs)
    told = f"tells scores after {min(reached):g} to {max(reached):g} steps, none of them near a rung ({rungs})"
    mend = "Write {source: ..., steps_each: N}, with N steps of ours for one of theirs, or other rungs"
    raise SpecError("strategy.options.earlier", told, mend)


def _earlier(run: Mapping[str, Any], task: Task, way: Course) -> Earlier:
    hparams = {name: value for name, value in run["hparams"].items() if name != way.name}
    curve = tuple(
        (way.position(run["hparams"], steps), math.inf if score is None else badness(score, task.mode))
        for steps, score in run["curve"]
    )
    return Earlier(hparams, curve, way.reach(run["hparams"]))


def _straight(options: _WithTarget, task: Task, policy_for: Callable[[Space], Policy]) -> Search:
    """The search by options that train all runs to the end."""
    target = float(_target(options.target_generations, task.budget) * task.budget.steps)
    way = course(Ladder((target,)), generation=task.budget.steps)
    return Search(task, policy_for, way, options.synchronous, options.initial)


def _course(options: _WithFidelity, task: Task) -> Course:
    name, ladder = options.fidelity, _rungs(options, task.budget)
    steps, eta = task.budget.steps, float(options.reduction_factor)
    if name is None:
        return course(ladder, resumable=options.resumable, generation=steps, eta=eta)
    where = "strategy.options.fidelity"
    require(name in task.space, where, f"{name!r} is not in the space", nearest(name, task.space))
    require(len(task.space) > 1, where, "leaves nothing to search", "Put other hyperparameters into the space")
    exponent = options.cost.get(name, 1.0)
    told, mend = f"is {exponent:g}: larger ones have to cost more", "Write a positive power, such as 1"
    require(exponent > 0, f"strategy.options.cost.{name}", told, mend)
    values = _ascending(name, task.space[name])
    for other, domain in task.space.items():
        told = f"{name!r} decides whether {other} is there"
        require(name not in (domain.when or {}), where, told, "Name one on which nothing depends")
    return course(ladder, name, values, exponent, options.resumable, steps, eta)


def _ascending(name: str, domain: Domain) -> list[Any]:
    """Values of a hyperparameter from the smallest to the one that is wanted."""
    where, mend = "strategy.options.fidelity", f"Write space.{name} as a choice of numbers, such as [16, 32, 64]"
    values: Sequence[Any] = domain.options if isinstance(domain, Choice) else ()
    if isinstance(domain, Int):
        values = range(domain.low, domain.high + 1, domain.step)
    is_good = 2 <= len(values) <= 16 and all(is_number(it) and it > 0 for it in values) and not domain.when
    require(is_good, where, f"{name!r} has no few positive values that ascend", mend)
    ordered = sorted(values)
    assert all(low < high for low, high in pairwise(ordered))
    return ordered


def _check_base(name: str, domain: Domain) -> None:
    """Refuse a hyperparameter of which there is no power."""
    values = domain.options if isinstance(domain, Choice) else [getattr(domain, "low", None)]
    where, mend = f"strategy.options.cost.{name}", "Name hyperparameters that are positive numbers"
    require(all(is_number(it) and it > 0 for it in values), where, f"is a power of {domain}", mend)


def _check(options: _WithFidelity) -> None:
    _check_rungs(options)
    told, mend = f"{options.fidelity!r} is no name", "Write the name of a hyperparameter, such as width"
    require(options.fidelity is None or isinstance(options.fidelity, str), "strategy.options.fidelity", told, mend)
    told, mend = f"{options.cost!r} is no mapping", "Write powers by name, such as {width: 2}"
    require(isinstance(options.cost, Mapping), "strategy.options.cost", told, mend)
    told = f"{options.resumable!r} is neither true nor false"
    require(isinstance(options.resumable, bool), "strategy.options.resumable", told, "Write true or false")
    for name, exponent in options.cost.items():
        told, mend = f"{exponent!r} is no number", "Write a power, such as 2"
        require(is_number(exponent), f"strategy.options.cost.{name}", told, mend)


def _check_rungs(options: _WithRungs) -> None:
    at_least(1, "strategy.options.min_generations", options.min_generations)
    at_least(2, "strategy.options.reduction_factor", options.reduction_factor)
    _check_target(options.target_generations, options.min_generations)


def _check_target(target: int | None, least: int) -> None:
    if target is not None:
        at_least(least, "strategy.options.target_generations", target)


def _check_model(options: _WithModel) -> None:
    at_least(1, "strategy.options.startup", options.startup)
    is_share, told = is_number(options.random) and 0 <= options.random <= 1, f"{options.random!r} is not from 0 to 1"
    require(is_share, "strategy.options.random", told, "Write a share, such as 0.1")
    told, mend = f"{options.guess!r} is no mapping", "Write values by name, such as {lr: 0.001}"
    require(isinstance(options.guess, Mapping), "strategy.options.guess", told, mend)
    told, mend = f"{options.earlier!r} is no list", "Write a list of runs, or of what holds them"
    require(isinstance(options.earlier, list | tuple), "strategy.options.earlier", told, mend)


def _target(wanted: int | None, budget: Budget) -> int:
    """Generations of a run to the end.

    Raises:
        SpecError: The budget has fewer for each member.
    """
    target = wanted or max(1, budget.generations // _PART)
    if target > budget.generations:
        problem = f"is {target}, but the budget has {budget.generations} generations"
        mend = f"Write at most {budget.generations}, or raise budget.generations to {target} or more"
        raise SpecError("strategy.options.target_generations", problem, mend)
    return target


def _rungs(options: _WithRungs, budget: Budget) -> Ladder:
    """Where runs are compared, in steps.

    Raises:
        SpecError: Nobody could be trained to the end, or the first rung lies beyond it.
    """
    target = _target(options.target_generations, budget)
    least = options.min_generations
    if least > target:
        problem = f"is {least}, but a run is trained for {target} generations"
        raise SpecError("strategy.options.min_generations", problem, f"Write at most {target}, or raise the budget")
    ladder = Ladder.between(least, target, options.reduction_factor)
    return Ladder(tuple(rung * budget.steps for rung in ladder.rungs))
