"""Our strategies as a scheduler in somebody's own `ray.tune.Tuner`: one member per trial.

A trial pauses at the end of each of its segments, with a checkpoint of its own making. Once nobody trains any more, the
strategy is told, and trials go on with the configurations and the checkpoints it gives them. Nothing of this is
recorded in a ledger: that takes a `pbt.Sweep`.

Checked with Ray 2.60, whose own population-based training replaces a trial's checkpoint in the same way; there is no
documented one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray.train._internal.session import _TrainingResult
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from pbt.errors import SpecError
from pbt.member import Hparams, lay_out
from pbt.spec import require
from pbt.strategy import (
    Action,
    ContinueUntil,
    Copy,
    Evaluate,
    EvaluationEnded,
    Event,
    Finish,
    MemberFailed,
    SegmentReported,
    Set,
    Shrink,
    Start,
    Strategy,
    StrategyOptions,
    SweepStarted,
    Task,
)

_OVER = "every generation has been trained"


@dataclass(slots=True)
class _Member:
    """A trial, and how far it is.

    Attributes:
        trial: None before Tune has made it.
        hparams: What it is to train with.
        segment: Index of the segment under way.
        consumed: Steps it has trained itself, by what the strategy was told.
        until: The same at the end of the segment under way; None where none is.
        clock: What the trial's time was at the beginning of that segment; weights bring their own along.
        result: The last that it reported at the end of a segment.
        is_waiting: Whether it has come to that end.
    """

    trial: Trial | None = None
    hparams: Hparams = field(default_factory=dict)
    segment: int = -1
    consumed: int = 0
    until: int | None = None
    clock: float = 0.0
    result: Mapping[str, Any] = field(default_factory=dict)
    is_waiting: bool = False


class PopulationScheduler(TrialScheduler):
    """A strategy at the door of a `Tuner`; made by `pbt.tune_scheduler`.

    Args:
        options: The strategy, one that is synchronous.
        task: What it is told; its metric may be empty where the `TuneConfig` names it.
        time_attr: What of a result counts steps.
    """

    def __init__(self, options: StrategyOptions, task: Task, time_attr: str) -> None:
        super().__init__()
        self._options, self._task, self._time_attr = options, task, time_attr
        self._metric = task.metric or None
        self._members = {number: _Member() for number in range(task.budget.members)}
        self._numbers: dict[str, int] = {}
        self._strategy: Strategy | None = None
        self._told: list[Event] = []
        self._finish: Finish | None = None

    @property
    def best(self) -> Trial | None:
        """The trial that won, once the strategy has said so."""
        if self._finish is None or self._finish.best is None:
            return None
        return self._members[self._finish.best].trial

    # ------------------------------------------------------------------------------------------- what Tune asks

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take the metric of the `TuneConfig`; False, which Tune makes an error of, if there is one already."""
        if (metric or mode) and self._task.metric:
            return False
        if metric:
            self._metric = metric
            self._task = replace(self._task, metric=metric, mode="max" if mode == "max" else "min")
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Give a new trial the configuration of a member.

        Raises:
            SpecError: There are more trials than members, no metric, or two who say what a value is.
        """
        number = len(self._numbers)
        count = self._task.budget.members
        require(number < count, "num_samples", f"gives more than the {count} members", "Give both the same number")
        if self._strategy is None:
            require(bool(self._task.metric), "metric", "is not given", "Name it here or in the TuneConfig")
            self._strategy = self._options.begin(self._task)
            slots = lay_out(count, count)
            self._carry_out(self._strategy.handle([SweepStarted(id="started", slots=slots)]))
        for name in self._task.space.domains:
            if name in trial.config:
                raise SpecError(
                    "param_space", f"has {name!r}, which the scheduler's space varies", "Leave it out of one"
                )
        self._numbers[trial.trial_id] = number
        member = self._members[number]
        member.trial = trial
        trial.set_config({**trial.config, **member.hparams})

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Let it train on, or pause it at the end of its segment."""
        member = self._of(trial)
        if self._finish is not None:
            return str(TrialScheduler.STOP)
        for name in (self._time_attr, self._task.metric):
            if name not in result:
                told = f"of trial {trial.trial_id} is missing; it reported {', '.join(sorted(result)[:8])}"
                raise SpecError(name, told, "Report it every time, or name another")
        assert member.until is not None
        if result[self._time_attr] - member.clock < member.until - member.consumed:
            return str(TrialScheduler.CONTINUE)
        member.result, member.is_waiting = dict(result), True
        return str(TrialScheduler.PAUSE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A member fails."""
        self._leave(trial, "its trial failed")

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial that ends by itself leaves the population, unless all is over."""
        self._leave(trial, f"its trial ended by itself, before {_OVER}")

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """The same of one that was not running."""
        self._leave(trial, "its trial was removed")

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """One that is to train; before that, decide, if everybody has come to an end."""
        if self._is_at_rest():
            self._decide(tune_controller)
        there = (it.trial for it in self._members.values() if it.until is not None and not it.is_waiting)
        ready = [it for it in there if it is not None and it.status in (Trial.PENDING, Trial.PAUSED)]
        return next(iter(sorted(ready, key=lambda it: it.status != Trial.PAUSED)), None)

    def debug_string(self) -> str:
        """How far it is, in Tune's own table."""
        done = max((it.segment for it in self._members.values()), default=0)
        return f"{type(self._options).__name__}: generation {done + 1} of {self._task.budget.generations}"

    def save(self, checkpoint_path: str) -> None:
        """Tune does not call it."""
        raise NotImplementedError("Tune saves no scheduler; a pbt.Sweep can be resumed")

    def restore(self, checkpoint_path: str) -> None:
        """Tune does not call it."""
        raise NotImplementedError("Tune saves no scheduler; a pbt.Sweep can be resumed")

    # ------------------------------------------------------------------------------------------------- deciding

    def _of(self, trial: Trial) -> _Member:
        return self._members[self._numbers[trial.trial_id]]

    def _leave(self, trial: Trial, reason: str) -> None:
        member = self._of(trial)
        if self._finish is None and member.until is not None:
            number = self._numbers[trial.trial_id]
            self._told.append(MemberFailed(id=f"failed:{number}", member=number, reason=reason))
            member.until = None

    def _is_at_rest(self) -> bool:
        """Whether all who live stand at the end of a segment, their checkpoints written."""
        if self._strategy is None or self._finish is not None or len(self._numbers) < len(self._members):
            return False
        alive = [it for it in self._members.values() if it.until is not None]
        if not alive:
            return bool(self._told)
        return all(it.is_waiting and _rests(it.trial) for it in alive)

    def _decide(self, tune_controller: Any) -> None:
        events, self._told = self._told, []
        for number, member in self._members.items():
            if member.until is not None and member.is_waiting:
                events.append(self._reported(number, member))
        assert self._strategy is not None
        answers = [answer for event in events for answer in self._strategy.handle([event])]
        while answers:
            asked = self._carry_out(answers)
            answers = [answer for event in asked for answer in self._strategy.handle([event])]
        if self._finish is not None:
            for member in self._members.values():
                if member.trial is not None and not member.trial.is_finished():
                    tune_controller.stop_trial(member.trial)

    def _reported(self, number: int, member: _Member) -> SegmentReported:
        assert member.until is not None
        assert member.trial is not None
        self._check_checkpoint(member.trial, member.result[self._time_attr])
        member.consumed, member.until, member.is_waiting = member.until, None, False
        metrics = {k: float(v) for k, v in member.result.items() if isinstance(v, int | float)}
        member.clock = member.result[self._time_attr]
        return SegmentReported(
            id=f"report:{number}:{member.segment}",
            member=number,
            segment=member.segment,
            age=member.consumed,
            consumed=member.consumed,
            metrics=metrics,
            wall_s=0.0,
        )

    def _check_checkpoint(self, trial: Trial, clock: float) -> None:
        """A paused trial goes on from its last checkpoint: one that is older would lose steps without a word."""
        kept = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
        when = None if kept is None else kept.metrics.get(self._time_attr)
        if when != clock:
            found = "there is none" if kept is None else f"the last is of {self._time_attr} {when}"
            told = f"of trial {trial.trial_id} at {self._time_attr} {clock} is missing: {found}"
            raise SpecError("checkpoint", told, "Report one with the result that ends a generation, or with every one")

    def _carry_out(self, actions: list[Action]) -> list[Event]:
        """Do what the strategy says; what it asked to be evaluated."""
        before = {number: _weights(it) for number, it in self._members.items()}
        asked: list[Event] = []
        for action in actions:
            if isinstance(action, Start):
                self._begin_anew(self._members[action.member], action.hparams)
            elif isinstance(action, Copy):
                self._copy(before[action.donor], self._members[action.receiver])
            elif isinstance(action, Set):
                self._set(self._members[action.member], action.hparams)
            elif isinstance(action, ContinueUntil):
                member = self._members[action.member]
                member.until, member.segment = action.consumed, member.segment + 1
            elif isinstance(action, Evaluate):
                asked.append(self._evaluated(action))
            elif isinstance(action, Shrink):
                mend = "Train it by a pbt.Sweep, or take another strategy"
                raise SpecError("strategy", "shrinks weights, which Tune does not give away", mend)
            elif isinstance(action, Finish):
                self._finish = action
        return asked

    def _begin_anew(self, member: _Member, hparams: Hparams) -> None:
        self._set(member, hparams)
        if member.trial is not None:
            _go_on_from(member.trial, None)
            member.clock = 0.0

    def _copy(self, weights: tuple[Any, float], receiver: _Member) -> None:
        result, clock = weights
        assert receiver.trial is not None
        _go_on_from(receiver.trial, result)
        receiver.clock = clock

    def _set(self, member: _Member, hparams: Hparams) -> None:
        member.hparams = dict(hparams)
        if member.trial is not None:
            member.trial.set_config({**member.trial.config, **hparams})

    def _evaluated(self, action: Evaluate) -> EvaluationEnded:
        """Tune's trials know one split: the last result."""
        member = self._members[action.member]
        metrics = {k: float(v) for k, v in member.result.items() if isinstance(v, int | float)}
        name = f"evaluation:{action.member}:{member.segment}:{action.split}"
        return EvaluationEnded(id=name, member=action.member, split=action.split, metrics=metrics)


# --- Ray's own


def _rests(trial: Trial | None) -> bool:
    return trial is not None and trial.status == Trial.PAUSED and not trial.temporary_state.saving_to


def _weights(member: _Member) -> tuple[Any, float]:
    """A trial's last checkpoint, as Tune would go on from it, and its time."""
    if member.trial is None or member.trial.checkpoint is None:
        return None, 0.0
    result = _TrainingResult(checkpoint=copy.copy(member.trial.checkpoint), metrics=dict(member.result))
    return result, member.clock


def _go_on_from(trial: Trial, result: Any) -> None:
    trial.run_metadata.checkpoint_manager._latest_checkpoint_result = result
