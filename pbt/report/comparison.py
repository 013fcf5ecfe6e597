"""What a replay shows: a schedule beside what it has to beat, paired by seed.

Members of two arms with the same seed begin with the same weights and see the same data in the same order, so that what
they owe to the seed cancels in their difference. The interval is Student's, of the mean of these differences.

Source: "Student" 1908, "The probable error of a mean"; paired, as in any textbook.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pbt.errors import SpecError
from pbt.population import Replay
from pbt.record.result import Result
from pbt.report import text
from pbt.report.show import without_nan

#: Two-sided, of each interval by itself.
_CONFIDENCE = 0.95

#: `nothing` is shown where the interval holds 0, and nothing is `known` where there is no interval.
Verdict: TypeAlias = Literal["better", "worse", "equal", "nothing", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores:
    """What was trained with every seed.

    Attributes:
        name: As in the replay's options.
        source: Where its schedule comes from; empty where hyperparameters were drawn.
        scores: The objective at the end, by seed; NaN where the member diverged or failed.
    """

    name: str
    source: str
    scores: tuple[float, ...]

    @property
    def num_lost(self) -> int:
        """How many diverged or failed."""
        return len(self.scores) - sum(map(math.isfinite, self.scores))

    @property
    def mean(self) -> float:
        """NaN if any is lost: a mean of those that are left would be of another kind."""
        return _mean(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much the first arm is ahead of another.

    Attributes:
        arm: The other.
        ahead: Its lead by seed: positive where the first arm is better, whatever the objective's mode.
        wins: With how many seeds the first arm is better; what diverged is worse than what did not.
        mean: Of the lead.
        margin: Half the width of the 95 % t-interval around it; None where a member is lost or there is one seed only.
    """

    arm: str
    ahead: tuple[float, ...]
    wins: int
    mean: float
    margin: float | None

    @property
    def verdict(self) -> Verdict:
        """What the interval says of the first arm, and no more."""
        if self.margin is None:
            return "unknown"
        if abs(self.mean) > self.margin:
            return "better" if self.mean > 0 else "worse"
        return "equal" if self.mean == self.margin == 0 else "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A replay, read.

    Attributes:
        result: The replay's sweep.
        seeds: Of the members, in order: those of every arm have the same.
        arms: The schedule first.
        differences: Of the schedule to each of the others.
    """

    result: Result
    seeds: tuple[int, ...]
    arms: tuple[ArmScores, ...]
    differences: tuple[Difference, ...]

    @property
    def sentences(self) -> list[str]:
        """What is shown, a sentence for each difference."""
        info = self.result.run.info["objective"]
        others = {arm.name: arm for arm in self.arms}
        return [_sentence(self.arms[0], others[it.arm], it, info["metric"]) for it in self.differences]


def is_replay(result: Result) -> bool:
    """Whether a run is a replay."""
    return bool(result.run.info["spec"]["strategy"]["name"] == "replay")


def compare(result: Result) -> Comparison:
    """Read a replay.

    Raises:
        SpecError: The run is none.
    """
    if not is_replay(result):
        mend = f"Write `pbt replay {result.path}` to train its winner's schedule anew"
        raise SpecError("RUN", f"{result.run.id} is no replay", mend)
    options = Replay(**result.run.info["spec"]["strategy"]["options"])
    mode, num = result.run.info["objective"]["mode"], options.seeds
    scores = [_score(result, member) for member in range(len(options.arms) * num)]
    arms = tuple(
        ArmScores(name=arm.name, source=arm.source, scores=tuple(scores[place * num : (place + 1) * num]))
        for place, arm in enumerate(options.arms)
    )
    seeds = tuple(result.lineage.last(member).seed for member in range(num))
    return Comparison(
        result=result, seeds=seeds, arms=arms, differences=tuple(difference(arms[0], it, mode) for it in arms[1:])
    )


def _score(result: Result, member: int) -> float:
    """A member's score at the end of the sweep; NaN if it has none there."""
    budget, last = result.run.info["spec"]["budget"], result.lineage.last(member)
    is_there = last.age[1] == budget["generations"] * budget["steps"] and result.lineage.is_living(member)
    return last.score if is_there and last.score is not None else math.nan


def difference(first: ArmScores, other: ArmScores, mode: str) -> Difference:
    """By how much the first is ahead, seed by seed."""
    sign = 1.0 if mode == "max" else -1.0
    pairs = list(zip(first.scores, other.scores, strict=True))
    ahead = tuple(sign * (one - two) for one, two in pairs)
    wins = sum((math.isnan(two) and not math.isnan(one)) or sign * (one - two) > 0 for one, two in pairs)
    return Difference(arm=other.name, ahead=ahead, wins=wins, mean=_mean(ahead), margin=margin(ahead))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if all(map(math.isfinite, values)) else math.nan


def margin(values: Sequence[float]) -> float | None:
    """Half the width of the t-interval around the mean: t(n - 1) s / sqrt(n), with t at 0.975.

    None where there are fewer than two values, or one is not finite.
    """
    from scipy.special import stdtrit  # loaded by those who ask for an interval

    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    at = float(stdtrit(len(values) - 1, (1.0 + _CONFIDENCE) / 2.0))
    return at * stdev(values) / math.sqrt(len(values))


