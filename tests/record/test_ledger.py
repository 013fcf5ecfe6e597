"""The ledger: whole commits or none, damage named, and every row read exactly once."""

from __future__ import annotations

import contextlib
import importlib
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
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pbt.errors import LedgerError, PbtError, RunNotFound, StorageError
from pbt.record import archive, lock, parts, schema
from pbt.record import ledger as module
from pbt.record import wal as write_ahead
from pbt.record.archive import LocalArchive
from pbt.record.ledger import Ledger, LedgerReader, Tail, read_wal, write_atomically
from pbt.record.salvage import salvage
from pbt.record.wal import WriteAhead, frame
from tests import ledgers
from tests.examples import examples

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "ledger.md"
GOLDEN = ROOT / "tests" / "golden" / "ledger-v1"
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


def test_a_commit_is_written_before_it_returns(tmp_path):
    """In full, so that the death of the process costs nothing."""
    with opened(tmp_path):
        pass
    with opened(tmp_path, existing=True) as ledger:
        for number in range(3):
            note(ledger, number)
            ledger.commit()
            died = LedgerReader(copy_of(tmp_path, f"{tmp_path.name}-{number}"))
            assert numbers(died.rows()) == list(range(number + 1))


def test_what_is_synced_is_committed_and_on_disk(tmp_path, monkeypatch):
    """`sync` commits what is pending and waits for the disk."""
    with opened(tmp_path) as ledger:
        sizes = []
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (sizes.append(os.fstat(fd).st_size), sync(fd)))
        note(ledger, 1)
        ledger.sync()
        assert wal(tmp_path).stat().st_size == sizes[-1] > 0
        monkeypatch.undo()
    assert numbers(LedgerReader(tmp_path).rows()) == [1]


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
    write = LocalArchive.write

    def look(archive, name, data):
        write(archive, name, data)
        seen.append((name, LedgerReader(tmp_path).rows()["metrics"]))

    monkeypatch.setattr(LocalArchive, "write", look)
    with opened(tmp_path):
        assert seen == [("manifest.json", []), ("manifest-copy.json", [])]


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


@examples(40)
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
            f"{part} is damaged (its SHA-256 is not the manifest's). Restore it from a backup; "
            "`pbt.record.salvage` reads the rest (docs/ledger.md)."
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
    copy = tmp_path / "ledger" / "manifest-copy.json"
    with pytest.raises(
        LedgerError, match=rf"^{re.escape(str(manifest))} is damaged.* Copy {re.escape(str(copy))} over"
    ):
        LedgerReader(tmp_path).rows()
    copy.write_text("{}")
    with pytest.raises(LedgerError, match=r" Restore it from a backup\.$"):
        LedgerReader(tmp_path)


def test_the_manifest_has_a_copy(tmp_path):
    """Which mends it when it is put in its place, whatever the ledger went through."""
    with opened(tmp_path) as ledger:
        note(ledger, 1)
        ledger.commit()
    folder = tmp_path / "ledger"
    expected = LedgerReader(tmp_path).rows()
    (folder / "manifest.json").write_bytes(b"")
    shutil.copy(folder / "manifest-copy.json", folder / "manifest.json")
    assert expected == LedgerReader(tmp_path).rows()


def test_later_versions_are_refused(tmp_path, monkeypatch):
    """With what this program reads, and what to do."""
    monkeypatch.setattr(schema, "VERSION", 7)
    with opened(tmp_path):
        pass
    monkeypatch.undo()
    with pytest.raises(LedgerError) as raised:
        LedgerReader(tmp_path)
    assert str(raised.value) == f"{tmp_path} has ledger version 7; this pbt reads up to 3. Upgrade pbt."


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
            "manifest-copy.json",
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
    assert files == ["000001.parquet", "manifest-copy.json", "manifest.json"]
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


#: What is done to a ledger, and how many files it writes.
WRITTEN = {"commit": 4, "stop": 4, "finish": 10}


