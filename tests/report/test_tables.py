"""The rows behind every table, on the scripted sweep of `tests.ledgers`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbt.lineage import Lineage
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.result import load
from pbt.report import text
from pbt.report.show import population_of
from pbt.report.tables import ExploitRow, MemberRow, Population, changes, exploit_rows
from tests import ledgers


@pytest.fixture
def population(tmp_path: Path) -> Population:
    """The scripted sweep, read at its end."""
    return _read(ledgers.tell(tmp_path / "run"))


def _read(run: Path) -> Population:
    population = Population(json.loads((run / "run.json").read_text()))
    population.apply(Tail(LedgerReader(run)).poll())
    return population


def test_a_member_row_is_the_member_as_it_is_now(population: Population) -> None:
    assert population.row(1) == MemberRow(
        member=1,
        status="ended",
        age=400,
        consumed=400,
        score=1.3,
        hparams=ledgers.hparams(5, changes=1),
        donor=5,
        exploit_generation=3,
        num_exploits=1,
    )
    assert population.row(1).last_exploit == "gen 4 <- member 5"
    assert population.row(0).last_exploit == ""


def test_a_failed_member_keeps_its_reason(population: Population) -> None:
    row = population.row(3)
    assert (row.status, row.reason, row.score, row.consumed) == ("failed", ledgers.FAILURE, None, 140)


def test_members_are_ranked_by_score_and_the_failed_come_last(population: Population) -> None:
    assert [row.member for row in population.ranked()] == [1, 5, 0, 4, 2, 3]
    assert [row.score for row in population.ranked()] == [1.3, 1.4, 1.65, 1.75, 1.8, None]


def test_a_member_that_diverged_ranks_below_all_with_scores(tmp_path: Path) -> None:
    rows = _read(ledgers.tell(tmp_path / "run", commits=2)).ranked()
    assert rows[-1].member == 4
    assert math.isnan(rows[-1].score or 0.0)
    assert rows[-1].status == "diverged"


def test_where_large_is_good_the_largest_score_ranks_first(tmp_path: Path) -> None:
    run = ledgers.tell(tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    info["objective"]["mode"] = "max"
    population = Population(info)
    population.apply(Tail(LedgerReader(run)).poll())
    assert [row.member for row in population.ranked()] == [2, 4, 0, 5, 1, 3]
    assert [row.best for row in population.ended()] == [2.5, 2.05, 1.9, 1.8]


@pytest.mark.parametrize(
    ("generation", "best", "member", "median", "exploits", "declined", "diverged"),
    [
        (1, 2.0, 0, 2.2, 2, 0, 1),
        (2, 1.6, 5, 1.95, 0, 1, 0),
        (3, 1.5, 5, 1.85, 1, 0, 0),
        (4, 1.3, 1, 1.65, 0, 0, 0),
    ],
)
def test_a_generation_row_sums_up_its_scores_and_what_they_led_to(
    population: Population,
    generation: int,
    best: float,
    member: int,
    median: float,
    exploits: int,
    declined: int,
    diverged: int,
) -> None:
    row = population.ended()[generation - 1]
    assert (row.generation, row.best, row.best_member, row.median) == (generation, best, member, median)
    assert (row.num_exploits, row.num_declined, row.num_diverged) == (exploits, declined, diverged)


def test_a_generation_is_over_once_the_next_has_begun(tmp_path: Path) -> None:
    """Then its exploits are decided; the last is over with its scores."""
    over = []
    run = tmp_path / "run"
    for _ in ledgers.story(run):
        over.append(len(_read(run).ended()))
    assert over == [0, 0, 1, 1, 2, 2, 3, 4, 4]


def test_reading_along_gives_what_reading_at_the_end_gives(tmp_path: Path, population: Population) -> None:
    followed: Population | None = None
    for rows in _polls(tmp_path / "live"):
        followed = followed or Population(json.loads((tmp_path / "live" / "run.json").read_text()))
        followed.apply(rows)
    assert followed is not None
    assert followed.ranked() == population.ranked()
    # Sealed parts keep times to the microsecond, the write-ahead file all of them.
    assert [replace(row, at=0.0) for row in followed.ended()] == [replace(row, at=0.0) for row in population.ended()]
    assert (followed.num_exploits, followed.num_declined) == (3, 1)


def _polls(run: Path) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    story = ledgers.story(run)
    next(story)
    tail = Tail(LedgerReader(run))
    for _ in itertools.chain([None], story):
        yield tail.poll()


@pytest.mark.parametrize("commits", [None, 5, 1], ids=["whole", "under way", "begun"])
def test_of_the_metrics_only_what_is_told_is_taken(tmp_path: Path, commits: int | None) -> None:
    """Which is most quickly read, and comes to the same."""
    result = load(ledgers.tell(tmp_path / "run", commits=commits))
    found, whole = population_of(result), Population(result.run.info)
    whole.apply((table, row) for table, rows in result.rows.items() for row in rows)
    assert whole.ranked() == found.ranked()
    assert whole.ended() == found.ended()
    assert (whole.elapsed, whole.share, whole.generation) == (found.elapsed, found.share, found.generation)
    assert whole.throughput.typical() == found.throughput.typical()


def test_rows_out_of_order_do_no_harm(tmp_path: Path, population: Population) -> None:
    """A clock that was set back puts outcomes before their segments when a ledger is read anew."""
    rows = Tail(LedgerReader(ledgers.tell(tmp_path / "other"))).poll()
    order = ["outcomes", "decisions", "metrics", "segments", "checkpoints"]
    shuffled = sorted(rows, key=lambda entry: order.index(entry[0]))
    other = Population(json.loads((tmp_path / "other" / "run.json").read_text()))
    other.apply(shuffled)
    assert other.ranked() == population.ranked()
    assert other.ended() == population.ended()


@pytest.mark.parametrize(("commits", "share"), [(1, 0.0), (2, 0.25), (3, 0.25), (4, (5 * 200 + 400) / 2400), (8, 1.0)])
def test_the_share_done_counts_a_failed_member_as_done(tmp_path: Path, commits: int, share: float) -> None:
    assert _read(ledgers.tell(tmp_path / "run", commits)).share == pytest.approx(share)


def test_the_best_is_who_is_ahead_until_a_winner_is_announced(tmp_path: Path, population: Population) -> None:
    ahead = _read(ledgers.tell(tmp_path / "ahead", commits=4)).best
    assert ahead is not None
    assert ahead.member == 5
    assert population.best is not None
    assert population.best.member == 1
    assert _read(ledgers.tell(tmp_path / "begun", commits=1)).best is None


def test_exploits_tell_what_they_changed_and_why(tmp_path: Path) -> None:
    rows = LedgerReader(ledgers.tell(tmp_path / "run")).rows()
    found = exploit_rows(Lineage.from_rows(rows), rows["decisions"])
    assert [(row.generation, row.member, row.donor) for row in found] == [(1, 4, 1), (1, 5, 0), (3, 1, 5)]
    assert found[-1] == ExploitRow(
        generation=3,
        member=1,
        donor=5,
        score=1.9,
        donor_score=1.5,
        changed={"lr": (0.002, 0.012), "optimizer": ("adamw", "sgd")},
        reason="member 5 is better",
    )


def test_changes_are_told_by_name_before_and_after() -> None:
    assert changes({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == {"b": (2, 3), "c": (None, 4)}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.number(0.0000123456), "1.235e-05"),
        (text.number(None), "-"),
        (text.number(math.nan), "nan"),
        (text.score(1.3), "1.3000"),
        (text.score(math.nan), "diverged"),
        (text.metric(math.nan), "nan"),
        (text.score(1e-7), "1.000e-07"),
        (text.score(math.inf), "inf"),
        (text.hparam(0.00123456), "0.00123"),
        (text.hparam(True), "yes"),
        (text.hparam(64), "64"),
        (text.hparam("adamw"), "adamw"),
        (text.hparam({"books": 0.25, "web": 0.75}), "books 25% web 75%"),
        (text.hparam(None), "-"),
        (text.duration(7.4), "0:07"),
        (text.duration(760), "12:40"),
        (text.duration(11100), "3:05:00"),
        (text.count(1, "exploit"), "1 exploit"),
        (text.count(2000, "exploit"), "2,000 exploits"),
        (text.size(812), "812 B"),
        (text.size(4096), "4.1 kB"),
    ],
)
def test_values_are_written_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


def extended_info(members: int, generations: int) -> dict[str, object]:
    """What `run.json` says of a sweep of ten-step generations that begins at second 0."""
    budget = {"members": members, "generations": generations, "steps": 10}
    return {"spec": {"budget": budget}, "objective": {"mode": "max"}, "created": 0.0}


def begun(member: int, segment: int, generation: int, at: float) -> tuple[str, dict[str, object]]:
    """A segment of ten steps for each generation up to its own."""
    start = {"member": member, "segment": segment, "generation": generation, "start": "own", "hparams": "{}"}
    return "segments", start | {"age_start": 10 * generation, "consumed_start": 10 * generation, "at": at}


def over(member: int, segment: int, generation: int, at: float) -> tuple[str, dict[str, object]]:
    """Its end."""
    end = 10 * (generation + 1)
    facts = {"member": member, "segment": segment, "status": "ended", "score": float(member), "at": at}
    return "outcomes", facts | {"age_end": end, "consumed_end": end}


def test_generations_before_an_extension_need_no_newcomer() -> None:
    """A member that joined in the second generation is missed in none before it."""
    population = Population(extended_info(members=2, generations=3))
    population.apply([begun(0, 0, 0, 1.0), over(0, 0, 0, 2.0)])
    population.apply([("decisions", {"kind": "finish", "member": 0, "at": 3.0})])
    assert population.finish is not None
    population.apply([("decisions", {"kind": "extend", "member": None, "at": 4.0})])
    assert population.finish is None
    population.apply([begun(0, 1, 1, 5.0), begun(1, 0, 1, 6.0)])
    assert [1] == [row.generation for row in population.ended()]
    population.apply([over(0, 1, 1, 7.0)])
    assert [1] == [row.generation for row in population.ended()]
    population.apply([over(1, 0, 1, 8.0), begun(0, 2, 2, 9.0), begun(1, 1, 2, 10.0)])
    assert [1, 2] == [row.generation for row in population.ended()]


def test_time_in_which_nobody_trained_does_not_count() -> None:
    """From the last row of a session to the first of the next."""
    population = Population(extended_info(members=1, generations=2))
    population.apply([("sessions", {"session": 1, "at": 0.5}), begun(0, 0, 0, 1.0), over(0, 0, 0, 5.0)])
    population.apply([("sessions", {"session": 2, "at": 105.0}), begun(0, 1, 1, 106.0), over(0, 1, 1, 110.0)])
    assert population.elapsed == 10.0
    assert [5.0, 6.0] == [population.elapsed_at(5.0), population.elapsed_at(106.0)]
