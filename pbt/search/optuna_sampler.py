"""Our search for the best configuration as the sampler of somebody's own Optuna study.

Checked with Optuna 5.0.
"""

from __future__ import annotations

import math
import secrets
import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pbt.errors import SpecError
from pbt.search.curve_search import Run, propose
from searchspaces import Choice, Space
from searchspaces.foreign import from_optuna

#: What was suggested for a trial that has not asked for all of it yet.
_SUGGESTED = "pbt:suggested"
#: Threads that share a study decide one after another, each knowing of those before.
_DECIDING = threading.Lock()


class CurveSampler(BaseSampler):
    """A Gaussian process over the learning curves of all trials; made by `pbt.optuna_sampler`.

    What it suggests for a trial is a function of the study, the trial's number and the seed, so workers of one study
    may each have their own.

    Args:
        seed: Source of every random choice; None draws one.
        n_startup_trials: Trials with values before the process is asked.
        target: Steps after which a trial is complete; None takes the last that any trial has reported.
    """

    def __init__(self, seed: int | None, n_startup_trials: int, target: float | None) -> None:
        self._seed = secrets.randbits(32) if seed is None else seed
        self._startup, self._target = n_startup_trials, target

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that all trials so far have in common, within the bounds of the latest."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        latest = {name: it for known in ended for name, it in known.distributions.items()}
        return {
            name: it
            for name, it in latest.items()
            if not it.single() and all(name in known.distributions for known in ended)
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for these parameters; none while there are too few trials.

        Raises:
            SpecError: The study has several objectives.
        """
        if len(study.directions) > 1:
            mend = "Return one value, or use a sampler for several, such as Optuna's NSGAIISampler"
            raise SpecError("study.directions", f"are {len(study.directions)}, and this sampler seeks one", mend)
        with _DECIDING:
            trials = [it for it in study.get_trials(deepcopy=False) if it.number != trial.number]
            runs = _runs(trials, search_space, study.direction == StudyDirection.MAXIMIZE, self._target)
            if not search_space or sum(bool(run.curve) for run in runs) < self._startup:
                return {}
            seed = self._seed_of(trial)
            chosen = propose(_space(search_space), runs, seed, startup=self._startup, target=self._target)
            # Optuna's own samplers share what they suggest in this way too; it has no documented one.
            study._storage.set_trial_system_attr(trial._trial_id, _SUGGESTED, dict(chosen))
        return {name: _external(search_space[name], value) for name, value in chosen.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value drawn at random."""
        drawn = RandomSampler(seed=self._seed_of(trial, zlib.crc32(param_name.encode())))
        return drawn.sample_independent(study, trial, param_name, param_distribution)

    def _seed_of(self, trial: FrozenTrial, *more: int) -> int:
        """No two trials share their numbers: so no worker repeats what another has drawn, nor what it did before."""
        return int(np.random.SeedSequence([self._seed, trial.number, *more]).generate_state(1)[0])


def _space(distributions: Mapping[str, BaseDistribution]) -> Space:
    """Categories are numbered: what they are is Optuna's, which also knows None."""
    numbers = {name: it for name, it in distributions.items() if not isinstance(it, CategoricalDistribution)}
    domains = dict(from_optuna(numbers))
    for name, it in distributions.items():
        if isinstance(it, CategoricalDistribution):
            domains[name] = Choice(range(len(it.choices)))
    return Space({name: domains[name] for name in distributions})


def _internal(distribution: BaseDistribution, value: Any) -> Any:
    return int(distribution.to_internal_repr(value)) if isinstance(distribution, CategoricalDistribution) else value


def _external(distribution: BaseDistribution, value: Any) -> Any:
    return distribution.to_external_repr(value) if isinstance(distribution, CategoricalDistribution) else value


def _hparams(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> dict[str, Any] | None:
    """A trial's parameters, or what was suggested where it has yet to ask; None if one is missing or out of bounds."""
    known = dict(trial.system_attrs.get(_SUGGESTED, {}))
    for name, it in space.items():
        if name in trial.params:
            if not _holds(it, trial.params[name]):
                return None
            known[name] = _internal(it, trial.params[name])
    return {name: known[name] for name in space} if all(name in known for name in space) else None


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value can be had, also where bounds or choices have changed since."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False


def _runs(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], is_max: bool, target: float | None
) -> list[Run]:
    """Trials as runs; those that lack a parameter are left out, and those that failed before any value diverged."""
    steps = [step for trial in trials for step in trial.intermediate_values]
    first = 1 - min(min(steps, default=1), 1)  # many count from 0; what counts is how many there were
    last = float(target or max((step + first for step in steps), default=1))
    sign = -1.0 if is_max else 1.0
    found = []
    for trial in trials:
        curve = [(float(step + first), sign * value) for step, value in sorted(trial.intermediate_values.items())]
        if trial.state == TrialState.COMPLETE:  # whatever it reported: this is what it is judged by
            assert trial.value is not None
            curve = [(step, value) for step, value in curve if step < last] + [(last, sign * trial.value)]
        if trial.state == TrialState.FAIL and not curve:  # it returned NaN, or had no memory: Optuna does not say
            curve = [(last, math.nan)]
        hparams = _hparams(trial, space)
        if hparams is not None:
            found.append(Run(hparams, curve, is_under_way=trial.state == TrialState.RUNNING))
    return found