@pytest.mark.parametrize(("call", "step"), [(call, step + 1) for call, n in WRITTEN.items() for step in range(n)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_while_sealing_loses_and_doubles_nothing(tmp_path, monkeypatch, step, when, call):
    """Before or after writing any file, while sealing, merging and closing: what is on disk reads as every row once.

    The same when the ledger is taken up again from there, and when the process did not die after all.
    """
    run = tmp_path / "run"
    ledger = Ledger(run)
    with monkeypatch.context() as patched:
        patched.setattr(module, "SEAL_ROWS", 4)
        for number in range(3):
            note(ledger, number)
            note(ledger, number, "outcomes")
            ledger.commit()
    note(ledger, 3)
    note(ledger, 3, "outcomes")
    write, written = LocalArchive.write, []

    def die(archive, name, data):
        written.append(name)
        if when == "after" or len(written) != step:
            write(archive, name, data)
        if len(written) == step:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(LocalArchive, "write", die)
        patched.setattr(module, "SEAL_ROWS", 1)
        with pytest.raises(Crash):
            ledger.commit() if call == "commit" else ledger.close(finished=call == "finish")
    everything = [0, 1, 2, 3]
    crashed = copy_of(run, "crashed")
    assert whole(crashed) == [everything] * 2
    again = Ledger(crashed, existing=True)
    assert whole(crashed) == [everything] * 2
    assert folders(crashed) in ([everything] * 2, [everything[:2]] * 2)
    again.close(finished=True)
    ledger.close(finished=True)
    for folder in (run, crashed):
        assert not list((folder / "ledger").glob("wal-*"))
        assert whole(folder) == folders(folder) == [everything] * 2
        assert LedgerReader(folder).finished


def whole(run):
    """What the two tables of a ledger hold."""
    rows = LedgerReader(run).rows()
    return [numbers(rows), numbers(rows, "outcomes")]


def folders(run):
    """What other people's tools read of them."""
    return [sorted(pd.read_parquet(run / "ledger" / table)["member"].tolist()) for table in ("metrics", "outcomes")]


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
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
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
    """Any interleaving of appending, committing, sealing, closing, dying, taking up, polling and following."""

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
        self.pending, self.open = [], False

    @rule(torn=st.sampled_from([b"", b"deadbeef [", b"\x00" * 5]))
    @precondition(lambda self: self.open)
    def die(self, torn):
        self.ledger.abandon()
        with wal(self.run).open("ab") as file:
            file.write(torn)
        self.pending, self.open = [], False

    @rule()
    @precondition(lambda self: not self.open)
    def take_up(self):
        self.ledger = Ledger(self.run, existing=True)
        self.open = True

    @invariant()
    def the_whole_is_what_was_committed(self):
        rows = LedgerReader(self.run).rows()
        for table in TABLES:
            assert numbers(rows, table) == [number for name, number in self.committed if name == table]
        history = [(table, row["member"]) for table, row in LedgerReader(self.run).history()]
        assert self.committed == history

    def teardown(self):
        for which in range(len(self.tails)):
            self.poll(which)
        if self.open:
            self.ledger.close(finished=True)
        shutil.rmtree(self.run)


Following.TestCase.settings = examples(12, stateful_step_count=40)


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
        ledger._wal.append(frame(ledger._pending))
        assert [row["member"] for _, row in tail.poll()] == [4]
        assert tail.poll() == []
        monkeypatch.undo()


@pytest.mark.parametrize("finished", [False, True])
def test_following_reads_no_part_twice(tmp_path, monkeypatch, finished):
    """Not when the write-ahead file was sealed, nor when the parts were merged."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    read, parts = module.read_part, []
    monkeypatch.setattr(module, "read_part", lambda archive, part: (parts.append(part.file), read(archive, part))[1])
    ledger = Ledger(tmp_path)
    tail, got = Tail(LedgerReader(tmp_path)), []
    for number in range(5):
        note(ledger, number)
        ledger.commit()
        got += numbers_of(tail.poll())
    assert parts == ["metrics/000001.parquet", "metrics/000002.parquet"]
    ledger.close(finished=finished)
    got += numbers_of(tail.poll())
    assert got == [0, 1, 2, 3, 4]
    assert len(parts) == 2


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


def test_reading_while_it_is_merged(tmp_path, monkeypatch):
    """When parts disappear between the manifest and their files, the reader looks again."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    ledger = Ledger(tmp_path)
    for number in range(5):
        note(ledger, number)
        ledger.commit()
    reader, read, raced = LedgerReader(tmp_path), module.read_part, []

    def race(archive, part):
        if not raced:
            raced.append(part)
            ledger.close(finished=True)
        return read(archive, part)

    monkeypatch.setattr(module, "read_part", race)
    assert reader.table("metrics")["member"].to_pylist() == [0, 1, 2, 3, 4]
    assert len(raced) == 1


def test_tables_can_be_read_one_by_one(tmp_path, monkeypatch):
    """By name, as rows, in Arrow, or in the order in which they were written; the others are not touched."""
    monkeypatch.setattr(module, "SEAL_ROWS", 6)
    with opened(tmp_path) as ledger:
        for number in range(4):
            note(ledger, number)
            note(ledger, number, "outcomes")
            ledger.commit()
        (tmp_path / "ledger" / "outcomes" / "000001.parquet").unlink()
        reader = LedgerReader(tmp_path)
        assert numbers(reader.rows(["metrics"])) == [0, 1, 2, 3]
        assert reader.rows(names=("metrics", "segments")).keys() == {"metrics", "segments"}
        assert reader.tables(["metrics"])["metrics"] == reader.table("metrics")
        assert [(table, row["member"]) for table, row in reader.history(["segments", "metrics"])] == [
            ("metrics", number) for number in range(4)
        ]
        assert reader.files("metrics") == [str(tmp_path / "ledger" / "metrics" / "000001.parquet")]
        with pytest.raises(LedgerError, match="is missing"):
            reader.rows()


@pytest.mark.parametrize("read", [LedgerReader.rows, LedgerReader.tables, LedgerReader.history])
def test_a_table_that_is_none_is_refused(tmp_path, read):
    """With those there are."""
    with opened(tmp_path), pytest.raises(KeyError, match=r"there is no table .*metric'.*segments, decisions"):
        read(LedgerReader(tmp_path), ["metric"])


def test_history_is_the_order_of_writing(tmp_path, monkeypatch):
    """Of all tables, whatever the clock does, sealed or not."""
    monkeypatch.setattr(module, "SEAL_ROWS", 4)
    times = iter([5.0, 3.0, 3.0, 9.0, 1.0, 2.0, 2.0])
    order = ["metrics", "outcomes", "decisions", "metrics", "segments", "metrics", "outcomes"]
    with opened(tmp_path, clock=lambda: next(times)) as ledger:
        for number, table in enumerate(order):
            note(ledger, number, table)
            ledger.commit()
        assert [(table, row["member"]) for table, row in LedgerReader(tmp_path).history()] == [
            (table, number) for number, table in enumerate(order)
        ]


def test_sealed_rows_stay_in_arrow(tmp_path, monkeypatch):
    """A table is read without making a Python object of each value."""
    with opened(tmp_path) as ledger:
        note(ledger, 1)
    monkeypatch.setattr(schema, "to_rows", None)
    assert LedgerReader(tmp_path).table("metrics")["member"].to_pylist() == [1]


# --- taking up again


def crashed(run, finished=None):
    """A ledger of two commits and a torn one, as its writer left it: dead, or closed."""
    ledger = Ledger(run, lambda: 2_000.0)
    for number in range(2):
        note(ledger, number)
        note(ledger, number, "outcomes")
        ledger.commit()
    if finished is not None:
        ledger.close(finished=finished)
        return
    ledger.abandon()
    with wal(run).open("ab") as file:
        file.write(b'0123abcd [["metrics",{"member":9')


@pytest.mark.parametrize("finished", [None, False, True], ids=["died", "stopped", "finished"])
def test_a_ledger_is_taken_up_where_it_ended(tmp_path, finished):
    """With all that was committed, and no trace of what was not; a finished one is unfinished again."""
    crashed(tmp_path, finished)
    with opened(tmp_path, existing=True) as ledger:
        reader = LedgerReader(tmp_path)
        assert (reader.finished, reader.is_open) == (False, True)
        assert numbers(reader.rows()) == [0, 1]
        note(ledger, 2)
        ledger.commit()
        assert numbers(reader.rows()) == [0, 1, 2]
        assert b"0123abcd" not in wal(tmp_path).read_bytes()
    assert numbers(reader.rows()) == [0, 1, 2]
    assert numbers(reader.rows(), "outcomes") == [0, 1]


@pytest.mark.parametrize(
    ("finished", "expected"), [(None, "wal-000001.jsonl"), (False, "wal-000002.jsonl"), (True, "wal-000002.jsonl")]
)
def test_a_closed_ledger_goes_on_with_a_new_number(tmp_path, finished, expected):
    """So that who followed the old file does not take the new one for it; an open one goes on in its file."""
    crashed(tmp_path, finished)
    with opened(tmp_path, existing=True):
        assert wal(tmp_path).name == expected


@pytest.mark.parametrize("finished", [None, False, True], ids=["died", "stopped", "finished"])
@pytest.mark.parametrize("now", [0.0, 1_999.0, 2_000.0, 3_000.0])
@pytest.mark.parametrize("idle", [0, 2])
def test_time_goes_on_after_the_last_row(tmp_path, finished, now, idle):
    """Strictly, also where the clock was set back, and over several resumptions without a row."""
    crashed(tmp_path, finished)
    for _ in range(idle):
        with opened(tmp_path, clock=lambda: now, existing=True):
            pass
    with opened(tmp_path, clock=lambda: now, existing=True) as ledger:
        note(ledger, 2, "decisions")
    times = [row["at"] for _, row in LedgerReader(tmp_path).history()]
    assert times == sorted(set(times))
    assert [table for table, _ in LedgerReader(tmp_path).history()][-1] == "decisions"
    assert times[-1] == max(now, 2_000.000004)


def test_a_ledger_is_taken_up_many_times(tmp_path):
    """Each session adds to it; the end merges all."""
    crashed(tmp_path)
    for number in range(2, 6):
        with opened(tmp_path, existing=True) as ledger:
            note(ledger, number)
    Ledger(tmp_path, existing=True).close(finished=True)
    reader = LedgerReader(tmp_path)
    assert reader.finished
    assert numbers(reader.rows()) == [0, 1, 2, 3, 4, 5]
    assert len(reader.files("metrics")) == 1


def files_of(run):
    """All contents of a folder, but for the lock."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("name", ["wal-000002.jsonl", "metrics/000001.parquet", "manifest.json"])
def test_a_damaged_ledger_is_not_taken_up(tmp_path, monkeypatch, name):
    """The error is the reader's, and nothing is changed."""
    monkeypatch.setattr(module, "SEAL_ROWS", 4)
    ledger = Ledger(tmp_path)
    for number in range(5):
        note(ledger, number)
        ledger.commit()
    ledger.abandon()
    path = tmp_path / "ledger" / name
    data = path.read_bytes()
    path.write_bytes(data[:30] + bytes([data[30] ^ 4]) + data[31:])
    before = files_of(tmp_path)
    with pytest.raises(LedgerError) as raised:
        Ledger(tmp_path, existing=True)
    assert str(raised.value).startswith(f"{path} is damaged")
    assert before == files_of(tmp_path)


def test_an_old_ledger_is_not_taken_up(tmp_path):
    """It is read, and left as it is."""
    run = Path(shutil.copytree(GOLDEN, tmp_path / "run"))
    before = files_of(run)
    with pytest.raises(LedgerError) as raised:
        Ledger(run, existing=True)
    assert str(raised.value) == (f"{run} was recorded by an older pbt (ledger version 1); it can be read, not resumed.")
    assert before == files_of(run)
    assert not (run / "ledger" / "lock").exists()
    assert LedgerReader(run).version == 1


def test_no_ledger_cannot_be_taken_up(tmp_path):
    """And none is begun."""
    with pytest.raises(RunNotFound, match=r"^no run at"):
        Ledger(tmp_path, existing=True)
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_without_its_manifest_is_not_overwritten(tmp_path):
    """What is in its write-ahead file may be all there is."""
    crashed(tmp_path)
    for name in ("manifest.json", "manifest-copy.json"):
        (tmp_path / "ledger" / name).unlink()
    before = files_of(tmp_path)
    with pytest.raises(LedgerError) as raised:
        Ledger(tmp_path)
    path = tmp_path / "ledger" / "wal-000001.jsonl"
    assert str(raised.value) == f"{path} is there without a manifest. Restore that, or choose another name."
    assert before == files_of(tmp_path)


def test_closing_twice_is_closing_once(tmp_path):
    """Whoever closes again, in whatever way, changes nothing."""
    ledger = Ledger(tmp_path)
    note(ledger, 1)
    ledger.close(finished=True)
    before = files_of(tmp_path)
    ledger.close(finished=False)
    ledger.abandon()
    assert before == files_of(tmp_path)


@pytest.mark.parametrize("end", [lambda ledger: ledger.close(finished=False), Ledger.commit])
def test_what_is_sealed_was_synced(tmp_path, monkeypatch, end):
    """Before any part is written: what the system lost on the way to the disk does not get into one."""
    monkeypatch.setattr(WriteAhead, "_keep_synced", lambda self: None)
    calls, sync, write = [], os.fsync, LocalArchive.write
    with opened(tmp_path) as ledger:
        note(ledger, 1)
        ledger.commit()
        path, size = wal(tmp_path), wal(tmp_path).stat().st_size
        monkeypatch.setattr(module, "SEAL_ROWS", 1)
        monkeypatch.setattr(
            os, "fsync", lambda fd: (calls.append((os.fstat(fd).st_ino, os.fstat(fd).st_size)), sync(fd))
        )
        monkeypatch.setattr(LocalArchive, "write", lambda *args: (calls.append("part"), write(*args)))
        expected = (path.stat().st_ino, size)
        end(ledger)
        assert calls[:2] == [expected, "part"]


# --- merging


def many_parts(run, monkeypatch, parts=4):
    """A ledger with so many parts of metrics, one of outcomes, and a row not sealed yet."""
    monkeypatch.setattr(module, "SEAL_ROWS", 3)
    ledger = Ledger(run)
    note(ledger, 0, "outcomes")
    for number in range(3 * parts):
        note(ledger, number)
        ledger.commit()
    return ledger


def test_the_end_merges_the_parts_of_each_table(tmp_path, monkeypatch):
    """Into one, with the rows as they were written; a table that has one part keeps it."""
    ledger = many_parts(tmp_path, monkeypatch)
    reader = LedgerReader(tmp_path)
    one = (tmp_path / "ledger" / "outcomes" / "000001.parquet").stat()
    before, digest = reader.tables(), reader.digest()
    ledger.close(finished=True)
    assert reader.finished
    assert before == reader.tables()
    assert digest == reader.digest()
    (merged,) = reader.files("metrics")
    assert [path.name for path in (tmp_path / "ledger" / "metrics").iterdir()] == [Path(merged).name]
    assert (tmp_path / "ledger" / "outcomes" / "000001.parquet").stat().st_mtime_ns == one.st_mtime_ns


def test_a_sweep_that_stops_keeps_its_parts(tmp_path, monkeypatch):
    """It may go on; whoever follows it reads no row again."""
    many_parts(tmp_path, monkeypatch).close(finished=False)
    assert len(LedgerReader(tmp_path).files("metrics")) == 5


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_row_groups_have_about_the_size_they_should(tmp_path, monkeypatch, rows):
    """Small parts share one."""
    monkeypatch.setattr(parts, "GROUP_ROWS", rows)
    many_parts(tmp_path, monkeypatch, parts=3).close(finished=True)
    (merged,) = LedgerReader(tmp_path).files("metrics")
    metadata = pq.read_metadata(merged)
    sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert sum(sizes) == 9
    assert max(sizes) <= rows
    assert LedgerReader(tmp_path).table("metrics")["member"].to_pylist() == list(range(9))


def test_a_damaged_part_is_not_merged(tmp_path, monkeypatch):
    """Nor hidden: the sweep ends well, and the reader names it."""
    ledger = many_parts(tmp_path, monkeypatch)
    part = tmp_path / "ledger" / "metrics" / "000002.parquet"
    part.write_bytes(b"")
    ledger.close(finished=True)
    assert LedgerReader(tmp_path).finished
    assert len(LedgerReader(tmp_path).files("metrics")) == 5
    with pytest.raises(LedgerError, match=re.escape(f"{part} is damaged")):
        LedgerReader(tmp_path).rows()


def test_sealing_after_a_while(tmp_path, monkeypatch):
    """Rows do not wait for `SEAL_ROWS` for ever; where there are none, there is no part."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with opened(tmp_path) as ledger:
        reader = LedgerReader(tmp_path)
        now[0] += 10 * module.SEAL_S
        ledger.commit()
        assert reader.files("metrics") == []
        note(ledger, 1)
        ledger.commit()
        assert len(reader.files("metrics")) == 1
        now[0] += module.SEAL_S - 1
        note(ledger, 2)
        ledger.commit()
        assert len(reader.files("metrics")) == 1
        now[0] += 1
        ledger.commit()
        assert len(reader.files("metrics")) == 2


# --- other people's tools


#: How each tool tells a column.
COLUMN = {
    "pyarrow": lambda found, name: found[name].to_pylist(),
    "pandas": lambda found, name: found[name].tolist(),
    "polars": lambda found, name: found[name].to_list(),
    "duckdb": lambda found, name: [value for (value,) in found.project(name).fetchall()],
}


@pytest.mark.parametrize("tool", COLUMN)
@pytest.mark.parametrize("state", ["running", "stopped", "finished"])
def test_sealed_parts_are_read_by_anything_that_reads_parquet(tmp_path, monkeypatch, tool, state):
    """With the one line that docs/ledger.md has for each, while the ledger is being written and afterwards."""
    pytest.importorskip(tool, reason=f"{tool} is not installed")
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    ledger = Ledger(tmp_path)
    for number in range(5):
        ledger.append("metrics", member=number, name="größer", value=math.nan if number else None)
        ledger.commit()
    if state == "running":
        expected = [0, 1, 2, 3]
        (tmp_path / "ledger" / "metrics" / ".000003.parquet.1.tmp").write_bytes(b"being written")
    else:
        ledger.close(finished=state == "finished")
        expected = [0, 1, 2, 3, 4]
    (line,) = re.findall(rf"^{tool}\..*$", DOCS.read_text(), re.MULTILINE)
    found = eval(line.replace("RUN", str(tmp_path)), {tool: importlib.import_module(tool)})
    assert COLUMN[tool](found, "member") == expected
    assert COLUMN[tool](found, "name") == ["größer"] * len(expected)
    ledger.close(finished=False)


def test_parts_have_the_types_of_the_schema(tmp_path):
    """For any program: times are UTC, text is text, whole numbers are whole."""
    with opened(tmp_path) as ledger:
        for table in schema.TABLES:
            ledger.append(table)
    for table, fields in schema.TABLES.items():
        assert pq.read_table(tmp_path / "ledger" / table).schema == fields


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
    "shrink": '{"keep":0.2,"noise":0.1,"seed":7}',
}


@pytest.mark.parametrize("column", schema.DIGEST)
def test_the_digest_depends_on_every_decision(tmp_path, column):
    """A change in any decision column of one segment shows; so does null for a value."""
    digests = [write_story(tmp_path / "a", SEGMENTS, OUTCOMES)]
    for name, value in (("b", CHANGES[column]), ("c", None)):
        if (column, value) in (("member", None), ("segment", None), ("shrink", None)):  # the last is null as it is
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


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch, call):
    """A commit that fails and is tried again is there once; what was recorded before is safe meanwhile."""
    with opened(tmp_path) as ledger:
        note(ledger, 1)
        ledger.sync()
        note(ledger, 2)
        monkeypatch.setattr(os, call, no_room)
        for _ in range(2):
            with pytest.raises(StorageError) as raised:
                ledger.sync()
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


def test_a_disk_that_has_no_room_for_a_while_is_waited_for(tmp_path, monkeypatch):
    """Every row is there once, and how long it took is on record."""
    attempts = []

    def recovers(*args):
        attempts.append(args)
        return no_room() if len(attempts) < 4 else write(*args)

    write = os.pwrite
    monkeypatch.setattr("pbt.record.ledger.AGAIN_S", 0.01)
    with opened(tmp_path, patience_s=60.0) as ledger:
        note(ledger, 1)
        ledger.commit()
        monkeypatch.setattr(os, "pwrite", recovers)
        note(ledger, 2)
        ledger.commit()
        note(ledger, 3)
        ledger.commit()
    rows = LedgerReader(tmp_path).rows()
    assert numbers(rows) == [1, 2, 3]
    assert [row["message"] for row in rows["incidents"]] == [
        "for 0 s the ledger could not be written (No space left on device); everybody waited, and nothing is lost"
    ]


def test_patience_with_a_disk_has_an_end(tmp_path, monkeypatch):
    """And nobody is patient a second time."""
    monkeypatch.setattr("pbt.record.ledger.AGAIN_S", 0.01)
    with opened(tmp_path, patience_s=0.2) as ledger:
        note(ledger, 1)
        monkeypatch.setattr(os, "pwrite", no_room)
        with pytest.raises(StorageError, match="No space left"):
            ledger.commit()
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited again"))
        with pytest.raises(StorageError, match="No space left"):
            ledger.commit()
        monkeypatch.undo()


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_half_a_commit_on_a_full_disk_does_no_harm(tmp_path, monkeypatch, kept):
    """Where the disk took only the beginning of a line, it is taken back, and trying again gives a whole one."""
    write = os.pwrite

    def write_some(descriptor, data, offset):
        if offset >= size + kept:
            no_room()
        return write(descriptor, data[: size + kept - offset], offset)

    with opened(tmp_path) as ledger:
        note(ledger, 1)
        ledger.commit()
        size = wal(tmp_path).stat().st_size
        note(ledger, 2)
        monkeypatch.setattr(os, "pwrite", write_some)
        for _ in range(2):
            with pytest.raises(StorageError):
                ledger.commit()
            assert wal(tmp_path).stat().st_size == size
        monkeypatch.undo()
        note(ledger, 3)
        ledger.commit()
        assert numbers(LedgerReader(tmp_path).rows()) == [1, 2, 3]


@pytest.mark.parametrize("call", ["open", "mkdir", "replace", "fsync"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_disk_that_is_full_while_closing_is_one_line(tmp_path, monkeypatch, call, finished):
    """Whatever fails, nothing is lost or doubled when there is room again."""
    ledger = Ledger(tmp_path)
    note(ledger, 1)
    ledger.commit()
    with monkeypatch.context() as patched:
        match call:
            case "open":
                patched.setattr(archive, "open", no_room, raising=False)
            case "mkdir":
                patched.setattr(Path, "mkdir", no_room)
            case _:
                patched.setattr(os, call, no_room)
        with pytest.raises(StorageError) as raised:
            ledger.close(finished=finished)
        assert "No space left on device" in one_line(raised)
    assert numbers(LedgerReader(tmp_path).rows()) == [1]
    ledger.close(finished=finished)
    assert numbers(LedgerReader(tmp_path).rows()) == [1]
    assert LedgerReader(tmp_path).finished == finished


def test_a_commit_does_not_fail_because_sealing_does(tmp_path, monkeypatch):
    """The rows are safe where they are. Sealing is tried again, not at every commit; closing says what is wrong."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    now, tries = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ledger, reader = Ledger(tmp_path), LedgerReader(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (tries.append(now[0]), no_room()))
        for number in range(6):
            note(ledger, number)
            ledger.commit()
            now[0] += module.RETRY_S / 2
        assert numbers(reader.rows()) == list(range(6))
        assert tries == [5.0, 15.0, 25.0]
        with pytest.raises(StorageError):
            ledger.close(finished=False)
    note(ledger, 6)
    ledger.commit()
    assert reader.files("metrics") == []
    now[0] += module.RETRY_S
    ledger.commit()
    assert len(reader.files("metrics")) == 1
    ledger.close(finished=False)
    assert numbers(reader.rows()) == list(range(7))


def test_a_seal_that_failed_is_made_up_for(tmp_path, monkeypatch):
    """Commits go on meanwhile, and each row is sealed once."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    with opened(tmp_path) as ledger:
        for number in range(6):
            note(ledger, number)
            with monkeypatch.context() as patched:
                if number in (1, 2, 4):
                    patched.setattr(os, "replace", no_room)
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
    for place in (lock, write_ahead, archive):
        with monkeypatch.context() as patched:
            patched.setattr(place, "open", no_room, raising=False)
            with pytest.raises(StorageError, match="No space left on device"):
                Ledger(tmp_path)
    Ledger(tmp_path).close(finished=False)


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
    assert one_line(raised) == (f"cannot write {path}: No space left on device. Free some space.")
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
    expected = {"segments": 5, "decisions": 6, "outcomes": 4, "metrics": 8, "checkpoints": 1}
    assert counts == dict.fromkeys(schema.TABLES, 0) | expected
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


def test_the_golden_ledger_of_version_2_stays_readable(tmp_path):
    """Merged parts, sealed ones, and a write-ahead tail with a torn end, as `make_ledger_v2.py` wrote them once."""
    run = Path(shutil.copytree(GOLDEN.with_name("ledger-v2"), tmp_path / "run"))
    reader = LedgerReader(run)
    assert not reader.finished
    assert reader.digest() == "6c06f6830848f904f37c292432a92beb91a8b70b292961eb11c3902e82cd711d"
    tables = reader.tables()
    assert {name: table.num_rows for name, table in tables.items()} == {
        "segments": 8,
        "decisions": 12,
        "orders": 4,
        "stacks": 2,
        "outcomes": 6,
        "evaluations": 1,
        "metrics": 12,
        "checkpoints": 3,
        "sessions": 2,
        "incidents": 3,
        "usage": 3,
        "nodes": 0,
    }
    rows = reader.rows()
    assert [row["order"] for row in rows["orders"]] == ["order:1", "order:2", "order:3", "order:7"]
    assert [row.get("data") for row in rows["decisions"] if row["kind"] == "extend"] == ['{"budget":{"generations":4}}']
    assert {row["message"] for row in rows["incidents"]} == {"größer"}
    times = [row["at"] for _, row in reader.history()]
    assert times == sorted(set(times))
    assert salvage(run).damaged == ()
    with opened(run, existing=True) as ledger:
        note(ledger, 7)
    assert numbers(reader.rows())[-1] == 7


def test_a_ledger_of_version_2_can_be_written_on(tmp_path):
    """From then on it is of the present version; its parts are merged with new ones, and its digest stays."""
    run = Path(shutil.copytree(GOLDEN.with_name("ledger-v2"), tmp_path / "run"))
    before, rows = LedgerReader(run).digest(), LedgerReader(run).rows()
    assert LedgerReader(run).version == 2
    ledger = Ledger(run, existing=True)
    note(ledger, 7)
    ledger.close(finished=True)
    reader = LedgerReader(run)
    assert reader.version == schema.VERSION
    assert reader.digest() == before
    assert reader.table("segments")["shrink"].null_count == 8
    assert [row["hparams"] for row in reader.rows()["segments"]] == [row["hparams"] for row in rows["segments"]]


def test_the_golden_ledger_of_version_3_stays_readable(tmp_path):
    """With shrunk weights in a merged part and in the write-ahead tail, as `make_ledger_v3.py` wrote them once."""
    run = Path(shutil.copytree(GOLDEN.with_name("ledger-v3"), tmp_path / "run"))
    reader = LedgerReader(run)
    assert reader.version == 3
    assert reader.digest() == "5ea63dc4310d6a36ef0eee8f93355d8f469073e1ead3a3985079002c415e196d"
    how = '{"keep":0.2,"noise":0.1,"seed":7}'
    assert [row.get("shrink") for row in reader.rows()["segments"]] == [None] * 4 + [how] * 2
    assert [row["data"] for row in reader.rows()["decisions"] if row["kind"] == "shrink"] == [how] * 2
    assert reader.table("nodes").num_rows == 1
    assert salvage(run).damaged == ()
    with opened(run, existing=True) as ledger:
        note(ledger, 7)
    assert numbers(reader.rows())[-1] == 7


def test_what_version_1_did_not_have_is_empty_or_null(tmp_path):
    """Whole tables, and columns of old parts."""
    run = Path(shutil.copytree(GOLDEN, tmp_path / "run"))
    reader = LedgerReader(run)
    for name, table in reader.tables().items():
        assert table.schema == schema.TABLES[name]
    assert reader.table("sessions").num_rows == 0
    assert reader.table("outcomes")["flops"].to_pylist() == [None] * 4
    assert [row.get("status") for row in reader.rows(["checkpoints"])["checkpoints"]] == [None]
    assert reader.table("checkpoints")["status"].to_pylist() == [None]


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
