"""Schedules that are known before the sweep begins, each trained with the same seeds.

An arm is a schedule: the hyperparameters to train with, by age. Every arm has as many members as there are seeds, and
the k-th member of each has the same seed. With it go initial weights, data order and every other draw, so that members
of two arms differ in what they are trained with and in nothing else, and the arms can be compared pair by pair. Nobody
is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from numpy.random import Generator

from pbt.errors import SpecError, nearest
from pbt.member import Hparams, Shrinkage, generator
from pbt.population.evolution import Evolution
from pbt.population.explore import carried
from pbt.population.rounds import Rounds
from pbt.population.verdicts import Adopt, Renew, Standing, Verdict
from pbt.spec import Budget, at_least, is_number, require
from pbt.strategy import Strategy, Task
from searchspaces import SpaceError

_WHERE = "strategy.options."
_WRITE = "Write [[0, {lr: 0.1}], [100, {lr: 0.05}]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is trained with every seed.

    Attributes:
        name: For people; no two arms have the same.
        schedule: `(age, hparams)`: from that age on, these hyperparameters; the first age is 0. Empty draws a
            configuration of its own for each seed from the space, and keeps it to the end: random search.
        source: Where the schedule comes from, for people.
        shrinks: `(age, keep, noise)`: at that age, weights are shrunk and perturbed; see `pbt.member.Shrinkage`.
    """

    name: str
    schedule: Sequence[tuple[int, Hparams]] = ()
    source: str = ""
    shrinks: Sequence[tuple[int, float, float]] = ()

    def at(self, age: int) -> Hparams | None:
        """The hyperparameters at an age; None where they are drawn."""
        return next((hparams for since, hparams in reversed(self.schedule) if since <= age), None)

    def shrink_at(self, age: int) -> tuple[float, float] | None:
        """What is kept of the weights at an age, and how much noise is added; None if they stay."""
        return next(((keep, noise) for at, keep, noise in self.shrinks if at == age), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Options of a replay. Member `arm * seeds + k` trains by that arm's schedule, with the k-th seed.

    Attributes:
        arms: The schedules; mappings of an arm's fields are taken, too.
        seeds: With how many seeds each is trained.
    """

    arms: Sequence[Arm] = ()
    seeds: int = 5

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        at_least(1, _WHERE + "seeds", self.seeds, "Write 5, or more for narrower intervals")
        is_list = isinstance(self.arms, list | tuple) and len(self.arms) > 0
        problem = f"{self.arms!r} is not a list of arms"
        require(is_list, _WHERE + "arms", problem, "Write [{name: mine, schedule: [[0, {lr: 0.1}]]}]")
        object.__setattr__(self, "arms", tuple(_arm(f"{_WHERE}arms[{i}]", arm) for i, arm in enumerate(self.arms)))
        names = [arm.name for arm in self.arms]
        for index, name in enumerate(names):
            require(name not in names[:index], f"{_WHERE}arms[{index}].name", f"{name!r} is taken", "Write another")

    @property
    def synchronous(self) -> bool:
        """All members change hyperparameters at ends of generations."""
        return True

    def check(self, budget: Budget) -> None:
        """Refuse a budget that does not fit the arms.

        Raises:
            SpecError: Another number of members is asked for, or a change falls into the midst of a generation, or
                behind the end.
        """
        wanted = len(self.arms) * self.seeds
        problem = f"is {budget.members}, but {len(self.arms)} arms with {self.seeds} seeds each are {wanted} members"
        require(budget.members == wanted, "budget.members", problem, f"Write {wanted}")
        for index, arm in enumerate(self.arms):
            for place, (age, _) in enumerate(arm.schedule):
                _check_age(f"{_WHERE}arms[{index}].schedule[{place}]", age, budget)
            for place, (age, _, _) in enumerate(arm.shrinks):
                _check_age(f"{_WHERE}arms[{index}].shrinks[{place}]", age, budget)

    def check_task(self, task: Task) -> None:
        """Refuse hyperparameters that are no point of the space, or that weights are not made for.

        Raises:
            SpecError: Some are not.
        """
        for index, arm in enumerate(self.arms):
            for place, (_, hparams) in enumerate(arm.schedule):
                where = f"{_WHERE}arms[{index}].schedule[{place}]"
                try:
                    task.space.check(hparams)
                except SpaceError as error:
                    raise SpecError(where, "is not in the space", str(error)) from error
                first = carried(task, arm.schedule[0][1])
                problem = f"has {carried(task, hparams)}, but the weights are made for {first}"
                require(carried(task, hparams) == first, where, problem, "Write the same in all of a schedule")

    def begin(self, task: Task) -> Strategy:
        """Start on a task. Members that an extension adds beyond the arms draw configurations of their own."""
        initial = [self._first(task, member) for member in range(len(self.arms) * self.seeds)]
        return Evolution(task, Rounds(self.evolve), initial, seed_of=self._seed_of)

    def evolve(self, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """Who goes on with other hyperparameters after a generation, in member order.

        Args:
            task: What is optimised.
            generation: The generation that just ended.
            ranking: Those who live; how well they did makes no difference.
        """
        age = (generation + 1) * task.budget.steps
        standings = sorted(ranking, key=lambda it: it.member)
        return [it for it in (self._change(task, standing, age) for standing in standings) if it is not None]

    def _change(self, task: Task, standing: Standing, age: int) -> Verdict | None:
        """What changes for a member at an age; None if nothing does."""
        member = standing.member
        if (arm := self._arm_of(member)) is None:
            return None
        hparams = arm.at(age) or standing.hparams
        if (shares := arm.shrink_at(age)) is not None:
            how = Shrinkage(*shares, seed=int(generator(task.seed, "replay shrink", age, member).integers(2**62)))
            return Renew(member, member, hparams, how, "the schedule says so")
        return None if hparams == standing.hparams else Adopt(member, hparams)

    def _arm_of(self, member: int) -> Arm | None:
        arm = member // self.seeds
        return self.arms[arm] if arm < len(self.arms) else None

    def _first(self, task: Task, member: int) -> Hparams:
        arm = self._arm_of(member)
        known = arm.at(0) if arm else None
        return known if known is not None else task.space.sample(self._generator(task, *divmod(member, self.seeds)))

    def _generator(self, task: Task, arm: int, k: int) -> Generator:
        """What an arm without a schedule draws with the k-th seed does not depend on how many seeds there are."""
        return generator(task.seed, "replay draw", arm, k)

    def _seed_of(self, seed: int, member: int) -> int:
        return replay_seed(seed, member % self.seeds)


def replay_seed(seed: int, k: int) -> int:
    """The k-th seed that schedules are trained with, in `[0, 2**62)`: no member of a population has it.

    Args:
        seed: The sweep's.
        k: Counted from 0.
    """
    return int(generator(seed, "replay seed", k).integers(2**62))


def _arm(where: str, given: Arm | Mapping[str, Any]) -> Arm:
    """An arm, itself or as a mapping of its fields, with a schedule that is one.

    Raises:
        SpecError: It is no arm.
    """
    if not isinstance(given, Arm):
        require(isinstance(given, Mapping), where, f"{given!r} is no arm", "Write {name: ..., schedule: ...}")
        names = [field.name for field in fields(Arm)]
        for name in given:
            require(name in names, f"{where}.{name}", "is not a known key", nearest(str(name), names))
        require("name" in given, f"{where}.name", "is missing", "Add `name:`")
        given = Arm(**given)
    is_name = isinstance(given.name, str) and bool(given.name)
    require(is_name, f"{where}.name", f"{given.name!r} is no name", "Write some words")
    schedule, shrinks = _schedule(f"{where}.schedule", given.schedule), _shrinks(f"{where}.shrinks", given.shrinks)
    return Arm(name=given.name, schedule=schedule, source=given.source, shrinks=shrinks)


def _schedule(where: str, given: Sequence[tuple[int, Hparams]]) -> tuple[tuple[int, Hparams], ...]:
    is_list = isinstance(given, list | tuple) and all(isinstance(it, list | tuple) and len(it) == 2 for it in given)
    require(is_list, where, f"{given!r} is not a list of [age, hyperparameters]", _WRITE)
    ages = [age for age, _ in given]
    are_ages = all(isinstance(age, int) and not isinstance(age, bool) for age in ages)
    rise = are_ages and ages == sorted(set(ages)) and ages[:1] in ([], [0])
    require(rise, where, f"has the ages {ages}, which are not whole numbers that rise from 0", _WRITE)
    for place, (_, hparams) in enumerate(given):
        require(isinstance(hparams, Mapping), f"{where}[{place}]", f"{hparams!r} is not a mapping", _WRITE)
    return tuple((age, hparams) for age, hparams in given)


def _shrinks(where: str, given: Sequence[tuple[int, float, float]]) -> tuple[tuple[int, float, float], ...]:
    mend = "Write [[100, 0.2, 0.1]]: age, share of the weights that is kept, share of new ones"
    is_list = isinstance(given, list | tuple) and all(isinstance(it, list | tuple) and len(it) == 3 for it in given)
    require(is_list, where, f"{given!r} is not a list of [age, keep, noise]", mend)
    for place, (age, keep, noise) in enumerate(given):
        at_least(1, f"{where}[{place}]", age, mend)
        are_shares = all(is_number(share) and 0 <= share <= 1 for share in (keep, noise))
        require(are_shares, f"{where}[{place}]", f"{[keep, noise]} are not from 0 to 1", mend)
    return tuple((age, keep, noise) for age, keep, noise in given)


def _check_age(where: str, age: int, budget: Budget) -> None:
    """A change is made between two generations, or never."""
    steps, end = budget.steps, budget.generations * budget.steps
    near = max(steps, round(age / steps) * steps)
    problem = f"begins at age {age}, in the midst of a generation of {steps} steps"
    require(age % steps == 0, where, problem, f"Write {near}, or budget.steps that divide {age}")
    problem = f"begins at age {age}, but the sweep ends at {end}"
    require(age < end, where, problem, "Raise budget.generations, or leave it out")
