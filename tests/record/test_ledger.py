"""The ledger: whole commits or none, damage named, and every row read exactly once."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pbt.errors import LedgerError, PbtError, RunNotFound, StorageError
from pbt.record import ledger as module
from pbt.record import schema
from pbt.record.ledger import Ledger, LedgerReader, Tail, read_wal, write_atomically
from tests import ledgers

GOLDEN = Path(__file__).parents[1] / "golden" / "ledger-v1"
GOLDEN_DIGEST = "caf1ee1d352569df258621f0b23a7579260ac949dbc7678c19b75f10d1c4fb8f"


@contextlib.contextmanager
def opened(run, **options):
    """A ledger that is closed at the end, as unfinished."""
    ledger = Ledger(run, **options)
    try:
        yield ledger
    finally:
        ledger.close(finished=False)


def note(ledger, number, table="metrics"):
    """Append a row that can be recognised."""
    ledger.append(table, member=number, segment=0, **({"value": float(number)} if table == "metrics" else {}))


def numbers(rows, table="metrics"):
    """Which rows a ledger holds."""
    return [row["member"] for row in rows[table]]


def wal(run):
    """The write-ahead file."""
    (path,) = (run / "ledger").glob("wal-*")
    return path


def copy_of(run, name):
    """The run as a crash would have left it: what is on disk now."""
    return Path(shutil.copytree(run, run.parent / name))


# --- commits


def test_a_row_is_there_once_committed(tmp_path):
    """And not before; rows of several tables become visible together."""
    with opened(tmp_path) as ledger:
        reader = LedgerReader(tmp_path)
        note(ledger, 1)
        note(ledger, 2, "outcomes")
        assert reader.rows() == {table: [] for table in schema.TABLES}
        ledger.commit()
        rows = reader.rows()
        assert (numbers(rows), numbers(rows, "outcomes")) == ([1], [2])


def test_a_commit_is_synced_before_it_returns(tmp_path, monkeypatch):
    """The bytes are written first, then synced, then the caller goes on."""
    with opened(tmp_path) as ledger:
        sizes = []
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (sizes.append(os.fstat(fd).st_size), sync(fd)))
        for number in range(3):
            note(ledger, number)
            ledger.commit()
            assert len(sizes) == number + 1
            assert sizes[-1] == wal(tmp_path).stat().st_size


def test_an_empty_commit_writes_nothing(tmp_path):
    """Nothing to say, nothing written."""
    with opened(tmp_path) as ledger:
        ledger.commit()
        assert wal(tmp_path).read_bytes() == b""


def test_rows_that_were_not_committed_are_committed_at_the_end(tmp_path):
    """Closing forgets nothing."""
    with opened(tmp_path) as ledger:
        note(ledger, 1)
    assert numbers(LedgerReader(tmp_path).rows()) == [1]


@pytest.mark.parametrize(
    ("table", "row"), [("metrics", {"valeu": 1.0}), ("segments", {"score": 1.0}), ("outcomes", {"donor": 1})]
)
def test_unknown_columns_are_refused(tmp_path, table, row):
    """A misspelt column is a mistake of ours, and does not become a null."""
    with opened(tmp_path) as ledger, pytest.raises(KeyError, match=next(iter(row))):
        ledger.append(table, **row)


def test_a_folder_has_one_ledger(tmp_path):
    """Whoever would write a second is told to choose another name."""
    with opened(tmp_path):
        with pytest.raises(LedgerError) as raised:
            Ledger(tmp_path)
        assert str(raised.value) == f"{tmp_path} already has a ledger. Choose another name or storage folder."


def test_a_ledger_can_be_read_from_its_first_moment(tmp_path, monkeypatch):
    """As soon as there is a manifest there is the file that it names."""
    seen = []
    write = module.write_atomically

    def look(path, data):
        write(path, data)
        seen.append(LedgerReader(tmp_path).rows()["metrics"])

    monkeypatch.setattr(module, "write_atomically", look)
    with opened(tmp_path):
        assert seen == [[]]


# --- values

VALUES = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, None]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("value", VALUES, ids=str)
def test_numbers_come_back_bit_for_bit(tmp_path, value, sealed):
    """NaN, infinities, the smallest and the largest, and no number at all; from the write-ahead file and sealed."""
    with opened(tmp_path) as ledger:
        ledger.append("metrics", value=value)
        ledger.commit()
        if sealed:
            ledger.close(finished=True)
            ledger.close = lambda finished: None
        (row,) = LedgerReader(tmp_path).rows()["metrics"]
        assert repr(row["value"]) == repr(value)
        (found,) = LedgerReader(tmp_path).table("metrics")["value"].to_pylist()
        assert repr(found) == repr(value)


TEXTS = [
    "",
    "lr",
    "größer 学习率 🚀",
    'a "quote"',
    "two\nlines\r\n",
    "tab\t nul\x00",
    "\u2028\u2029\x85",
    "\\u0041",
    "[]",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_comes_back_as_it_was(tmp_path, text):
    """Unicode, quotes, line ends and control characters; before and after sealing."""
    with opened(tmp_path) as ledger:
        ledger.append("decisions", kind="set", reason=text)
        ledger.commit()
        assert LedgerReader(tmp_path).rows()["decisions"][0]["reason"] == text
    assert LedgerReader(tmp_path).rows()["decisions"][0]["reason"] == text


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"member": st.integers(0, 2**31 - 1)},
            optional={
                "segment": st.none() | st.integers(-(2**31), 2**31 - 1),
                "age": st.integers(-(2**63), 2**63 - 1),
                "name": st.text(st.characters(codec="utf-8")),
                "value": st.floats(),
            },
        ),
        max_size=8,
    )
)
def test_sealing_changes_no_row(tmp_path_factory, rows):
    """What is read from Parquet is what was read from the write-ahead file, times included."""
    run = tmp_path_factory.mktemp("run")
    with opened(run) as ledger:
        for row in rows:
            ledger.append("metrics", **row)
        ledger.commit()
        live = LedgerReader(run).rows()["metrics"]
    sealed = LedgerReader(run).rows()["metrics"]
    columns = schema.METRICS.names
    assert repr([[row.get(name) for name in columns] for row in live]) == repr(
        [[row.get(name) for name in columns] for row in sealed]
    )


def test_times_are_the_clocks(tmp_path):
    """In seconds since the epoch, to the microsecond; in Arrow as UTC timestamps."""
    times = iter([1_700_000_000.123456, 1_700_000_001.5])
    with opened(tmp_path, clock=lambda: next(times)) as ledger:
        note(ledger, 0)
        note(ledger, 1)
    reader = LedgerReader(tmp_path)
    assert [row["at"] for row in reader.rows()["metrics"]] == [1_700_000_000.123456, 1_700_000_001.5]
    stamps = reader.table("metrics")["at"].to_pylist()
    assert [stamp.isoformat() for stamp in stamps] == [
        "2023-11-14T22:13:20.123456+00:00",
        "2023-11-14T22:13:21.500000+00:00",
    ]


# --- torn tails and damage


def three_commits(run):
    """A ledger of three commits as a crash leaves it, and where its lines begin."""
    with opened(run) as ledger:
        for number in range(3):
            note(ledger, number)
            note(ledger, number, "outcomes")
            ledger.commit()
        crashed = copy_of(run, f"{run.name}-crashed")
    lines = wal(crashed).read_bytes().splitlines(keepends=True)
    return crashed, [sum(map(len, lines[:i])) for i in range(4)]


def test_a_torn_tail_costs_nothing_before_it(tmp_path):
    """Cut anywhere in the last line, the commits before it are whole, and the last is there whole or not at all."""
    run, starts = three_commits(tmp_path / "run")
    data = wal(run).read_bytes()
    for size in range(starts[2], len(data) + 1):
        wal(run).write_bytes(data[:size])
        rows = LedgerReader(run).rows()
        expected = [0, 1, 2] if size == len(data) else [0, 1]
        assert numbers(rows) == numbers(rows, "outcomes") == expected


def test_any_truncation_leaves_whole_commits(tmp_path):
    """Cut anywhere at all, what is left is the commits that were whole by then."""
    run, starts = three_commits(tmp_path / "run")
    data = wal(run).read_bytes()
    for size in range(len(data)):
        wal(run).write_bytes(data[:size])
        rows = LedgerReader(run).rows()
        assert numbers(rows) == numbers(rows, "outcomes") == list(range(sum(start <= size for start in starts[1:])))


@pytest.mark.parametrize("tail", [b"\x00" * 40, b"garbage", b"deadbeef", b"deadbeef []"])
def test_rubbish_at_the_end_is_dropped(tmp_path, tail):
    """A last line without its end was never whole, and is no commit, whatever a crash left of it."""
    run, _ = three_commits(tmp_path / "run")
    with wal(run).open("ab") as file:
        file.write(tail)
    assert numbers(LedgerReader(run).rows()) == [0, 1, 2]


@pytest.mark.parametrize("line", [b"\n", b"00000000 []\n", b"garbage\n"])
def test_a_whole_line_that_is_no_commit_is_named(tmp_path, line):
    """A crash cannot leave one, so it is damage, at the end as well."""
    run, starts = three_commits(tmp_path / "run")
    with wal(run).open("ab") as file:
        file.write(line)
    with pytest.raises(LedgerError, match=f"damaged after byte {starts[3]}"):
        LedgerReader(run).rows()


def test_damage_in_any_line_is_named(tmp_path):
    """Any flipped byte, in the last line too: the error names the file and how far it is good."""
    run, starts = three_commits(tmp_path / "run")
    path = wal(run)
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(LedgerError) as raised:
            LedgerReader(run).rows()
        line = sum(start <= position for start in starts) - 1
        good = f"{path} is damaged after byte {starts[line]}. What stands before it is good."
        assert str(raised.value) == good
        rows, end = read_wal_up_to(path, starts[line])
        assert (numbers_of(rows), end) == (list(range(line)), starts[line])


def read_wal_up_to(path, size):
    """What stands before a place in a write-ahead file."""
    part = path.with_suffix(".part")
    part.write_bytes(path.read_bytes()[:size])
    return read_wal(part)


def numbers_of(entries):
    return [row["member"] for table, row in entries if table == "metrics"]


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_hole_in_the_middle_is_named(tmp_path, cut):
    """Bytes that are missing before the last line are damage, not a torn tail."""
    run, starts = three_commits(tmp_path / "run")
    data = wal(run).read_bytes()
    wal(run).write_bytes(data[: starts[1] + 3] + data[starts[1] + 3 + cut :])
    with pytest.raises(LedgerError, match=f"damaged after byte {starts[1]}"):
        LedgerReader(run).rows()


@pytest.mark.parametrize("table", ["metrics", "outcomes"])
def test_a_flipped_bit_in_a_part_is_named(tmp_path, table):
    """Anywhere in a Parquet file: the error names it."""
    with opened(tmp_path) as ledger:
        note(ledger, 1)
        note(ledger, 2, "outcomes")
    part = tmp_path / "ledger" / table / "000001.parquet"
    data = part.read_bytes()
    for position in range(0, len(data), 37):
        part.write_bytes(data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :])
        with pytest.raises(LedgerError) as raised:
            LedgerReader(tmp_path).rows()
        assert str(raised.value) == (
            f"{part} is damaged (its SHA-256 is not the manifest's). Restore it from a backup."
        )


@pytest.mark.parametrize("name", ["metrics/000001.parquet", "wal-000002.jsonl"])
def test_a_missing_file_is_named(tmp_path, name, monkeypatch):
    """What the manifest speaks of must be there."""
    monkeypatch.setattr(module, "SEAL_ROWS", 1)
    with opened(tmp_path) as ledger:
        note(ledger, 1)
        ledger.commit()
        run = copy_of(tmp_path, f"{tmp_path.name}-crashed")
    path = run / "ledger" / name
    path.unlink()
    with pytest.raises(LedgerError) as raised:
        LedgerReader(run).rows()
    assert str(raised.value) == f"{path} is missing. Restore it from a backup."


def test_any_flipped_bit_in_the_manifest_is_noticed(tmp_path):
    """In every byte of it: reading fails with an error of ours, or nothing was changed."""
    with opened(tmp_path) as ledger:
        note(ledger, 1)
    manifest = tmp_path / "ledger" / "manifest.json"
    data, rows = manifest.read_bytes(), LedgerReader(tmp_path).rows()
    for position in range(len(data)):
        manifest.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            found = LedgerReader(tmp_path).rows()
        except PbtError as error:
            found = rows if str(tmp_path / "ledger") in str(error) else None
        assert rows == found, f"byte {position}: {data[position : position + 20]!r}"


@pytest.mark.parametrize("text", ["", "{", "\x00", "[]", "null", "{}", '"x"'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    """Whatever is left of it."""
    with opened(tmp_path):
        pass
    manifest = tmp_path / "ledger" / "manifest.json"
    manifest.write_text(text)
    with pytest.raises(LedgerError, match=rf"^{re.escape(str(manifest))} is damaged.* Restore it from a backup\.$"):
        LedgerReader(tmp_path).rows()


def test_later_versions_are_refused(tmp_path, monkeypatch):
    """With what this program reads, and what to do."""
    monkeypatch.setattr(schema, "VERSION", 7)
    with opened(tmp_path):
        pass
    monkeypatch.undo()
    with pytest.raises(LedgerError) as raised:
        LedgerReader(tmp_path)
    assert str(raised.value) == f"{tmp_path} has ledger version 7; this pbt reads up to 1. Upgrade pbt."


def test_no_ledger_is_no_run(tmp_path):
    """A folder without one is not a run."""
    with pytest.raises(RunNotFound, match=rf"^no run at {re.escape(str(tmp_path))}\. `pbt list` shows"):
        LedgerReader(tmp_path)


# --- sealing


def test_sealing_at_seal_rows(tmp_path, monkeypatch):
    """At so many rows the write-ahead file becomes numbered parts, one for each table that has rows."""
    monkeypatch.setattr(module, "SEAL_ROWS", 4)
    with opened(tmp_path) as ledger:
        for number in range(9):
            note(ledger, number, "metrics" if number % 3 else "outcomes")
            ledger.commit()
        files = sorted(str(path.relative_to(tmp_path / "ledger")) for path in (tmp_path / "ledger").rglob("*.*"))
        assert files == [
            "manifest.json",
            "metrics/000001.parquet",
            "metrics/000002.parquet",
            "outcomes/000001.parquet",
            "outcomes/000002.parquet",
            "wal-000003.jsonl",
        ]
        rows = LedgerReader(tmp_path).rows()
        assert (numbers(rows, "outcomes"), numbers(rows)) == ([0, 3, 6], [1, 2, 4, 5, 7, 8])


def test_closed_there_are_only_parts(tmp_path):
    """And the manifest, which says how many rows each has and whether the sweep came to its end."""
    with opened(tmp_path) as ledger:
        note(ledger, 0)
        note(ledger, 1)
    files = sorted(path.name for path in (tmp_path / "ledger").rglob("*.*"))
    assert files == ["000001.parquet", "manifest.json"]
    manifest = json.loads((tmp_path / "ledger" / "manifest.json").read_text())
    assert [(part["table"], part["rows"]) for part in manifest["parts"]] == [("metrics", 2)]
    assert not LedgerReader(tmp_path).finished


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("rows", [0, 1])
def test_the_end_is_recorded(tmp_path, finished, rows):
    """Also of a sweep in which nothing happened; both kinds stay readable."""
    ledger = Ledger(tmp_path)
    for number in range(rows):
        note(ledger, number)
    ledger.close(finished=finished)
    reader = LedgerReader(tmp_path)
    assert reader.finished is finished
    assert numbers(reader.rows()) == list(range(rows))


class Crash(Exception):
    """The process dies here."""


@pytest.mark.parametrize(("crash", "nth"), [("_write_part", 1), ("_write_part", 2), ("_write_manifest", 1)])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("closing", [False, True])
def test_a_crash_while_sealing_loses_and_doubles_nothing(tmp_path, monkeypatch, crash, nth, when, closing):
    """Between any two files, what is on disk reads as every row once."""
    run = tmp_path / "run"
    ledger = Ledger(run)
    for number in range(3):
        note(ledger, number)
        note(ledger, number, "outcomes")
        ledger.commit()
    step, calls = getattr(Ledger, crash), []

    def die(self, *arguments):
        calls.append(arguments)
        done = step(self, *arguments) if when == "after" or len(calls) < nth else None
        if len(calls) == nth:
            raise Crash
        return done

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, crash, die)
        patched.setattr(module, "SEAL_ROWS", 1)
        note(ledger, 3)
        note(ledger, 3, "outcomes")
        with pytest.raises(Crash):
            ledger.close(finished=True) if closing else ledger.commit()
        crashed = copy_of(run, "crashed")
    rows = LedgerReader(crashed).rows()
    assert numbers(rows) == numbers(rows, "outcomes") == [0, 1, 2, 3]
    ledger.close(finished=True)  # and if it did not die after all:
    assert not list((run / "ledger").glob("wal-*"))
    rows = LedgerReader(run).rows()
    assert numbers(rows) == numbers(rows, "outcomes") == [0, 1, 2, 3]


def test_a_process_killed_while_writing_leaves_whole_commits(tmp_path):
    """SIGKILL in the middle of appending, committing and sealing: a prefix of the commits is there, each once."""
    script = """
