"""Wrote `tests/golden/ledger-v2`, once: merged parts, a sealed part, a write-ahead tail, and a torn last line.

    python -m tests.golden.make_ledger_v2 FOLDER

The folder is never written again: it is what a ledger of schema version 2 looked like, and must stay readable.
"""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

from pbt.record import ledger
from pbt.record.schema import canonical
from tests.golden.make_ledger_v1 import begin, end

HPARAMS = [canonical({"lr": 0.01 * (member + 1), "optimizer": "größer"}) for member in range(2)]


def make(folder: Path) -> None:
    """The two members of version 1, finished after two generations; extended by one, in which the writer dies."""
    ledger.SEAL_ROWS = 12
    ticks = itertools.count(1_700_000_000, 0.5)
    book = ledger.Ledger(folder, clock=lambda: next(ticks))
    take_up(book, 1, "start")
    for generation in range(2):
        train(book, generation, (0, 1))
    finish(book)
    book.close(finished=True)

    book = ledger.Ledger(folder, clock=lambda: next(ticks), existing=True)
    take_up(book, 2, "extend")
    book.append("decisions", kind="extend", data='{"budget":{"generations":4}}', reason="asked for")
    train(book, 2, (0, 1))
    for member in range(2):
        begin(book, member, 3, HPARAMS[member])
    book.append("orders", order="order:7", stack=0, kind="recovery", segments="[[0,3],[1,3]]")
    die(book, folder)


def die(book: ledger.Ledger, folder: Path) -> None:
    """Leave the ledger as a writer does that is killed in the middle of a line, but for its lock."""
    book.commit()
    book.abandon()
    (folder / "ledger" / "lock").unlink()
    (tail,) = (folder / "ledger").glob("wal-*")
    with tail.open("ab") as file:
        file.write(b'0123abcd [["outcomes",{"member":1')


def take_up(book: ledger.Ledger, session: int, reason: str) -> None:
    """Write what a session begins with."""
    software, hardware = canonical({"pbt": "0.2.0"}), canonical({"cpus": 2})
    book.append(
        "sessions",
        session=session,
        reason=reason,
        software=software,
        hardware=hardware,
        git_commit="ab" * 20 + "+changes",
        spec='{"name":"golden"}',
    )
    book.append(
        "stacks",
        session=session,
        stack=0,
        capacity=2,
        bucket="golden",
        device="cpu",
        dtype="float32",
        compile="never",
        rng="philox",
    )
    book.commit()


def train(book: ledger.Ledger, generation: int, members: tuple[int, ...]) -> None:
    """Write a generation: decisions, the order, and how it went."""
    for member in members:
        begin(book, member, generation, HPARAMS[member])
    segments = canonical([[member, generation] for member in members])
    book.append("orders", order=f"order:{generation + 1}", stack=0, kind="work", segments=segments)
    book.commit()
    for member in members:
        end(book, member, generation, HPARAMS[member])
    book.append("usage", session=1, wall_s=1.5, device_s=3.0, joules=math.nan, tokens=140 * (generation + 1))
    book.append("incidents", kind="host_lost", stack=0, message="größer")
    book.commit()


def finish(book: ledger.Ledger) -> None:
    """Write the end of the sweep, and a checkpoint that went."""
    book.append("evaluations", member=0, segment=1, split="test", age=20, consumed=20)
    book.append("checkpoints", member=0, segment=0, digest="cd" * 32, size_bytes=4096, status="saved")
    book.append("checkpoints", member=0, segment=0, digest="cd" * 32, size_bytes=4096, status="removed")
    book.append("decisions", kind="budget", reason="budget.tokens: 280 of 280 used")
    book.append("decisions", kind="finish", member=0, segment=1, reason="budget spent")
    book.commit()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
