"""Damage anywhere in a ledger: named or harmless, never believed, and paid for only by what it touched."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import LedgerError, RunNotFound
from pbt.record import ledger as module
from pbt.record import parts, schema
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.manifest import read_manifest, signed
from pbt.record.salvage import salvage
from tests.examples import examples
from tests.record.test_ledger import GOLDEN, note

#: Rows in a row group of the merged parts made here.
GROUP = 4


def write_rows(ledger, begin, end):
    """Commits of three rows, in two tables."""
    for number in range(begin, end):
        note(ledger, number)
        note(ledger, number + 100)
        note(ledger, number, "outcomes")
        ledger.commit()


def make(run, *, archive=None):
    """A ledger that has everything: merged parts, numbered parts, and a write-ahead file whose writer died."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "SEAL_ROWS", 6)
        patched.setattr(parts, "GROUP_ROWS", GROUP)
        ledger = Ledger(run, lambda: 1_000.0, archive=archive)
        write_rows(ledger, 0, 8)
        ledger.close(finished=True)
        ledger = Ledger(run, lambda: 1_000.0, existing=True)
        write_rows(ledger, 8, 15)
        ledger.abandon()
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Such ledgers, kept here and elsewhere."""
    folder = tmp_path_factory.mktemp("made")
    make(folder / "here" / "run")
    make(folder / "apart" / "run", archive=folder / "apart" / "archive")
    return folder


def copied(made, kind, folder):
    """One of them in another place; what is elsewhere is pointed to again."""
    shutil.copytree(made / kind, folder)
    pointer = folder / "run" / "ledger" / "archive.json"
    if pointer.exists():
        pointer.write_bytes(signed({"uri": (folder / "archive").as_uri()}))
    return folder / "run"


def damaged_file(draw, run):
    """A file of the ledger or its archive, and its contents with one bit flipped or an end missing."""
    files = sorted(path for path in run.parent.rglob("*") if path.is_file() and path.name != "lock")
    path = draw(st.sampled_from(files))
    data = path.read_bytes()
    position = draw(st.integers(0, len(data) - 1))
    if draw(st.booleans()):
        return path, data[:position], position
    flipped = bytes([data[position] ^ 1 << draw(st.integers(0, 7))])
    return path, data[:position] + flipped + data[position + 1 :], position


def as_told(entries):
    """Rows that can be compared: values missing and values null are the same, and NaN is equal to itself."""
    return [(table, repr(sorted(item for item in row.items() if item[1] is not None))) for table, row in entries]


def in_order(tables):
    """Rows of Arrow tables in the order of writing."""
    entries = [(name, row) for name, table in tables.items() for row in schema.to_rows(table)]
    return as_told(sorted(entries, key=lambda entry: entry[1]["at"]))


@examples(100)
@given(data=st.data(), kind=st.sampled_from(["here", "apart"]))
def test_damage_anywhere_is_named_or_harmless_and_costs_no_earlier_data(made, data, kind):
    """Any byte of any file, flipped or cut off: of the manifest, its copy, the pointer, parts and write-ahead file."""
    folder = made / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    run = copied(made, kind, folder)
    told = as_told(LedgerReader(run).history())
    manifest = read_manifest(module.find_archive(run))
    path, contents, position = damaged_file(data.draw, run)
    at_risk = rows_in(path, manifest, told, position)
    path.write_bytes(contents)

    try:
        found = as_told(LedgerReader(run).history())
    except LedgerError as error:
        found, named = None, str(error)
        assert str(path) in named
        assert "\n" not in named
    if found is not None:
        lost = told[len(found) :]
        assert told[: len(found)] == found
        assert all(row in at_risk for row in lost)
        assert path.name.startswith("wal-") or not lost

    saved = salvage(run, archive=folder / "archive" if kind == "apart" else None)
    rows = in_order(saved.tables)
    missing = [row for row in told if row not in rows]
    assert rows == [row for row in told if row not in missing]
    assert all(row in at_risk for row in missing)
    if found is None and path.name != "archive.json":
        assert any(str(path) in line for line in saved.damaged)


def rows_in(path, manifest, told, position):
    """The rows that damage at this place may cost: those of its part, row group or commit, and those behind them."""
    if path.name.startswith("wal-"):
        commits = path.read_bytes()[:position].count(b"\n")
        return told[len(told) - 3 * path.read_bytes().count(b"\n") + 3 * commits :]
    before = dict.fromkeys(schema.TABLES, 0)
    for part in manifest.parts:
        rows = [row for row in told if row[0] == part.table][before[part.table] :][: part.rows]
        before[part.table] += part.rows
        if path.match(part.file):
            return rows[whole_groups(path, position) if part.groups else 0 :]
    return []


def whole_groups(path, position):
    """Rows of a part in row groups that end before a place in it."""
    metadata = pq.read_metadata(path)
    ends = [end for _, end in parts._ranges(metadata)]
    return sum(metadata.row_group(index).num_rows for index, end in enumerate(ends) if end <= position)


@pytest.mark.parametrize("kind", ["here", "apart"])
def test_of_a_good_ledger_everything_is_saved(made, kind):
    """And nothing is called damaged; a torn tail is not damage."""
    saved = salvage(made / kind / "run")
    assert saved.damaged == ()
    assert in_order(saved.tables) == as_told(LedgerReader(made / kind / "run").history())
    assert {name: table.schema for name, table in saved.tables.items()} == dict(schema.TABLES)


@pytest.mark.parametrize("byte", range(8))
def test_a_flipped_bit_in_a_merged_part_costs_one_row_group(made, tmp_path, byte):
    """Not the table. Nor does a damaged footer, of which the manifest has a copy, or a tail that is cut off."""
    run = copied(made, "here", tmp_path / "copy")
    merged = read_manifest(module.find_archive(run)).of("metrics")[0]
    path = run / "ledger" / merged.file
    data = path.read_bytes()
    ranges = parts._ranges(pq.read_metadata(path))
    assert len(ranges) > 2
    start, end = ranges[1]
    position = start + byte * (end - 1 - start) // 7
    path.write_bytes(data[:position] + bytes([data[position] ^ 2]) + data[position + 1 :])
    everything = LedgerReader(made / "here" / "run").table(merged.table).num_rows
    assert salvage(run).tables[merged.table].num_rows == everything - GROUP
    path.write_bytes(data[: end + byte])
    assert salvage(run).tables[merged.table].num_rows == everything - merged.rows + 2 * GROUP
    footer = len(data) - 1 - byte * 50
    path.write_bytes(data[:footer] + bytes([data[footer] ^ 2]) + data[footer + 1 :])
    assert salvage(run).tables[merged.table].num_rows == everything
    assert [line.split(" is damaged")[0] for line in salvage(run).damaged] == [str(path)]


def test_without_manifests_the_parts_that_lie_there_are_read(made, tmp_path):
    """Each row once, although nobody says any more which parts belong together."""
    run = copied(made, "here", tmp_path / "copy")
    told = as_told(LedgerReader(run).history())
    old = sorted((run / "ledger" / "outcomes").iterdir())[-1]
    shutil.copy(old, old.with_name("000099.parquet"))  # as a crash while merging leaves
    for name in ("manifest.json", "manifest-copy.json"):
        (run / "ledger" / name).write_bytes(b"")
    saved = salvage(run)
    assert told == in_order(saved.tables)
    assert len(saved.damaged) == 2


def test_an_old_ledger_without_its_manifest_is_saved(tmp_path):
    """Version 1 kept no copy."""
    run = Path(shutil.copytree(GOLDEN, tmp_path / "run"))
    told = as_told(LedgerReader(run).history())
    (run / "ledger" / "manifest.json").write_text("{}")
    saved = salvage(run)
    assert told == in_order(saved.tables)
    assert len(saved.damaged) == 1
    (run / "ledger" / "metrics" / "000001.parquet").write_bytes(b"PAR1")
    saved = salvage(run)
    assert [row for row in told if row[0] != "metrics"] == [
        row for row in in_order(saved.tables) if row[0] != "metrics"
    ]
    assert len(saved.damaged) == 2


def test_without_the_pointer_the_rows_that_are_here_are_read(made, tmp_path):
    """All, where the archive is named."""
    run = copied(made, "apart", tmp_path / "copy")
    told = as_told(LedgerReader(run).history())
    pointer = run / "ledger" / "archive.json"
    pointer.write_bytes(pointer.read_bytes()[:-7])
    here = salvage(run)
    assert told[-len(in_order(here.tables)) :] == in_order(here.tables)
    assert [line.split(" is damaged")[0] for line in here.damaged] == [str(pointer)]
    assert told == in_order(salvage(run, archive=tmp_path / "copy" / "archive").tables)


@pytest.mark.parametrize("name", ["wal", "part"])
def test_missing_files_are_named(made, tmp_path, name):
    """And the others are read."""
    run = copied(made, "here", tmp_path / "copy")
    manifest = read_manifest(module.find_archive(run))
    path = module.wal_path(run / "ledger", manifest.wal) if name == "wal" else run / "ledger" / manifest.parts[0].file
    path.unlink()
    saved = salvage(run)
    assert saved.damaged == (f"{path} is missing. Restore it from a backup.",)
    assert 0 < sum(table.num_rows for table in saved.tables.values()) < 45


def test_what_is_no_ledger_cannot_be_saved(tmp_path, monkeypatch):
    """Nor what a later version wrote."""
    with pytest.raises(RunNotFound, match=re.escape(f"no run at {tmp_path}.")):
        salvage(tmp_path)
    monkeypatch.setattr(schema, "VERSION", 7)
    Ledger(tmp_path).close(finished=True)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=r"has ledger version 7\. Upgrade pbt\."):
        salvage(tmp_path)


def test_checking_reads_everything(made, tmp_path):
    """Also what nobody asked for."""
    run = copied(made, "here", tmp_path / "copy")
    assert LedgerReader(run).check() == read_manifest(module.find_archive(run))
    for path in sorted((run / "ledger").rglob("*.*")):
        if path.name == "manifest-copy.json":
            continue
        data = path.read_bytes()
        path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
        with pytest.raises(LedgerError, match=re.escape(f"{path} is damaged")):
            LedgerReader(run).check()
        path.write_bytes(data)