import sys, os
from pathlib import Path
from pbt.record import ledger
ledger.SEAL_ROWS = 40
book = ledger.Ledger(Path(sys.argv[1]))
for number in range(100_000):
    book.append("metrics", member=number)
    book.append("outcomes", member=number)
    book.commit()
    os.write(1, b"%d\\n" % number)
"""
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    with child:
        for line in child.stdout:
            if int(line) == 333:
                child.kill()
                break
        told = [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
    rows = LedgerReader(tmp_path).rows()
    found = numbers(rows)
    assert found == numbers(rows, "outcomes") == list(range(len(found)))
    assert len(found) >= 1 + max(told, default=333)


# --- following

TABLES = ("metrics", "outcomes", "decisions")


class Following(RuleBasedStateMachine):
    """Any interleaving of appending, committing, sealing, polling and beginning to follow."""

    def __init__(self):
        super().__init__()
        self.run = Path(tempfile.mkdtemp())
        self.ledger = Ledger(self.run)
        self.pending, self.committed, self.open = [], [], True
        self.tails = []
        self.begin_to_follow()

    @rule(table=st.sampled_from(TABLES))
    @precondition(lambda self: self.open)
    def append(self, table):
        number = len(self.pending) + len(self.committed)
        self.ledger.append(table, member=number)
        self.pending.append((table, number))

    @rule()
    @precondition(lambda self: self.open)
    def commit(self):
        self.ledger.commit()
        self.committed += self.pending
        self.pending = []

    @rule()
    @precondition(lambda self: self.open)
    def seal(self):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "SEAL_ROWS", 1)
            self.ledger.append("metrics", member=len(self.pending) + len(self.committed))
            self.pending.append(("metrics", len(self.pending) + len(self.committed)))
            self.commit()

    @rule(which=st.integers(0, 3))
    def poll(self, which):
        tail, got = self.tails[which % len(self.tails)]
        got += [(table, row["member"]) for table, row in tail.poll()]
        assert self.committed == got

    @rule()
    @precondition(lambda self: len(self.tails) < 3)
    def begin_to_follow(self):
        self.tails.append((Tail(LedgerReader(self.run)), []))

    @rule(which=st.integers(0, 3))
    def go_on_from_where_another_stopped(self, which):
        index = which % len(self.tails)
        tail, got = self.tails[index]
        self.tails[index] = (Tail(LedgerReader(self.run), tail.seen), got)

    @rule(finished=st.booleans())
    @precondition(lambda self: self.open and len(self.committed) > 4)
    def close(self, finished):
        self.ledger.close(finished=finished)
        self.committed += self.pending
        self.open = False

    @invariant()
    def the_whole_is_what_was_committed(self):
        rows = LedgerReader(self.run).rows()
        for table in TABLES:
            assert numbers(rows, table) == [number for name, number in self.committed if name == table]

    def teardown(self):
        for which in range(len(self.tails)):
            self.poll(which)
        if self.open:
            self.ledger.close(finished=True)
        shutil.rmtree(self.run)


Following.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


class TestFollowing(Following.TestCase):
    """Whoever follows a ledger sees every row exactly once, in the order in which they were written."""


@pytest.mark.parametrize("clock", [lambda: 5.0, iter(range(100, 0, -1)).__next__], ids=["standing", "backwards"])
def test_the_order_does_not_depend_on_the_clock(tmp_path, clock):
    """Where the clock stands still or is set back, rows still come in the order in which they were written."""
    order = [(TABLES[number % 3], number) for number in range(9)]
    with opened(tmp_path, clock=clock) as ledger:
        for table, number in order:
            note(ledger, number, "metrics") if table == "metrics" else ledger.append(table, member=number)
        ledger.commit()
        assert [(table, row["member"]) for table, row in Tail(LedgerReader(tmp_path)).poll()] == order
    assert [(table, row["member"]) for table, row in Tail(LedgerReader(tmp_path)).poll()] == order


def test_following_reads_only_what_is_new(tmp_path, monkeypatch):
    """A poll with no news opens one file and reads no part again."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    with opened(tmp_path) as ledger:
        tail = Tail(LedgerReader(tmp_path))
        for number in range(4):
            note(ledger, number)
            ledger.commit()
        assert len(tail.poll()) == 4
        monkeypatch.setattr(pq, "read_table", None)
        monkeypatch.setattr(Path, "read_bytes", None)
        note(ledger, 4)
        ledger._wal.write(module._frame(ledger._pending))
        ledger._wal.flush()
        assert [row["member"] for _, row in tail.poll()] == [4]
        assert tail.poll() == []
        monkeypatch.undo()


