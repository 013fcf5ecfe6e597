"""What is trained on the way to each rung: so many steps, and of which model.

Besides training for less, a configuration can be judged by something smaller: a narrower or shallower model, a part of
the data. That is a hyperparameter whose values ascend to the one that is wanted. Both get cheaper from the target down,
rung by rung, until each is at its least; a run that comes to another value begins again with it.

The ladder counts in steps of the target: a step of a model that costs a quarter is a quarter of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pbt.member import Hparams
from pbt.search.policy import Ladder
from searchspaces import Space


@dataclass(frozen=True, slots=True)
class Course:
    """The way to the target.

    Attributes:
        ladder: Rungs, in steps of the target.
        steps: That a member is trained until each, in its own steps.
        name: The hyperparameter that is smaller on the way; None if there is none.
        values: What it is on the way to each rung; empty if there is none.
        resumable: Whether runs can go on from a rung.
        generation: Steps of one: rungs are whole ones.
        eta: About how far rungs are apart, as a factor.
    """

    ladder: Ladder
    steps: tuple[int, ...]
    name: str | None = None
    values: tuple[Any, ...] = ()
    resumable: bool = True
    generation: int = 1
    eta: float = 3.0

    def raised(self, target: int) -> Course:
        """The way to a target of so many steps, which is further: the rungs stay, and others come after them."""
        least = self.steps[-1] / self.generation
        further = [int(it) * self.generation for it in Ladder.between(least, target / self.generation, self.eta).rungs]
        beyond = [it for it in further if it > self.steps[-1]]
        values = (*self.values, *self.values[-1:] * len(beyond))
        rungs = (*self.ladder.rungs, *map(float, beyond))
        ladder = Ladder(rungs, _kinds(values, len(rungs), self.resumable))
        return replace(self, ladder=ladder, steps=(*self.steps, *beyond), values=values)

    def own_steps(self, rung: float) -> int:
        """Of a member that is trained until a rung."""
        return self.steps[self.ladder.index(rung)]

    def rate(self, rung: float) -> float:
        """Steps of the target that one step costs on the way to a rung."""
        number = self.ladder.index(rung)
        return self.ladder.rungs[number] / self.steps[number]

    def position(self, recorded: Hparams, steps: float | None) -> float:
        """Steps of the target that so many cost with these hyperparameters; None takes as many as lead to the end."""
        own = self._rungs_of(recorded)
        last = own[-1] if own else self.ladder.target
        return last if steps is None else steps * self.rate(last)

    def reach(self, recorded: Hparams) -> tuple[float, float]:
        """From which rung to which such models are trained; the wanted ones to whatever target."""
        if self.name is None:
            return 0.0, float("inf")
        own = self._rungs_of(recorded)
        if not own:
            return float("inf"), float("inf")
        return own[0], float("inf") if own[-1] == self.ladder.target else own[-1]

    def _rungs_of(self, recorded: Hparams) -> list[float]:
        """To which such models are trained."""
        if self.name is None:
            return list(self.ladder.rungs)
        return [it for it, value in zip(self.ladder.rungs, self.values, strict=True) if value == recorded[self.name]]

    def hparams(self, run: Hparams, rung: float) -> dict[str, Any]:
        """Of a member that is trained until a rung, given those of its run."""
        own = {} if self.name is None else {self.name: self.values[self.ladder.index(rung)]}
        return {**run, **own}

    def varied(self, space: Space) -> Space:
        """What is searched."""
        return Space({name: domain for name, domain in space.items() if name != self.name})


def course(
    ladder: Ladder,
    name: str | None = None,
    values: Sequence[Any] = (),
    exponent: float = 1.0,
    resumable: bool = True,
    generation: int = 1,
    eta: float = 3.0,
) -> Course:
    """The way to the target by a ladder of steps, and by a hyperparameter that is smaller at first.

    Args:
        ladder: Rungs in steps, if nothing was smaller.
        name: Of the hyperparameter.
        values: Of it, ascending; the last is wanted.
        exponent: A step costs as this power of it.
        resumable: Whether runs can go on from a rung; otherwise they begin again at each.
        generation: Steps of one: rungs are whole ones.
        eta: About how far rungs are apart, as a factor.
    """
    steps = [round(it) for it in ladder.rungs]
    if name is None:
        plain = Ladder(ladder.rungs, _kinds((), len(steps), resumable))
        return Course(plain, tuple(steps), resumable=resumable, generation=generation, eta=eta)
    number = max(len(steps), len(values))
    own, steps = _from_the_last(list(values), number), _from_the_last(steps, number)
    rungs = tuple(it * (value / own[-1]) ** exponent for it, value in zip(steps, own, strict=True))
    sized = Ladder(rungs, _kinds(own, number, resumable))
    return Course(sized, tuple(steps), name, tuple(own), resumable, generation, eta)


def cost_of(hparams: Hparams, exponents: Mapping[str, float]) -> float:
    """What a step costs, up to a factor: a product of powers of hyperparameters; of those that are not there, 1."""
    product = 1.0
    for name, exponent in exponents.items():
        product *= float(hparams.get(name, 1.0)) ** exponent
    return product


def _kinds(values: Sequence[Any], number: int, resumable: bool) -> tuple[int, ...]:
    """Of so many rungs: from one kind to another a run begins again."""
    return tuple(values.index(value) for value in values) if resumable else tuple(range(number))


def _from_the_last(values: list[Any], number: int) -> list[Any]:
    """So many: the last ones of those there are, and before them the first, again and again."""
    return [values[max(0, len(values) - number + it)] for it in range(number)]
