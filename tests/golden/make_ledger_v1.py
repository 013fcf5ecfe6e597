"""Wrote `tests/golden/ledger-v1`, once: a sealed part of each table, a write-ahead tail, and a torn last line.

    python -m tests.golden.make_ledger_v1 FOLDER

The folder is never written again: it is what a ledger of schema version 1 looked like, and must stay readable.
"""

from __future__ import annotations

import itertools
import math
import shutil
import sys
from pathlib import Path

from pbt.record import ledger
from pbt.record.schema import canonical


def make(folder: Path) -> None:
    """Two members, three generations; member 1 takes over member 0 after the first; the writer dies in the third."""
    ledger.SEAL_ROWS = 12
    ticks = itertools.count(1_700_000_000, 0.5)
    book = ledger.Ledger(folder, clock=lambda: next(ticks))
    hparams = [canonical({"lr": 0.01 * (member + 1), "optimizer": "größer"}) for member in range(2)]
    for generation in range(3):
        for member in range(2) if generation < 2 else (1,):
            begin(book, member, generation, hparams[member])
        book.commit()
        if generation < 2:
            for member in range(2):
                end(book, member, generation, hparams[member])
            book.commit()
    keep = folder.with_name(folder.name + ".crashed")
    shutil.copytree(folder, keep)
    book.close(finished=False)
    shutil.rmtree(folder)
    keep.rename(folder)
    (tail,) = (folder / "ledger").glob("wal-*")
    with tail.open("ab") as file:
        file.write(b'0123abcd [["outcomes",{"member":1')


def begin(book: ledger.Ledger, member: int, generation: int, hparams: str) -> None:
    """Write the decisions that open a segment."""
    cause = f"report:{member}:{generation - 1}" if generation else "start"
    copied = (member, generation) == (1, 1)
    kind = "start" if generation == 0 else "copy" if copied else "decline"
    book.append("decisions", kind=kind, member=member, donor=0 if copied else None, reason="größer", cause=cause)
    if copied:
        book.append("decisions", kind="set", member=member, hparams_before=hparams, hparams=hparams, cause=cause)
    start = {0: "fresh"}.get(generation, "copied" if copied else "own")
    parent = None if generation == 0 else 0 if copied else member
    book.append(
        "segments",
        member=member,
        segment=generation,
        generation=generation,
        start=start,
        parent_member=parent,
        parent_segment=generation - 1 if generation else None,
        hparams=hparams,
        seed=1000 + member,
        bucket="golden",
        stack=0,
        slot=member,
        age_start=10 * generation,
        consumed_start=10 * generation,
        until=10 * (generation + 1),
        cause=cause,
    )


def end(book: ledger.Ledger, member: int, generation: int, hparams: str) -> None:
    """Write how a segment ended."""
    steps = 10 * (generation + 1)
    where = {"member": member, "segment": generation, "age": steps, "consumed": steps}
    book.append("metrics", split="train", name="loss", value=0.25 * (member + 1) * (generation + 1), **where)
    book.append(
        "metrics", split="validation", name="Q", value=math.inf if (member, generation) == (0, 0) else 0.5, **where
    )
    book.append(
        "outcomes",
        member=member,
        segment=generation,
        status="ended",
        hparams_in_effect=hparams,
        age_end=steps,
        consumed_end=steps,
        score=math.nan if (member, generation) == (1, 0) else 0.5,
        wall_s=1.5,
        tokens=70,
    )
    if (member, generation) == (0, 1):
        book.append("checkpoints", member=0, segment=1, digest="ab" * 32, size_bytes=4096)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