def test_a_torn_line_is_read_when_it_is_whole(tmp_path):
    """A follower that looks while a commit is being written sees it at its next look."""
    run, starts = three_commits(tmp_path / "run")
    path = wal(run)
    data = path.read_bytes()
    path.write_bytes(data[: starts[2] + 7])
    tail = Tail(LedgerReader(run))
    assert numbers_of(tail.poll()) == [0, 1]
    path.write_bytes(data)
    assert numbers_of(tail.poll()) == [2]


def test_reading_while_it_is_sealed(tmp_path, monkeypatch):
    """When the write-ahead file disappears between the manifest and the file, the reader looks again."""
    monkeypatch.setattr(module, "SEAL_ROWS", 3)
    with opened(tmp_path) as ledger:
        for number in range(2):
            note(ledger, number)
            ledger.commit()
        reader = LedgerReader(tmp_path)
        read = module.read_wal
        raced = []

        def race(path, start=0):
            if not raced:
                raced.append(path)
                monkeypatch.setattr(module, "read_wal", read)
                note(ledger, 2)
                ledger.commit()
            return read(path, start)

        monkeypatch.setattr(module, "read_wal", race)
        assert numbers(reader.rows()) == [0, 1, 2]
        assert not raced[0].exists()


# --- other people's tools


