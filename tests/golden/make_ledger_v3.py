"""Wrote `tests/golden/ledger-v3`, once: merged parts, a sealed part, a write-ahead tail, and a torn last line.

    python -m tests.golden.make_ledger_v3 FOLDER

The folder is never written again: it is what a ledger of schema version 3 looked like, and must stay readable.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from pbt.record import ledger
from pbt.record.schema import canonical
from tests.golden.make_ledger_v2 import HPARAMS, die, finish, take_up, train

HOW = canonical({"keep": 0.2, "noise": 0.1, "seed": 7})


def make(folder: Path) -> None:
    """The two members of version 2, finished after two generations; extended by one with shrunk weights."""
    ledger.SEAL_ROWS = 12
    ticks = itertools.count(1_700_000_000, 0.5)
    book = ledger.Ledger(folder, clock=lambda: next(ticks))
    take_up(book, 1, "start")
    for generation in range(2):
        train(book, generation, (0, 1))
    book.append("nodes", session=1, node=0, name="cpu_percent", value=50.0, wall_s=1.0)
    finish(book)
    shrink(book, 0, 2)
    book.close(finished=True)

    book = ledger.Ledger(folder, clock=lambda: next(ticks), existing=True)
    take_up(book, 2, "extend")
    shrink(book, 1, 2)
    die(book, folder)


def shrink(book: ledger.Ledger, member: int, segment: int) -> None:
    """Write the decisions that open a segment with shrunk weights."""
    cause = f"report:{member}:{segment - 1}"
    book.append("decisions", kind="shrink", member=member, segment=segment - 1, reason="größer", data=HOW, cause=cause)
    book.append(
        "segments",
        member=member,
        segment=segment,
        generation=segment,
        start="own",
        parent_member=member,
        parent_segment=segment - 1,
        hparams=HPARAMS[member],
        seed=1000 + member,
        bucket="golden",
        stack=0,
        slot=member,
        age_start=10 * segment,
        consumed_start=10 * segment,
        until=10 * (segment + 1),
        shrink=HOW,
        cause=cause,
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