# ------------------------------------------------------------------------------------------------------- for people


def show(found: Comparison, console: Console | None = None) -> None:
    """Print the arms, what is shown, and where it lies."""
    console, info = console or Console(), found.result.run.info["objective"]
    better = "lower" if info["mode"] == "min" else "higher"
    heading = f"{info['split'].capitalize()} {info['metric']} with {text.count(len(found.seeds), 'seed')} each"
    console.print()
    console.print(Text(f"{heading} ({better} is better)", style="bold"))
    console.print(_table(found))
    for sentence in found.sentences:
        console.print(Text(sentence))
    console.print()
    console.print(Text(_ABOUT, style="dim"))
    for arm in found.arms:
        if arm.source:
            console.print(Text(f"{arm.name}: {arm.source}", style="dim"), soft_wrap=True)
    path = found.result.path
    told = f"`pbt replay {path}` shows this again, `pbt show {path}` the members"
    console.print(Text(told, style="dim"), soft_wrap=True)


_ABOUT = (
    "All are trained equally long, with seeds that no member of the population had. Nothing is compared on the test "
    "split, which is for announced winners only."
)


def _table(found: Comparison) -> Table:
    leads = {it.arm: it for it in found.differences}
    mode = found.result.run.info["objective"]["mode"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for title in ("mean", "best", "lost", f"{found.arms[0].name} ahead by", "with seeds"):
        table.add_column(title, justify="right", no_wrap=True)
    for arm in found.arms:
        lead = leads.get(arm.name)
        by, wins = (_lead(lead), f"{lead.wins} of {len(found.seeds)}") if lead else ("", "")
        mean = "-" if arm.num_lost else text.score(arm.mean)
        table.add_row(arm.name, mean, text.score(_best(arm, mode)), str(arm.num_lost or ""), by, wins)
    return table


def _best(arm: ArmScores, mode: str) -> float:
    known = [score for score in arm.scores if math.isfinite(score)]
    return (min if mode == "min" else max)(known, default=math.nan)


def _lead(lead: Difference) -> str:
    if math.isnan(lead.mean):
        return "-"
    return text.metric(lead.mean) + ("" if lead.margin is None else f" ± {text.metric(lead.margin)}")


def _sentence(first: ArmScores, other: ArmScores, lead: Difference, metric: str) -> str:
    seeds = len(lead.ahead)
    pairs = f"mean of {seeds} differences paired by seed, 95 % t-interval"
    by = f"{text.metric(abs(lead.mean))} ± {text.metric(lead.margin)} {metric}"
    match lead.verdict:
        case "unknown":
            return _unknown(first, other, lead)
        case "nothing":
            edges = [text.metric(lead.mean + side * (lead.margin or 0.0)) for side in (-1, 1)]
            return (
                f"No difference between {first.name} and {other.name} is shown: the interval of the lead, {edges[0]} "
                f"to {edges[1]} {metric}, holds 0 ({pairs})."
            )
        case "equal":
            return f"No difference between {first.name} and {other.name} is shown: they score the same with every seed."
        case word if lead.margin == 0:
            return (
                f"{_capital(first.name)} is {word} than {other.name} by {text.metric(abs(lead.mean))} {metric} with "
                f"every seed: the {seeds} pairs differ alike, so that they say no more than one does."
            )
        case word:
            return f"{_capital(first.name)} is {word} than {other.name} by {by} ({pairs})."


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _unknown(first: ArmScores, other: ArmScores, lead: Difference) -> str:
    """Why there is no interval, and what can be said without."""
    seeds = len(lead.ahead)
    lost = [f"{arm.num_lost} of {seeds} of {arm.name}" for arm in (first, other) if arm.num_lost]
    why = f"{' and '.join(lost)} diverged or failed" if lost else "one seed gives no interval"
    won = f"{first.name} is ahead with {lead.wins} of {text.count(seeds, 'seed')}"
    return f"Nothing is shown about {first.name} and {other.name}: {why}; {won}."


# ----------------------------------------------------------------------------------------------------- for programs


def as_json(found: Comparison) -> str:
    """The same facts, all of them; a score of what diverged is null."""
    info = found.result.run.info
    facts: Mapping[str, Any] = {
        "run": found.result.run.id,
        "path": str(found.result.path),
        "objective": dict(info["objective"]),
        "steps": info["spec"]["budget"]["generations"] * info["spec"]["budget"]["steps"],
        "seeds": list(found.seeds),
        "arms": [
            {
                "name": arm.name,
                "source": arm.source,
                "scores": list(arm.scores),
                "mean": arm.mean,
                "best": _best(arm, info["objective"]["mode"]),
                "lost": arm.num_lost,
            }
            for arm in found.arms
        ],
        "differences": [_difference_facts(it) for it in found.differences],
        "sentences": found.sentences,
        "test": None,
    }
    return json.dumps(without_nan(facts), indent=1)


def _difference_facts(lead: Difference) -> dict[str, Any]:
    ends = None if lead.margin is None else [lead.mean - lead.margin, lead.mean + lead.margin]
    return {
        "arm": lead.arm,
        "ahead": list(lead.ahead),
        "wins": lead.wins,
        "mean": lead.mean,
        "interval": ends,
        "verdict": lead.verdict,
    }