def test_sealed_parts_are_read_by_anything_that_reads_parquet(tmp_path, monkeypatch):
    """By pandas, pyarrow, polars and DuckDB, a folder for each table."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    with opened(tmp_path) as ledger:
        for number in range(5):
            note(ledger, number)
            ledger.commit()
    folder = tmp_path / "ledger" / "metrics"
    assert pd.read_parquet(folder)["member"].tolist() == [0, 1, 2, 3, 4]
    table = ds.dataset(folder).to_table()
    assert table["member"].to_pylist() == [0, 1, 2, 3, 4]
    assert table.schema.remove_metadata() == schema.METRICS


def test_polars_and_duckdb_read_it_too(tmp_path):
    """Where they are installed."""
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    with opened(tmp_path) as ledger:
        note(ledger, 3)
    files = str(tmp_path / "ledger" / "metrics" / "*.parquet")
    assert polars.read_parquet(files)["member"].to_list() == [3]
    assert duckdb.sql(f"select member from '{files}'").fetchall() == [(3,)]


# --- the digest


def write_story(run, segments=(), outcomes=(), order=None, clock=lambda: 1.0, extra=(), seal=False):
    """A ledger of these rows, in any order."""
    entries = [("segments", row) for row in segments] + [("outcomes", row) for row in outcomes] + list(extra)
    random.Random(order).shuffle(entries) if order is not None else None
    with opened(run, clock=clock) as ledger:
        for table, row in entries:
            ledger.append(table, **row)
            ledger.commit()
        if not seal:
            return LedgerReader(run).digest()
    return LedgerReader(run).digest()


def segment(member, index, **changes):
    """A decision row with every column set."""
    return {
        "member": member,
        "segment": index,
        "generation": index,
        "start": "own",
        "parent_member": member,
        "parent_segment": index - 1,
        "hparams": '{"lr":0.1}',
        "seed": 7,
        "bucket": "b",
        "stack": 0,
        "slot": member,
        "age_start": 10,
        "consumed_start": 10,
        "until": 20,
        "cause": "report",
    } | changes


def outcome(member, index, **changes):
    return {
        "member": member,
        "segment": index,
        "status": "ended",
        "hparams_in_effect": '{"lr":0.1}',
        "score": 0.5,
        "wall_s": 1.0,
    } | changes


SEGMENTS = [segment(member, index) for member in range(3) for index in range(3)]
OUTCOMES = [outcome(member, index) for member in range(3) for index in range(3)]


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_digest_does_not_depend_on_order_or_times(tmp_path, order, seal):
    """Nor on whether the rows were sealed."""
    expected = write_story(tmp_path / "a", SEGMENTS, OUTCOMES)
    found = write_story(tmp_path / "b", SEGMENTS, OUTCOMES, order, clock=lambda: 99.0 * order, seal=seal)
    assert expected == found


@pytest.mark.parametrize(
    "changes",
    [
        {"outcomes": [row | {"score": 0.7} for row in OUTCOMES]},
        {"outcomes": [row | {"wall_s": 5.0, "tokens": 3} for row in OUTCOMES]},
        {"outcomes": [row | {"status": "failed", "reason": "why"} for row in OUTCOMES]},
        {"segments": [row | {"cause": "other"} for row in SEGMENTS]},
        {"extra": [("metrics", {"member": 0, "value": 1.0})]},
        {"extra": [("checkpoints", {"member": 0, "digest": "ab"})]},
        {"extra": [("decisions", {"kind": "decline", "member": 0})]},
    ],
    ids=["score", "cost", "status", "cause", "metrics", "checkpoints", "words"],
)
def test_the_digest_does_not_depend_on_observations(tmp_path, changes):
    """Scores, costs, causes and words are not decisions."""
    first = write_story(tmp_path / "a", SEGMENTS, OUTCOMES)
    assert first == write_story(tmp_path / "b", **({"segments": SEGMENTS, "outcomes": OUTCOMES} | changes))


#: A change of each column that the digest covers.
CHANGES = {
    "member": 5,
    "segment": 9,
    "generation": 9,
    "start": "copied",
    "parent_member": 2,
    "parent_segment": 2,
    "hparams": '{"lr":0.2}',
    "hparams_in_effect": '{"lr":0.2}',
    "seed": 8,
    "bucket": "c",
    "stack": 1,
    "slot": 5,
    "age_start": 11,
    "consumed_start": 11,
    "until": 21,
}


@pytest.mark.parametrize("column", schema.DIGEST)
def test_the_digest_depends_on_every_decision(tmp_path, column):
    """A change in any decision column of one segment shows; so does null for a value."""
    digests = [write_story(tmp_path / "a", SEGMENTS, OUTCOMES)]
    for name, value in (("b", CHANGES[column]), ("c", None)):
        if (column, value) in (("member", None), ("segment", None)):
            continue
        rows = {"hparams_in_effect": OUTCOMES}.get(column, SEGMENTS)
        changed = [row | {column: value} if (row["member"], row["segment"]) == (1, 1) else row for row in rows]
        both = (SEGMENTS, changed) if rows is OUTCOMES else (changed, OUTCOMES)
        digests.append(write_story(tmp_path / name, *both))
    assert len(digests) == len(set(digests))


def test_the_digest_knows_when_a_segment_is_missing(tmp_path):
    """Or there twice."""
    rows = [SEGMENTS, SEGMENTS[:-1], [*SEGMENTS, SEGMENTS[-1]], []]
    assert len({write_story(tmp_path / str(i), segments, OUTCOMES) for i, segments in enumerate(rows)}) == 4


# --- disks


def no_room(*_, **__):
    raise OSError(28, "No space left on device")


def one_line(error):
    """The message of an error of ours, which is one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    """A commit that fails and is tried again is there once; what was recorded before is safe meanwhile."""
    with opened(tmp_path) as ledger:
        note(ledger, 1)
        ledger.commit()
        note(ledger, 2)
        monkeypatch.setattr(os, "fsync", no_room)
        with pytest.raises(StorageError) as raised:
            ledger.commit()
        assert one_line(raised) == (
            f"cannot write {tmp_path / 'ledger'}: No space left on device. "
            "Free some space; what was recorded before is safe."
        )
        assert numbers(LedgerReader(tmp_path).rows())[:1] == [1]
        monkeypatch.undo()
        note(ledger, 3)
        ledger.commit()
        assert numbers(LedgerReader(tmp_path).rows()) == [1, 2, 3]
    assert numbers(LedgerReader(tmp_path).rows()) == [1, 2, 3]


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_half_a_commit_on_a_full_disk_does_no_harm(tmp_path, kept):
    """Where the disk took only the beginning of a line, trying again gives a whole one."""

    class Small:
        """A file on a disk that is full after `kept` more bytes."""

        def __init__(self, file):
            self.file, self.full, self.left = file, True, kept

        def write(self, data):
            if not self.full:
                return self.file.write(data)
            if self.left == 0:
                no_room()
            written = self.file.write(data[: self.left])
            self.left -= written
            return written

        def truncate(self, size):
            self.left = kept
            return self.file.truncate(size)

        def __getattr__(self, name):
            return getattr(self.file, name)

    with opened(tmp_path) as ledger:
        note(ledger, 1)
        ledger.commit()
        ledger._wal = Small(ledger._wal)
        note(ledger, 2)
        for _ in range(2):
            with pytest.raises(StorageError):
                ledger.commit()
            assert numbers(LedgerReader(tmp_path).rows()) == [1]
        ledger._wal.full = False
        note(ledger, 3)
        ledger.commit()
        assert numbers(LedgerReader(tmp_path).rows()) == [1, 2, 3]


