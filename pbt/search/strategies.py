"""Searches as strategies: their options.

All of them read a budget in the same way: `members` train at once, and so many times `generations` times `steps` are
trained in all, as by any other strategy. A run that is trained to the end takes `target_generations` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pbt.errors import SpecError
from pbt.member import Hparams, generator
from pbt.search.curve_model import CurveModel
from pbt.search.freeze_thaw import FreezeThawPolicy
from pbt.search.policy import Ladder, Policy
from pbt.search.promotion import Halving, MedianStopping, Proposer, Straight
from pbt.search.proposers import sobol, uniform
from pbt.search.search import Search
from pbt.spec import Budget, at_least, is_number, require
from pbt.strategy import Strategy, Task
from searchspaces import Space

#: Of the generations of the budget, a run to the end takes this part unless said otherwise.
_PART = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeThaw:
    """Options of freeze-thaw search; see `pbt.search.freeze_thaw`.

    Attributes:
        target_generations: Of a run that is trained to the end; None takes a quarter of the budget's.
        min_generations: Of the first rung.
        reduction_factor: One in so many goes on from a rung, and the next is so many times as far.
        startup: Configurations drawn at random before the model is asked.
        random: Share of decisions that are random starts, in [0, 1].
        initial: The first configurations.
        synchronous: Whether slots that are free wait for the others to end their generation. Then the same seed gives
            the same sweep, whatever it runs on.
    """

    target_generations: int | None = None
    min_generations: int = 1
    reduction_factor: int = 3
    startup: int = 8
    random: float = 0.1
    initial: Sequence[Hparams] = ()
    synchronous: bool = True

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        at_least(1, "strategy.options.startup", self.startup)
        is_share, told = is_number(self.random) and 0 <= self.random <= 1, f"{self.random!r} is not from 0 to 1"
        require(is_share, "strategy.options.random", told, "Write a share, such as 0.1")

    def check(self, budget: Budget) -> None:
        """Refuse a budget in which nobody can be trained to the end."""
        _rungs(self, budget)

    def target_steps(self, budget: Budget) -> int:
        """Of a run that is trained to the end."""
        return _target(self.target_generations, budget) * budget.steps

    def most_initial(self, budget: Budget) -> int:
        """How many configurations can be named."""
        return budget.member_steps // budget.steps

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        factor = float(self.reduction_factor)

        def policy_for(space: Space) -> Policy:
            return FreezeThawPolicy(model=CurveModel(space), eta=factor, startup=self.startup, random=self.random)

        return Search(task, policy_for, _rungs(self, task.budget), self.synchronous, self.initial)


@dataclass(frozen=True, slots=True, kw_only=True)
class ASHA:
    """Options of asynchronous successive halving with promotions; see `pbt.search.promotion`.

    Attributes:
        target_generations: Of a run that is trained to the end; None takes a quarter of the budget's.
        min_generations: Of the first rung.
        reduction_factor: One in so many goes on from a rung, and the next is so many times as far.
        brackets: With 1 all begin on the first rung; with more it is Hyperband, in which some begin on later ones.
        initial: The first configurations.
        synchronous: Whether slots that are free wait for the others to end their generation.
    """

    target_generations: int | None = None
    min_generations: int = 1
    reduction_factor: int = 3
    brackets: int = 1
    initial: Sequence[Hparams] = ()
    synchronous: bool = True

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        at_least(1, "strategy.options.brackets", self.brackets)

    def check(self, budget: Budget) -> None:
        """Refuse a budget in which nobody can be trained to the end."""
        _rungs(self, budget)

    def target_steps(self, budget: Budget) -> int:
        """Of a run that is trained to the end."""
        return _target(self.target_generations, budget) * budget.steps

    def most_initial(self, budget: Budget) -> int:
        """How many configurations can be named."""
        return budget.member_steps // budget.steps

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        factor, brackets = float(self.reduction_factor), self.brackets

        def policy_for(space: Space) -> Policy:
            return Halving(uniform(space), factor, brackets)

        return Search(task, policy_for, _rungs(self, task.budget), self.synchronous, self.initial)


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianRule:
    """Options of the median stopping rule: who is worse than the median of those that came as far is not gone on with.

    Attributes:
        target_generations: Of a run that is trained to the end; None takes a quarter of the budget's.
        min_generations: Of the first rung.
        reduction_factor: A rung is so many times as far as the one before.
        least: So many must have come as far before anybody is stopped there.
        initial: The first configurations.
        synchronous: Whether slots that are free wait for the others to end their generation.
    """

    target_generations: int | None = None
    min_generations: int = 1
    reduction_factor: int = 3
    least: int = 5
    initial: Sequence[Hparams] = ()
    synchronous: bool = True

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check(self)
        at_least(2, "strategy.options.least", self.least)

    def check(self, budget: Budget) -> None:
        """Refuse a budget in which nobody can be trained to the end."""
        _rungs(self, budget)

    def target_steps(self, budget: Budget) -> int:
        """Of a run that is trained to the end."""
        return _target(self.target_generations, budget) * budget.steps

    def most_initial(self, budget: Budget) -> int:
        """How many configurations can be named."""
        return budget.member_steps // budget.steps

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        least = self.least

        def policy_for(space: Space) -> Policy:
            return MedianStopping(uniform(space), least)

        return Search(task, policy_for, _rungs(self, task.budget), self.synchronous, self.initial)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch:
    """Options of random search: every configuration is trained to the end.

    Attributes:
        target_generations: Of a run that is trained to the end; None takes a quarter of the budget's.
        sobol: Whether configurations come from a scrambled Sobol sequence, which fills the space more evenly.
        initial: The first configurations.
        synchronous: Whether slots that are free wait for the others to end their generation.
    """

    target_generations: int | None = None
    sobol: bool = False
    initial: Sequence[Hparams] = ()
    synchronous: bool = True

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _check_target(self.target_generations, 1)

    def check(self, budget: Budget) -> None:
        """Refuse a budget in which nobody can be trained to the end."""
        _target(self.target_generations, budget)

    def target_steps(self, budget: Budget) -> int:
        """Of a run that is trained to the end."""
        return _target(self.target_generations, budget) * budget.steps

    def most_initial(self, budget: Budget) -> int:
        """How many configurations can be named."""
        return budget.member_steps // (_target(self.target_generations, budget) * budget.steps)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        ladder = Ladder((float(_target(self.target_generations, task.budget) * task.budget.steps),))
        return Search(task, self._policy_for(task.seed), ladder, self.synchronous, self.initial)

    def _policy_for(self, seed: int) -> Callable[[Space], Policy]:
        def policy_for(space: Space) -> Policy:
            scrambled = int(generator(seed, "sobol").integers(2**62))
            propose: Proposer = sobol(space, scrambled) if self.sobol else uniform(space)
            return Straight(propose)

        return policy_for


class _WithRungs(Protocol):
    @property
    def target_generations(self) -> int | None: ...

    @property
    def min_generations(self) -> int: ...

    @property
    def reduction_factor(self) -> int: ...


def _check(options: _WithRungs) -> None:
    at_least(1, "strategy.options.min_generations", options.min_generations)
    at_least(2, "strategy.options.reduction_factor", options.reduction_factor)
    _check_target(options.target_generations, options.min_generations)


def _check_target(target: int | None, least: int) -> None:
    if target is not None:
        at_least(least, "strategy.options.target_generations", target)


def _target(wanted: int | None, budget: Budget) -> int:
    """Generations of a run to the end.

    Raises:
        SpecError: The budget has fewer for each member.
    """
    target = wanted or max(1, budget.generations // _PART)
    if target > budget.generations:
        problem = f"is {target}, but the budget has {budget.generations} generations"
        mend = f"Write {max(1, budget.generations // _PART)}, so that each slot can train {_PART} runs to the end"
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
