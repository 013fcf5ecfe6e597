"""Our strategies and the baselines, each as a sweep in this process: the decisions are the same under Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.population_quality.outcome import Outcome, Stretch
from benchmarks.population_quality.tasks import Task
from pbt import Sweep
from pbt.population import IPBT, MFPB2, MFPBT, PB2, PBT, Fixed, Halving
from pbt.record.result import Result
from pbt.spec import Budget, Checkpoints, Hosts
from pbt.strategy import StrategyOptions


def _periods(budget: Budget) -> list[int]:
    """Of each sub-population of four: 1, and shares of the budget, as the paper's periods are of its budgets.

    The paper's 1, 10, 25 and 50 would never come about in a dozen generations. Eight members make two sub-populations,
    the slower of which evolves three times before the end; sixteen make four.
    """
    generations = budget.generations
    shares = [generations // 4] if budget.members < 16 else [generations // 8, generations // 4, generations // 2]
    return sorted({1, *(max(1, share) for share in shares)})


#: Our strategies with their defaults, by the name the record has, for a task.
STRATEGIES: Mapping[str, Callable[[Task], StrategyOptions]] = {
    "pbt": lambda of: PBT(initial=of.initial),
    "pbt_async": lambda of: PBT(synchronous=False, initial=of.initial),
    "pb2": lambda of: PB2(initial=of.initial),
    "mf_pbt": lambda of: MFPBT(periods=_periods(of.budget), initial=of.initial),
    "mf_pb2": lambda of: MFPB2(initial=of.initial),
    "ipbt": lambda of: IPBT(initial=of.initial),
    "halving": lambda of: Halving(initial=of.initial),
    "fixed": lambda of: Fixed(initial=of.initial),
}


def train(of: Task, method: str, seed: int, folder: Path) -> Outcome:
    """Train a population, all of it in one stack.

    Args:
        of: The task.
        method: Of `STRATEGIES`.
        seed: Of the sweep.
        folder: For its files.
    """
    result = Sweep(
        name="quality",
        trainable=of.trainable,
        space=of.space,
        objective=of.metric,
        strategy=STRATEGIES[method](of),
        budget=of.budget,
        seed=seed,
        hosts=Hosts(kind="local", stacks=1, device="cpu", compile="never", plan="off"),
        checkpoints=Checkpoints(every_minutes=None),
        storage=folder,
        tracking=False,
    ).run(progress=False)
    if result.winner is None:
        return Outcome(member_steps=_steps(result), error=result.reason)
    best, test = result.best, result.best.metrics[f"test/{of.metric}"]
    return Outcome(
        score=of.judge(test, _trained(result)),
        validation=best.score,
        test=test,
        member_steps=_steps(result),
        hparams={name: best.hparams[name] for name in of.space},
    )


def _trained(result: Result) -> list[Stretch]:
    """Segments, as far as they came."""
    ended = {(row["member"], row["segment"]): row["consumed_end"] for row in result.rows["outcomes"]}
    found = []
    for row in result.rows["segments"]:
        begin = row["consumed_start"]
        end = ended.get((row["member"], row["segment"])) or begin
        found.append(Stretch(row["member"], begin, end, json.loads(row["hparams"])))
    return found


def _steps(result: Result) -> int:
    return sum(it.end - it.begin for it in _trained(result))
