"""SMAC3's multi-fidelity facade on the same tables, where it is installed: `pip install smac`.

A random forest over configurations of the highest budget that has enough of them, and Hyperband's brackets, which it
fills one after another. Each budget is taken to the rung next to it; configurations, to those that there are.

Source: Lindauer et al. 2022, "SMAC3: A Versatile Bayesian Optimization Package for Hyperparameter Optimization", JMLR
23. Checked with SMAC3 2.4.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pbt.search.policy import Begin, Book, GoOn, Order
from pbt.search.promotion import lowest
from searchspaces import Float, Int, Space

#: Trials that it may think it has.
_TRIALS = 100_000
#: What a run that diverged is told to have cost.
_LOST = 1e9


def is_there() -> bool:
    """Whether SMAC3 is installed."""
    return find_spec("smac") is not None


class SmacPolicy:
    """A facade that is asked and told.

    Args:
        space: Numbers only.
        seed: Of the facade.
        least: The lowest rung.
        target: The highest.
    """

    def __init__(self, space: Space, seed: int, least: float, target: float) -> None:
        from smac import MultiFidelityFacade, Scenario

        logging.getLogger("smac").setLevel(logging.ERROR)
        scenario = Scenario(
            _configuration_space(space, seed),
            n_trials=_TRIALS,
            min_budget=least,
            max_budget=target,
            seed=seed,
            deterministic=True,
            output_directory=Path(tempfile.mkdtemp()),
        )
        self._facade = MultiFidelityFacade(scenario, lambda config, seed, budget: 0.0, overwrite=True, logging_level=40)
        self._space = space
        #: Of each run, its configuration there and the trial under way.
        self._configs: list[Any] = []
        self._trials: dict[int, Any] = {}
        self._told = 0

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What one slot does."""
        self._tell(book)
        while True:
            trial = self._facade.ask()
            until = min(book.ladder.rungs, key=lambda rung: abs(math.log(rung / trial.budget)))
            if trial.config not in self._configs:
                self._configs.append(trial.config)
                self._trials[len(self._configs) - 1] = trial
                return [Begin(dict(trial.config), until)]
            run = self._configs.index(trial.config)
            if book.runs[run].steps < until and not book.runs[run].is_over:
                self._trials[run] = trial
                return [GoOn(run, until)]
            self._answer(trial, book.runs[run].badness)

    def recommend(self, book: Book) -> int | None:
        """The best of all last values."""
        return lowest(book)

    def _tell(self, book: Book) -> None:
        for value in book.values[self._told :]:
            self._answer(self._trials.pop(value.run), value.badness)
        self._told = len(book.values)

    def _answer(self, trial: Any, badness: float) -> None:
        from smac.runhistory import TrialValue

        self._facade.tell(trial, TrialValue(cost=badness if math.isfinite(badness) else _LOST))


def _configuration_space(space: Space, seed: int) -> Any:
    from ConfigSpace import ConfigurationSpace
    from ConfigSpace import Float as TheirFloat
    from ConfigSpace import Integer as TheirInt

    found = ConfigurationSpace(seed=seed)
    for name, it in space.items():
        assert isinstance(it, Float | Int)
        made = TheirFloat if isinstance(it, Float) else TheirInt
        found.add(made(name, (it.low, it.high), log=it.log))
    return found
