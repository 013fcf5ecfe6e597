"""Optuna's samplers and pruners, on the same tables: each suggestion is taken to the configuration that there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmarks.search.world import Snap
from pbt.search.optuna_proposer import distribution_of
from pbt.search.policy import Begin, Book, GoOn, Order
from pbt.search.promotion import lowest
from searchspaces import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """A space in Optuna's words."""
    found = {name: distribution_of(it) for name, it in space.items()}
    for name, kind in found.items():
        if kind is None:
            raise ValueError(f"{name}: Optuna has nothing like {space[name]}")
    return {name: kind for name, kind in found.items() if kind is not None}


class Snapped(BaseSampler):
    """A sampler whose suggestions are taken, all parameters together, to a configuration that there is."""

    def __init__(self, inner: BaseSampler, space: Space, snap: Snap) -> None:
        self._inner, self._space, self._snap = inner, distributions(space), snap

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict:
        known = self._inner.infer_relative_search_space(study, trial)
        chosen = dict(self._inner.sample_relative(study, trial, known))
        for name, it in search_space.items():
            if name not in chosen:
                chosen[name] = self._inner.sample_independent(study, trial, name, it)
        return dict(self._snap(chosen))

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        raise AssertionError(f"{name} was sampled with the others")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)


class OptunaPolicy:
    """A study that is asked and told; a run goes on until it is complete or its pruner ends it."""

    def __init__(self, space: Space, snap: Snap, sampler: BaseSampler, pruner: BasePruner | None = None) -> None:
        self._space = space
        self._has_pruner = pruner is not None
        self._study = optuna.create_study(sampler=Snapped(sampler, space, snap), pruner=pruner or NopPruner())
        self._trials: list[Trial] = []
        self._told = 0

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What one slot does."""
        for run in self._take_in(book):
            return [GoOn(run, book.ladder.next(book.runs[run].steps))]
        trial = self._study.ask(distributions(self._space))
        self._trials.append(trial)
        until = book.ladder.rungs[0] if self._has_pruner else book.ladder.target
        return [Begin(trial.params, until)]

    def recommend(self, book: Book) -> int | None:
        """The best of all last values."""
        return lowest(book)

    def _take_in(self, book: Book) -> list[int]:
        """Tell the study what is new; returns the runs that are to go on."""
        for value in book.values[self._told :]:
            trial = self._trials[value.run]
            trial.report(value.badness, int(value.steps))
            if not math.isfinite(value.badness):
                self._study.tell(trial, state=TrialState.FAIL)
            elif value.steps == book.ladder.target:
                self._study.tell(trial, value.badness)
            elif trial.should_prune():
                self._study.tell(trial, state=TrialState.PRUNED)
        self._told = len(book.values)
        running = TrialState.RUNNING
        return [it for it in book.resting() if self._study.trials[self._trials[it].number].state == running]
