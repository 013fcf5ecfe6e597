"""What is trained: three toys, and three real tasks on data that every machine has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

import trainables
from benchmarks.population_quality.outcome import Stretch
from benchmarks.population_quality.toys import BEST, METRIC, Deceptive, Noisy, Toy
from pbt.member import generator, member_seed
from pbt.spec import Budget, Mode
from searchspaces import Float, Int, Space
from trainables import Trainable


@dataclass(frozen=True, kw_only=True)
class Jury:
    """A way to judge a method by all that it trained.

    Attributes:
        name: Of the score.
        mode: Whether small or large is better.
        judge: Returns it.
    """

    name: str
    mode: Mode
    judge: Callable[[Sequence[Stretch], Budget], float]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A problem, and how much may be trained on it.

    Attributes:
        name: As the record has it.
        title: For people.
        trainable: What is trained.
        space: What may vary.
        metric: The objective, on the validation split; the winner is judged by it on the test split.
        budget: Of every method.
        initial: Hyperparameters of all members; empty draws them from the space, the same for every method.
        jury: What else than the winner's objective on the test split a method is judged by.
    """

    name: str
    title: str
    trainable: Trainable
    space: Space
    metric: str
    budget: Budget
    initial: Sequence[Mapping[str, Any]] = ()
    jury: Jury | None = None

    @cached_property
    def mode(self) -> Mode:
        """Whether a small or a large objective is better."""
        return self.trainable.describe().metrics[self.metric].mode

    @property
    def judged_by(self) -> tuple[str, Mode]:
        """Name and direction of what methods are judged by."""
        if self.jury is None:
            return f"{self.metric} of the winner, test", self.mode
        return self.jury.name, self.jury.mode

    def judge(self, test: float, trained: Sequence[Stretch]) -> float:
        """The score of a method, given its winner's objective on the test split, and all that it trained."""
        return test if self.jury is None else self.jury.judge(trained, self.budget)

    def population(self, seed: int) -> list[dict[str, Any]]:
        """What each member begins with: what our strategies draw, for whoever else is to begin alike."""
        drawn = [self.space.sample(generator(seed, "initial", it)) for it in range(self.budget.members)]
        return [*map(dict, self.initial), *drawn[len(self.initial) :]]

    def seeds(self, seed: int) -> list[int]:
        """Each member's own seed: its weights at the beginning, its data, its noise."""
        return [member_seed(seed, it) for it in range(self.budget.members)]


def task(name: str, quick: bool = False) -> Task:
    """A task by its name; a quick one has a smaller budget."""
    made = TASKS[name]()
    return replace(made, budget=_QUICK[name]) if quick else made


def _figure_2() -> Task:
    """Half of the population can only move one coordinate, the other half the other one.

    Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (arXiv 1711.09846), section 4.1 and
    figure 2, with four members of each kind instead of one.
    """
    return Task(
        name="figure_2",
        title="the paper's toy",
        trainable=trainables.Quadratic(),
        space=Space({"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)}),
        metric="Q",
        budget=Budget(members=8, generations=12, steps=10),
        initial=[{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}] * 4,
    )


def _deceptive() -> Task:
    """In generations of four steps, whoever is greedy is ahead at every comparison."""
    budget = Budget(members=8, generations=25, steps=4)
    return Task(
        name="deceptive",
        title="the deceptive toy",
        trainable=Toy(Deceptive(horizon=budget.generations * budget.steps)),
        space=Space({"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)}),
        metric=METRIC,
        budget=budget,
    )


def _noisy() -> Task:
    """Judged by where the population is in the end.

    A winner owes more to the luck of the first draw than to whoever chose later values: of eight, one is so near the
    best value that nobody can gain much over it, and what it gains is less than the noise.
    """
    return Task(
        name="noisy",
        title="the noisy bandit",
        trainable=Toy(Noisy()),
        space=Space({"h": Float(0.0, 1.0)}),
        metric=METRIC,
        budget=Budget(members=8, generations=20, steps=1),
        jury=Jury(name="mean |h - 0.7| of the last quarter", mode="min", judge=_distance),
    )


def _distance(trained: Sequence[Stretch], budget: Budget) -> float:
    """How far from the best value the population trains in the last quarter of its steps: a mean over steps."""
    first = budget.generations * budget.steps * 3 // 4
    weights = [max(0, it.end - max(it.begin, first)) for it in trained]
    distances = [abs(it.hparams["h"] - BEST) for it in trained]
    return float(np.average(distances, weights=weights)) if any(weights) else math.nan


def _digits() -> Task:
    """A small residual network; the learning rate spans two and a half decades, and nothing lowers it by itself."""
    return Task(
        name="digits",
        title="digits, residual network",
        trainable=trainables.Vision(width=4, batch=32, schedule="constant"),
        space=Space(
            {
                "lr": Float(3e-4, 1e-1, log=True),
                "weight_decay": Float(1e-3, 1.0, log=True),
                "label_smoothing": Float(0.0, 0.2),
                "shift": Int(0, 2),
            }
        ),
        metric="loss",
        budget=Budget(members=8, generations=10, steps=40),
    )


def _language() -> Task:
    """A byte-level transformer on the standard library's text."""
    return Task(
        name="language",
        title="language model",
        trainable=trainables.Language(width=32, depth=1, context=32, schedule="constant", eval_bytes=8_192),
        space=Space(
            {
                "lr": Float(3e-4, 3e-1, log=True),
                "weight_decay": Float(1e-3, 1.0, log=True),
                "dropout": Float(0.0, 0.3),
            }
        ),
        metric="bits_per_byte",
        budget=Budget(members=8, generations=10, steps=50),
    )


def _transformer() -> Task:
    """A vision transformer, which memorises so few images: what regularises it matters as much as the learning rate."""
    return Task(
        name="transformer",
        title="digits, vision transformer",
        trainable=trainables.Vision(
            architecture="vit", width=32, depth=1, heads=2, patch=4, batch=32, schedule="constant"
        ),
        space=Space(
            {
                "lr": Float(1e-4, 3e-2, log=True),
                "weight_decay": Float(1e-3, 1.0, log=True),
                "dropout": Float(0.0, 0.5),
                "shift": Int(0, 3),
                "cutout": Int(0, 4),
            }
        ),
        metric="loss",
        budget=Budget(members=8, generations=10, steps=50),
    )


#: In the order in which they are shown.
TASKS = {
    "figure_2": _figure_2,
    "deceptive": _deceptive,
    "noisy": _noisy,
    "digits": _digits,
    "language": _language,
    "transformer": _transformer,
}

#: Where time is short. The deceptive toy keeps its horizon: with another it would be another problem.
_QUICK = {
    "figure_2": Budget(members=8, generations=8, steps=10),
    "deceptive": Budget(members=8, generations=20, steps=5),
    "noisy": Budget(members=8, generations=8, steps=1),
    "digits": Budget(members=8, generations=5, steps=20),
    "language": Budget(members=8, generations=5, steps=20),
    "transformer": Budget(members=8, generations=5, steps=20),
}
