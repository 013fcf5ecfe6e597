"""The write-ahead file: written at once, synced soon, by one thread for many commits; and what a failing disk costs."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.record import wal as module
from pbt.record.wal import SYNC_S, WriteAhead, frame, read_wal, salvage_wal
from tests.examples import examples

PATIENCE_S = 30.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "wal-000001.jsonl"


@pytest.fixture
def opened(path):
    """Opens the file for writing, and closes it at the end."""
    files = []

    def open_it(size=0):
        files.append(WriteAhead(path, size))
        return files[-1]

    yield open_it
    for file in files:
        file.close()
    for thread in syncing_threads():
        thread.join(PATIENCE_S)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told; waiting goes by the real one."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


@pytest.fixture
def alone(monkeypatch):
    """Nobody syncs in the background."""
    monkeypatch.setattr(WriteAhead, "_keep_synced", lambda self: None)


@pytest.fixture
def syncs(monkeypatch):
    """Sizes of the file whenever the disk has it."""
    sizes, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (sync(descriptor), sizes.append(os.fstat(descriptor).st_size)))
    return sizes


def no_room(*_):
    raise OSError(28, "No space left on device")


def syncing_threads():
    return [thread for thread in threading.enumerate() if thread.name == "ledger-sync"]


# --- the thread


def test_one_sync_is_for_many_lines(path, opened, clock, monkeypatch):
    """Lines that come while the disk works wait for its next turn, all together; the writer waits for none."""
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    sizes = []

    def sync(descriptor):
        sizes.append(os.fstat(descriptor).st_size)
        begun.set()
        assert go_on.wait(PATIENCE_S)
        if len(sizes) == 2:
            done.set()

    monkeypatch.setattr(os, "fsync", sync)
    wal = opened()
    wal.append(b"x" * 10)
    assert begun.wait(PATIENCE_S)
    for _ in range(50):
        wal.append(b"x" * 10)
    assert path.stat().st_size == 510
    go_on.set()
    assert done.wait(PATIENCE_S)
    assert sizes == [10, 510]


def test_the_thread_ends_when_there_is_nothing_to_do(path, opened, monkeypatch, syncs):
    """And another one begins with the next line."""
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    wal = opened()
    assert syncing_threads() == []
    for size in (5, 10):
        wal.append(b"12345")
        for thread in syncing_threads():
            thread.join(PATIENCE_S)
        assert (syncs[-1], syncing_threads()) == (size, [])


def test_closing_ends_the_thread(path, opened, clock):
    """At once, also while it waits."""
    wal = opened()
    wal.append(b"1")
    (thread,) = syncing_threads()
    wal.close()
    wal.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_without_a_thread_the_writer_syncs(path, opened, monkeypatch, syncs):
    """Where the system has no more threads."""

    def no_threads(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_threads)
    wal = opened()
    wal.append(b"12")
    wal.append(b"34")
    assert syncs == [2, 4]


def test_a_slow_disk_makes_the_writer_wait(path, opened, clock, alone, syncs):
    """Before it puts more than `SYNC_S` of lines at risk; 100 ms is what is promised."""
    assert SYNC_S == 0.1
    wal = opened()
    wal.append(b"1")
    clock.now += 0.09
    wal.append(b"2")
    assert syncs == []
    clock.now += 0.01
    wal.append(b"3")
    assert syncs == [2]
    assert path.read_bytes() == b"123"
    clock.now += 0.09
    wal.append(b"4")
    assert syncs == [2]


def test_what_is_synced_is_not_synced_again(path, opened, alone, syncs):
    """Nothing new, nothing to do."""
    wal = opened()
    wal.sync()
    wal.append(b"1")
    for _ in range(3):
        wal.sync()
    assert syncs == [1]


# --- disks that fail


def test_a_sync_that_failed_in_the_background_fails_the_next_line(path, opened, monkeypatch):
    """While the disk does not recover; when it does, everything is there once."""
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    wal = opened()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        wal.append(b"1")
        for thread in syncing_threads():
            thread.join(PATIENCE_S)
        for line in (b"2", b"3"):
            with pytest.raises(OSError, match="No space left"):
                wal.append(line)
        assert path.read_bytes() == b"1"
    wal.append(b"")
    assert path.read_bytes() == b"123"


class Disk:
    """What is on the disk, as opposed to in the system's memory, which forgets what it could not sync."""

    def __init__(self, patched):
        self.kept, self.waiting, self.full, self.broken = b"", [], 0, 0
        self._write, self._sync = os.pwrite, os.fsync
        patched.setattr(os, "pwrite", self.write)
        patched.setattr(os, "fsync", self.sync)

    def write(self, descriptor, data, offset):
        if self.full:
            self.full -= 1
            data = data[: len(data) // 2]
            if not data or self.full:
                no_room()
        self.waiting.append((offset, bytes(data)))
        return self._write(descriptor, data, offset)

    def sync(self, descriptor):
        if self.broken:
            self.broken -= 1
            self.waiting = []
            no_room()
        for offset, data in self.waiting:
            self.kept = self.kept[:offset].ljust(offset, b"?") + data + self.kept[offset + len(data) :]
        self.waiting = []


@examples(200)
@given(st.lists(st.sampled_from(["append", "sync", "fill", "break", "late"]), max_size=25), st.integers(1, 3))
def test_whatever_fails_what_is_synced_is_on_disk(tmp_path_factory, steps, times):
    """Every line once and in order, although the system forgets what it could not sync. Readers never see less."""
    path = tmp_path_factory.mktemp("wal") / "wal"
    with pytest.MonkeyPatch.context() as patched:
        now = [0.0]
        patched.setattr(module.time, "monotonic", lambda: now[0])
        patched.setattr(WriteAhead, "_keep_synced", lambda self: None)
        disk = Disk(patched)
        wal, told, seen = WriteAhead(path), b"", b""
        for number, step in enumerate(steps):
            try:
                match step:
                    case "append":
                        line = frame([("metrics", {"member": number})])
                        told += line
                        wal.append(line)
                    case "sync":
                        wal.append(b"")
                        wal.sync()
                        assert told == disk.kept
                    case "fill":
                        disk.full = times
                    case "break":
                        disk.broken = times
                    case "late":
                        now[0] += 1.0
            except OSError:
                pass
            there = path.read_bytes()
            assert told.startswith(there)
            assert there.startswith(seen)
            seen = there
        disk.full = disk.broken = 0
        wal.append(b"")
        wal.sync()
        assert told == disk.kept == path.read_bytes()
        wal.close()


# --- taking up a file again


@pytest.mark.parametrize("tail", [b"", b"deadbeef [", b"\x00" * 9, b"x" * 1000])
def test_what_stands_behind_the_good_part_is_dropped(path, opened, tail):
    """And the next line follows the last good one."""
    first, second = (frame([("metrics", {"member": number})]) for number in range(2))
    path.write_bytes(first + tail)
    _, size = read_wal(path)
    wal = opened(size)
    wal.append(second)
    wal.close()
    assert path.read_bytes() == first + second
    assert [row["member"] for _, row in read_wal(path)[0]] == [0, 1]


def test_good_lines_around_a_damaged_one_are_salvaged(path):
    """And it is told that one is damaged."""
    lines = [frame([("metrics", {"member": number})]) for number in range(3)]
    path.write_bytes(b"".join(lines))
    rows, whole = salvage_wal(path)
    assert ([row["member"] for _, row in rows], whole) == ([0, 1, 2], True)
    lines[1] = lines[1].replace(b"1}", b"7}")
    path.write_bytes(b"".join(lines) + b"torn")
    rows, whole = salvage_wal(path)
    assert ([row["member"] for _, row in rows], whole) == ([0, 2], False)