@pytest.mark.parametrize("call", ["open", "mkdir", "replace", "fsync"])
def test_a_disk_that_is_full_while_sealing_is_one_line(tmp_path, monkeypatch, call):
    """Whatever fails, nothing is lost or doubled when there is room again."""
    ledger = Ledger(tmp_path)
    note(ledger, 1)
    ledger.commit()
    with monkeypatch.context() as patched:
        match call:
            case "open":
                patched.setattr(module, "open", no_room, raising=False)
            case "mkdir":
                patched.setattr(Path, "mkdir", no_room)
            case _:
                patched.setattr(os, call, no_room)
        with pytest.raises(StorageError) as raised:
            ledger.close(finished=True)
        assert "No space left on device" in one_line(raised)
    assert numbers(LedgerReader(tmp_path).rows()) == [1]
    ledger.close(finished=True)
    assert numbers(LedgerReader(tmp_path).rows()) == [1]
    assert LedgerReader(tmp_path).finished


def test_a_seal_that_failed_is_made_up_for(tmp_path, monkeypatch):
    """Commits go on meanwhile, and each row is sealed once."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    with opened(tmp_path) as ledger:
        for number in range(6):
            note(ledger, number)
            with monkeypatch.context() as patched:
                if number in (1, 2, 4):
                    patched.setattr(os, "replace", no_room)
                with contextlib.suppress(StorageError):
                    ledger.commit()
            assert numbers(LedgerReader(tmp_path).rows()) == list(range(number + 1))
    assert numbers(LedgerReader(tmp_path).rows()) == list(range(6))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    """Where a file stands in the way, say."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as raised:
        Ledger(tmp_path / "file")
    assert one_line(raised) == f"cannot write {tmp_path / 'file'}: Not a directory. Choose another storage folder."


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_new_ledger_on_a_full_disk_is_one_line(tmp_path, monkeypatch, call):
    """And leaves no ledger behind, so that it can be tried again."""
    with monkeypatch.context() as patched:
        patched.setattr(os, call, no_room)
        with pytest.raises(StorageError) as raised:
            Ledger(tmp_path)
    assert "No space left on device" in one_line(raised)
    with opened(tmp_path) as ledger:
        note(ledger, 1)
    assert numbers(LedgerReader(tmp_path).rows()) == [1]


