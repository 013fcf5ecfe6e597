"""Our search for the best configuration as the `search_alg` of somebody's own `ray.tune.Tuner`.

Checked with Ray 2.60.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical, Float, Integer, LogUniform, Quantized, Uniform
from ray.tune.search.variant_generator import parse_spec_vars

import searchspaces
from pbt.errors import SpecError
from pbt.member import Hparams
from pbt.search.curve_search import Run, propose
from searchspaces import Choice, Space, SpaceError


@dataclass(slots=True)
class _Trial:
    """What is known of a trial.

    Attributes:
        hparams: What was suggested.
        curve: Time and value of its results.
        is_under_way: Whether it has not ended.
    """

    hparams: Hparams
    curve: list[tuple[float, float]] = field(default_factory=list)
    is_under_way: bool = True


class CurveSearcher(Searcher):
    """A Gaussian process over the learning curves of all trials; made by `pbt.tune_searcher`.

    Args:
        space: What may vary; None takes what `param_space` leaves open.
        metric: In a trial's results; None takes that of the `TuneConfig`.
        mode: `min` or `max`; likewise.
        initial: Configurations that are tried first.
        seed: Source of every random choice.
        startup: Trials with results before the process is asked.
        target: Of `time_attr`, where a trial is trained to the end; None takes the most that any came to.
        time_attr: What of a result counts steps.
    """

    def __init__(
        self,
        space: Space | None,
        metric: str | None,
        mode: str | None,
        initial: Sequence[Hparams],
        seed: int,
        startup: int,
        target: float | None,
        time_attr: str,
    ) -> None:
        super().__init__()
        self._metric: str | None = metric
        self._mode: str | None = mode
        self._space, self._initial = space, [dict(it) for it in initial]
        self._seed, self._startup, self._target, self._time_attr = seed, startup, target, time_attr
        #: Of choices in a space of Tune's, which are numbered in ours: what the numbers stand for.
        self._options: dict[str, list[Any]] = {}
        self._trials: dict[str, _Trial] = {}

    # ------------------------------------------------------------------------------------------- what Tune asks

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Take metric and space of the Tuner; where its `param_space` is empty, Tune does not call this.

        Raises:
            SpecError: There is a space too many, or it cannot be searched.
        """
        self._metric, self._mode = metric or self._metric, mode or self._mode
        open_names = _open(config)
        if self._space is None and open_names:
            self._space, self._options = _space_of(open_names)
        elif open_names and not self._trials:  # a search that is restored may be given the same again
            told = f"leaves {', '.join(sorted(open_names))} open, and the searcher has a space of its own"
            raise SpecError("param_space", told, "Leave it out of one of them")
        self._check_begun()
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of a new trial.

        Raises:
            SpecError: Tune has not told what is searched, nor for what.
        """
        space = self._check_begun()
        number = len(self._trials)
        if number < len(self._initial):
            chosen: Hparams = {name: self._number(name, value) for name, value in self._initial[number].items()}
        else:
            seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
            runs = [Run(it.hparams, it.curve, it.is_under_way) for it in self._trials.values()]
            chosen = propose(space, runs, seed, startup=self._startup, target=self._target)
        self._trials[trial_id] = _Trial(dict(chosen))
        return _nested({name: self._option(name, value) for name, value in chosen.items()})

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note a result.

        Raises:
            SpecError: It lacks the metric or the time.
        """
        assert self._metric is not None, "a trial was begun without a metric"
        for name in (self._metric, self._time_attr):
            if name not in result:
                told = f"of trial {trial_id} is missing; it reported {', '.join(sorted(result)[:8])}"
                raise SpecError(name, told, "Report it every time, or name another")
        sign = -1.0 if self._mode == "max" else 1.0
        curve, time = self._trials[trial_id].curve, float(result[self._time_attr])
        while curve and curve[-1][0] >= time:  # it went back to a checkpoint
            curve.pop()
        curve.append((time, sign * float(result[self._metric])))

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, was stopped, or has failed: its curve says how far it came; without one, it diverged."""
        trial = self._trials[trial_id]
        if not error and result and self._metric in result and self._time_attr in result:
            self.on_trial_result(trial_id, result)
        trial.is_under_way = False
        if error and not trial.curve:
            trial.curve = [(1.0, math.nan)]

    def save(self, checkpoint_path: str) -> None:
        """Write what is known of the trials, and what is searched, as JSON."""
        trials = {name: [it.hparams, it.curve, it.is_under_way] for name, it in self._trials.items()}
        space = None if self._space is None else self._space.to_json()
        known = {"trials": trials, "space": space, "options": self._options, "for": [self._metric, self._mode]}
        try:
            text = json.dumps(known)
        except TypeError:  # options that are no plain data: whoever restores gives them again
            text = json.dumps({**known, "space": None, "options": {}})
        Path(checkpoint_path).write_text(text)

    def restore(self, checkpoint_path: str) -> None:
        """Read it back; trials that were under way go on under Tune."""
        known = json.loads(Path(checkpoint_path).read_text())
        self._trials = {
            name: _Trial(hparams, [(time, value) for time, value in curve], is_under_way)
            for name, (hparams, curve, is_under_way) in known["trials"].items()
        }
        self._metric, self._mode = known["for"]
        if known["space"] is not None:
            self._space, self._options = Space.from_json(known["space"]), known["options"]

    # ---------------------------------------------------------------------------------------------------- space

    def _check_begun(self) -> Space:
        if not self._space:
            mend = "Write tune.loguniform(1e-4, 1e-1) or the like into it (again, for Tuner.restore), or give a space"
            raise SpecError("param_space", "leaves no hyperparameter open that has bounds", mend)
        if not self._metric or not self._mode:
            mend = "Name it and its mode in the TuneConfig; where there is no param_space, which is not handed on, here"
            raise SpecError("metric", "is not given", mend)
        if not self._trials:
            for hparams in self._initial:
                self._check(self._space, hparams)
        return self._space

    def _check(self, space: Space, hparams: Hparams) -> None:
        try:
            space.check({name: self._number(name, value) for name, value in hparams.items()})
        except (SpaceError, ValueError) as error:
            raise SpecError("initial", str(error), "Name every hyperparameter of the space") from error

    def _number(self, name: str, value: Any) -> Any:
        return self._options[name].index(value) if name in self._options else value

    def _option(self, name: str, value: Any) -> Any:
        return self._options[name][value] if name in self._options else value


def _open(config: Mapping[str, Any]) -> dict[str, Any]:
    """The domains of a `param_space`, by names such as `optimizer/lr`.

    Raises:
        SpecError: It has a grid.
    """
    _, domains, grids = parse_spec_vars(config)
    if grids:
        name = "/".join(map(str, grids[0][0]))
        raise SpecError("param_space", f"has a grid_search for {name}", "Write tune.choice([...])")
    for path, _ in domains:
        if any(isinstance(it, int) for it in path):
            told = f"has a list of things that vary at {path[0]}"
            raise SpecError("param_space", told, "Write a mapping, with a name for each")
    return {"/".join(map(str, path)): domain for path, domain in domains}


def _space_of(domains: Mapping[str, Any]) -> tuple[Space, dict[str, list[Any]]]:
    """Tune's domains as a space, whose choices are numbered; and the options under the numbers."""
    options = {name: list(it.categories) for name, it in domains.items() if isinstance(it, Categorical)}
    choices = {name: Choice(range(len(it))) for name, it in options.items()}
    try:
        return Space({name: choices.get(name) or _domain(name, it) for name, it in domains.items()}), options
    except SpaceError as error:
        raise SpecError("param_space", str(error), "Change it there") from error


def _domain(name: str, domain: Any) -> searchspaces.Float | searchspaces.Int:
    sampler, step = domain.get_sampler(), None
    if isinstance(sampler, Quantized):
        sampler, step = sampler.sampler, sampler.q
    is_log = isinstance(sampler, LogUniform)
    if not isinstance(sampler, Uniform | LogUniform) or not isinstance(domain, Float | Integer):
        told = f"has {name}, a {type(domain).__name__} of {type(sampler).__name__}, which has no bounds to search in"
        raise SpecError("param_space", told, "Write tune.uniform, loguniform, randint, lograndint or choice")
    if isinstance(domain, Float):
        return searchspaces.Float(domain.lower, domain.upper, log=is_log, step=step)
    high = domain.upper if step else domain.upper - 1  # Tune's is not included, unless it is quantised
    return searchspaces.Int(domain.lower, high, log=is_log, step=step or 1)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        inner = nested
        for it in path:
            inner = inner.setdefault(it, {})
        inner[last] = value
    return nested
