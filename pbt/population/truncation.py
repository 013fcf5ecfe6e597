"""Who is replaced by whom where the worst of a population make way for the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from pbt.population.draws import donor_index
from pbt.population.verdicts import Standing
from pbt.spec import is_number, require
from pbt.strategy import Task


def check_quantile(quantile: object) -> None:
    """Refuse a share that is none.

    Raises:
        SpecError: It is none.
    """
    require(
        is_number(quantile) and 0 < quantile <= 0.5,
        "strategy.options.quantile",
        f"{quantile!r} is not in (0, 0.5]",
        "Write a number above 0 and at most 0.5",
    )


def share_of(quantile: float, number: int) -> int:
    """How many of so many the share is; one at least."""
    # Rounded first: 0.29 of 100 is 29, though 0.29 * 100 is a little less.
    return max(1, math.floor(round(quantile * number, 9)))


def pairs(
    task: Task, generation: int, ranking: Sequence[Standing], quantile: float, only_diverged: bool = False
) -> Iterator[tuple[Standing, Standing]]:
    """Those that are replaced, each with one of the best: first the worst that have a score, then those that diverged.

    Args:
        task: What is optimised.
        generation: The generation that just ended.
        ranking: Best first, diverged members last; one at least has not diverged.
        quantile: The share replaced, and the share of donors.
        only_diverged: Whether only those are replaced that diverged.
    """
    num_finite = sum(not math.isnan(standing.score) for standing in ranking)
    count = share_of(quantile, len(ranking))
    donors = ranking[: min(count, num_finite)]
    first = num_finite if only_diverged else min(num_finite, len(ranking) - count)
    for loser in ranking[first:]:
        yield loser, donors[donor_index(task, generation, loser.member, len(donors))]


def places_of(ranking: Sequence[Standing]) -> dict[int, int]:
    """The rank of each member, from 1."""
    return {standing.member: place for place, standing in enumerate(ranking, start=1)}


def compared(task: Task, places: Mapping[int, int], loser: Standing, donor: Standing) -> str:
    """Why one is replaced by the other, in words."""
    bad = f"{task.metric} {loser.score:.6g} is rank {places[loser.member]} of {len(places)}"
    return f"{bad}; donor {donor.member} has {donor.score:.6g}, rank {places[donor.member]}"
