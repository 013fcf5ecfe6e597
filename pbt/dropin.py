"""Doors into other people's sweeps: our strategies where Ray Tune or Optuna decide what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pbt.spec import Budget, Component, Mode, require, usual_strategy
from pbt.strategy import StrategyOptions, Task
from pbt.sweep import load_strategy
from searchspaces import Space

if TYPE_CHECKING:
    from pbt.runtime.tune_scheduler import PopulationScheduler


def tune_scheduler(
    *,
    space: Space | Mapping[str, Any],
    members: int,
    generations: int,
    steps: int,
    metric: str = "",
    mode: Mode = "min",
    strategy: StrategyOptions | str | None = None,
    seed: int = 0,
    time_attr: str = "training_iteration",
) -> PopulationScheduler:
    """A strategy as the scheduler of a `ray.tune.Tuner`, whose trials are the members of one population.

    Trials must be able to go on from their checkpoints, and report one at the end of every generation at the latest;
    configurations reach them in `config` each time they begin again. Write `num_samples=members` into the `TuneConfig`,
    and leave what the space varies out of `param_space`. After the last generation all trials are stopped.

    Args:
        space: What varies, by name.
        members: Trials.
        generations: Stretches of training, between which the strategy decides.
        steps: Of `time_attr`, in a generation.
        metric: In a trial's results; left out, the `TuneConfig` names it.
        mode: `min` or `max`, whichever is better.
        strategy: A name, or options such as `pbt.PBT(quantile=0.25)`; what a sweep of this size would have.
        seed: Source of every random choice.
        time_attr: What of a result counts steps.

    Raises:
        SpecError: Something makes no sense, or the strategy cannot work with trials.
    """
    from pbt.runtime.tune_scheduler import PopulationScheduler

    budget = Budget(members=members, generations=generations, steps=steps)
    require(mode in ("min", "max"), "mode", f"is {mode!r}", "Give min or max")
    name = usual_strategy(budget) if strategy is None else strategy
    options = load_strategy(Component(name=name)) if isinstance(name, str) else name
    made = space if isinstance(space, Space) else Space(space)
    waits = "does not wait for the whole population, as trials do"
    require(options.synchronous, "strategy", waits, "Leave synchronous as it is")
    if check := getattr(options, "check", None):
        check(budget)
    task = Task(space=made, metric=metric, mode=mode, budget=budget, seed=seed, final_split="validation")
    if check := getattr(options, "check_task", None):
        check(task)
    return PopulationScheduler(options, task, time_attr)
