"""Doors into other people's sweeps: our strategies where Ray Tune or Optuna decide what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pbt.errors import SpecError
from pbt.member import Hparams
from pbt.spec import Budget, Component, Mode, at_least, require, usual_strategy
from pbt.strategy import StrategyOptions, Task
from pbt.sweep import load_strategy
from searchspaces import Space, SpaceError

if TYPE_CHECKING:
    from pbt.runtime.tune_scheduler import PopulationScheduler
    from pbt.runtime.tune_searcher import CurveSearcher
    from pbt.search.optuna_sampler import CurveSampler


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


def tune_searcher(
    *,
    space: Space | Mapping[str, Any] | None = None,
    metric: str | None = None,
    mode: Mode | None = None,
    initial: Sequence[Hparams] = (),
    seed: int = 0,
    n_startup_trials: int = 10,
    target: float | None = None,
    time_attr: str = "training_iteration",
) -> CurveSearcher:
    """A Gaussian process over learning curves as the `search_alg` of a `ray.tune.Tuner`.

    It sees every result of every trial, and asks what a new one would come to at the end: what a scheduler such as
    `ASHAScheduler` stopped early counts for what it was, neither as complete nor not at all. How many run at once is
    the `max_concurrent_trials` of the `TuneConfig`.

    Args:
        space: What varies, by name (`optimizer/lr` is `config["optimizer"]["lr"]`); None takes what `param_space`
            leaves open.
        metric: In a trial's results; None takes that of the `TuneConfig`, which Tune hands on with a `param_space`.
        mode: `min` or `max`, whichever is better; likewise.
        initial: Configurations to try first.
        seed: Source of every random choice.
        n_startup_trials: Trials with results before the process is asked; until then configurations are drawn.
        target: Of `time_attr`, where a trial is trained to the end; None takes the most that any came to.
        time_attr: What of a result counts steps.

    Raises:
        SpecError: Something makes no sense.
    """
    from pbt.runtime.tune_searcher import CurveSearcher

    _check_search(seed, n_startup_trials, target)
    require(mode in (None, "min", "max"), "mode", f"is {mode!r}", "Give min or max")
    require((metric is None) == (mode is None), "metric", "and mode go together", "Give both, or none")
    try:
        made = space if space is None or isinstance(space, Space) else Space(space)
    except SpaceError as error:
        mend = "Its domains are those of searchspaces; Tune's go into param_space"
        raise SpecError("space", str(error), mend) from error
    return CurveSearcher(made, metric, mode, initial, seed, n_startup_trials, target, time_attr)


def optuna_sampler(*, seed: int | None = None, n_startup_trials: int = 10, target: float | None = None) -> CurveSampler:
    """A Gaussian process over learning curves as the sampler of an Optuna study.

    It learns from every value that trials report, those that were pruned and those that still run included, and
    suggests what promises most at the end. A trial that completes counts with what it returns. Parameters that not all
    trials have are drawn at random.

    Args:
        seed: Source of every random choice; None draws one.
        n_startup_trials: Trials with values before the process is asked; until then parameters are drawn.
        target: How many steps trials report that are trained to the end; None takes the most that any reported.

    Raises:
        SpecError: Something makes no sense.
    """
    from pbt.search.optuna_sampler import CurveSampler

    _check_search(0 if seed is None else seed, n_startup_trials, target)
    return CurveSampler(seed, n_startup_trials, target)


def _check_search(seed: int, startup: int, target: float | None) -> None:
    at_least(0, "seed", seed)
    require(seed < 2**32, "seed", f"is {seed}", "Give a whole number below 2**32")
    at_least(1, "n_startup_trials", startup)
    require(target is None or target > 0, "target", f"is {target!r}", "Give a number of steps, or leave it out")