def test_a_new_ledger_whose_first_file_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    """An error of ours also where the very first file fails."""
    monkeypatch.setattr(module, "open", no_room, raising=False)
    with pytest.raises(StorageError, match="No space left on device"):
        Ledger(tmp_path)


# --- write_atomically


@pytest.mark.parametrize("data", [b"", b"new", os.urandom(5000)], ids=["empty", "small", "large"])
def test_a_file_is_replaced_whole(tmp_path, data):
    """The new contents, and nothing else in the folder."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_atomically(path, data)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch, call):
    """The error is one line, and no half-written file is left lying about."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, no_room)
    with pytest.raises(StorageError) as raised:
        write_atomically(path, b"new")
    assert one_line(raised) == (
        f"cannot write {path}: No space left on device. Free some space or choose another storage folder."
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- old ledgers


def test_the_golden_ledger_of_version_1_stays_readable(tmp_path):
    """Sealed parts and a write-ahead tail with a torn end, as `tests/golden/make_ledger_v1.py` wrote them once."""
    run = Path(shutil.copytree(GOLDEN, tmp_path / "run"))
    reader = LedgerReader(run)
    assert not reader.finished
    assert reader.digest() == GOLDEN_DIGEST
    rows = reader.rows()
    counts = {table: len(found) for table, found in rows.items()}
    assert counts == {"segments": 5, "decisions": 6, "outcomes": 4, "metrics": 8, "checkpoints": 1}
    last = rows["segments"][-1]
    assert last == {
        "member": 1,
        "segment": 2,
        "generation": 2,
        "start": "own",
        "parent_member": 1,
        "parent_segment": 1,
        "hparams": '{"lr":0.02,"optimizer":"größer"}',
        "seed": 1001,
        "bucket": "golden",
        "stack": 0,
        "slot": 1,
        "age_start": 20,
        "consumed_start": 20,
        "until": 30,
        "cause": "report:1:1",
        "at": last["at"],
    }
    assert [row["value"] for row in rows["metrics"][:2]] == [0.25, math.inf]
    assert math.isnan(rows["outcomes"][1]["score"])
    assert reader.table("segments").schema == schema.SEGMENTS
    assert len(Tail(reader).poll()) == sum(counts.values())
    assert pd.read_parquet(run / "ledger" / "segments")["member"].tolist() == [0, 1, 0, 1]


# --- the scripted sweep of the other tests


def test_the_scripted_sweep_reads_the_same_at_any_size_of_parts(tmp_path, monkeypatch):
    """Whether sealed every few rows or once at the end."""
    digests, tables = set(), []
    for size in (1, 7, 50_000):
        monkeypatch.setattr(module, "SEAL_ROWS", size)
        reader = LedgerReader(ledgers.tell(tmp_path / string.ascii_letters[size % 52]))
        digests.add(reader.digest())
        tables.append(reader.tables())
    assert len(digests) == 1
    for table in schema.TABLES:
        one, *others = (repr(found[table].to_pylist()) for found in tables)
        assert [one, one] == others
