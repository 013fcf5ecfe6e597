"""The digest is a hash of canonical JSON, which anybody can write down again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pbt.record.digest import digest
from pbt.record.ledger import Ledger
from pbt.record.result import load
from pbt.record.schema import DIGEST, canonical
from tests import ledgers


@pytest.mark.parametrize("commits", [None, 5, 1], ids=["whole", "under way", "begun"])
def test_it_is_that_of_the_segments_as_json(tmp_path: Path, commits: int | None) -> None:
    """In order of member and segment, keys in order, with what the device held; what is not known is null."""
    run = ledgers.tell(tmp_path / "run", commits=commits)
    rows = load(run).rows
    held = {(row["member"], row["segment"]): row["hparams_in_effect"] for row in rows["outcomes"]}
    segments = sorted(rows["segments"], key=lambda row: (row["member"], row["segment"]))
    for row in segments:
        row["hparams_in_effect"] = held.get((row["member"], row["segment"]))
    names = [name for name in DIGEST if name != "shrink"]  # which says nothing here
    told = [{name: row[name] for name in names} for row in segments]
    assert hashlib.sha256(canonical(told).encode()).hexdigest() == digest(load(run).tables)


def test_nothing_is_an_empty_list(tmp_path: Path) -> None:
    """A run that has not begun has a digest, too."""
    run = ledgers.run_json(tmp_path / "bare", members=2, generations=2, steps=2)
    Ledger(run).close(finished=False)
    assert hashlib.sha256(b"[]").hexdigest() == load(run).digest()
