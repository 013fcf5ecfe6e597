"""Configurations to begin from one of Optuna's samplers.

For each, a study is made of the book: runs that ended are complete, those that rest on a rung are pruned there, and
those under way are running. So what a sampler suggests is a function of the book and of the number of the run, though
samplers themselves are not made to be taken down and put up again. The covariance matrix adaptation keeps what it knows
in the trials that it has suggested; after a resumption it is asked for all of them once more.

What diverged counts as the worst that did not. Checked with Optuna 5.0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pbt.errors import SpecError
from pbt.member import Hparams, generator
from pbt.search.policy import Book, Run
from pbt.search.proposers import with_given
from searchspaces import Choice, Float, Int, Space
from searchspaces.domains import Domain

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a study is made for every suggestion


class OptunaProposer:
    """Proposes what a sampler suggests.

    Args:
        space: What may vary.
        sampler: `tpe`, `gp` or `cma_es`, with Optuna's own defaults. TPE takes what is under way for bad, so that
            configurations that are begun at once differ.
        seed: Of all suggestions.

    Raises:
        SpecError: `cma_es` needs a package that is not installed.
    """

    def __init__(self, space: Space, sampler: str, seed: int) -> None:
        self._space, self._name, self._seed = space, sampler, seed
        #: What was suggested as each run, and what the sampler noted about it.
        self._asked: dict[int, tuple[Hparams, Mapping[str, Any]]] = {}
        try:
            self._sampler(0)
        except ImportError as error:
            mend = "Run `pip install cmaes` (the extra `cma`), or write sampler: tpe"
            raise SpecError("strategy.options.sampler", "'cma_es' needs the package cmaes", mend) from error

    def __call__(self, book: Book, seed: int, given: Hparams) -> Hparams:
        """What is suggested; but with the given values."""
        return with_given(self._space, self._suggested(book), given, generator(seed, "given"))

    def _suggested(self, book: Book) -> Hparams:
        """What the sampler suggests as the next run; what it noted is kept."""
        number = len(book.runs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=self._sampler(number))
            study.add_trials(self._trials(book))
            trial = study.ask()
            hparams = self._space.point(_suggest(trial, self._space))
        self._asked[number] = hparams, study.trials[-1].system_attrs
        return hparams

    def _sampler(self, number: int) -> BaseSampler:
        seed = int(generator(self._seed, "sampler", number).integers(2**31))
        match self._name:
            case "tpe":
                return TPESampler(seed=seed, constant_liar=True)
            case "gp":
                return GPSampler(seed=seed)
        own = RandomSampler(seed=seed)
        return CmaEsSampler(seed=seed, independent_sampler=own, warn_independent_sampling=False)

    def _trials(self, book: Book) -> list[FrozenTrial]:
        finite = [value.badness for value in book.values if math.isfinite(value.badness)]
        worst = max(finite, default=0.0)
        return [
            _trial(self._space, run, book.ladder.target, worst, _seen(book, number), self._noted(book, number))
            for number, run in enumerate(book.runs)
        ]

    def _noted(self, book: Book, number: int) -> Mapping[str, Any]:
        if self._name != "cma_es":
            return {}
        if number not in self._asked:
            self._suggested(_before(book, number))
        hparams, notes = self._asked[number]
        return notes if hparams == book.runs[number].hparams else {}  # somebody else thought of it


def _before(book: Book, number: int) -> Book:
    """The book when a run was begun, but for what was under way then."""
    runs = [Run(run.hparams, until=run.first, first=run.first, known=run.known) for run in book.runs[:number]]
    before = Book(book.ladder, book.budget, runs)
    for value in book.values[: book.runs[number].known]:
        before.saw(value)
    return before


def _seen(book: Book, number: int) -> dict[int, float]:
    return {round(it.steps): it.badness for it in book.values if it.run == number and math.isfinite(it.badness)}


def _trial(
    space: Space, run: Run, target: float, worst: float, seen: dict[int, float], noted: Mapping[str, Any]
) -> FrozenTrial:
    state, value = TrialState.PRUNED, None
    if run.is_over:
        state, value = TrialState.COMPLETE, worst
    elif run.steps >= target:
        state, value = TrialState.COMPLETE, run.badness
    elif run.until is not None:
        state = TrialState.RUNNING
    params, kinds = _params(space, run.hparams)
    return create_trial(
        state=state, value=value, params=params, distributions=kinds, intermediate_values=seen, system_attrs=dict(noted)
    )


# --------------------------------------------------------------------------------------------- spaces in Optuna's words


def distribution_of(domain: Domain) -> BaseDistribution | None:
    """A domain as Optuna has it; None if it has nothing like it."""
    match domain:
        case Choice(options=options):
            return CategoricalDistribution(list(options))
        case Int(low=low, high=high, log=log, step=step) if not (log and step != 1):
            return IntDistribution(low, high, log=log, step=step)
        case Float(low=low, high=high, log=log, step=step, log_complement=False) if not (log and step):
            return FloatDistribution(low, high, log=log, step=step)
    return None


def _suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Values of all hyperparameters that are active, parents first."""
    values: dict[str, Any] = {}
    waiting = dict(space)
    while ready := [name for name, domain in waiting.items() if not set(domain.when or {}) & set(waiting)]:
        for name in ready:
            domain = waiting.pop(name)
            conditions = dict(domain.when or {}).items()
            if all(parent in values and values[parent] in _allowed(it) for parent, it in conditions):
                values[name] = _suggested(trial, name, domain)
    return values


def _allowed(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, list | tuple) else (values,)


def _suggested(trial: Trial, name: str, domain: Domain) -> Any:
    match distribution_of(domain):
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, log=log, step=step)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            value = trial.suggest_float(name, low, high, log=log, step=step)
            assert isinstance(domain, Float)
            return value if step is None else domain.decode(domain.encode(value))  # theirs may be 0.6000000000000001
    return domain.decode([trial.suggest_float(label, 0.0, 1.0) for label in domain.labels(name)])


def _params(space: Space, hparams: Hparams) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    params: dict[str, Any] = {}
    kinds: dict[str, BaseDistribution] = {}
    for name, value in hparams.items():
        domain = space[name]
        kind = distribution_of(domain)
        if kind is None:
            labels = domain.labels(name)
            # Its places in the unit cube.
            params |= dict(zip(labels, domain.encode(value), strict=True))
            kinds |= dict.fromkeys(labels, FloatDistribution(0.0, 1.0))
        else:
            params[name], kinds[name] = value, kind
    return params, kinds
