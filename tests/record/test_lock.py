"""One writer at a time, known by its process; whoever looks disturbs nobody."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pbt.errors import LedgerError, StorageError
from pbt.record import lock as module
from pbt.record.ledger import Ledger, LedgerReader, is_written, writer_pid
from pbt.record.lock import WriterLock

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import os, sys
from pathlib import Path
from pbt.record.ledger import Ledger, is_written
run = Path(sys.argv[1])
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "ledger").mkdir()
    return tmp_path


@pytest.fixture
def elsewhere(tmp_path):
    """Starts another process that does something with a ledger in `tmp_path` and says so."""
    children = []

    def start(script):
        command = [sys.executable, "-c", PREAMBLE + script, str(tmp_path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, cwd=ROOT)
        children.append(child)
        child.said = child.stdout.readline().decode().strip()
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    """With its process, and what to do; and does no harm."""
    ledger = Ledger(tmp_path)
    for _ in range(2):
        with pytest.raises(LedgerError) as raised:
            Ledger(tmp_path, existing=True)
        assert str(raised.value) == (
            f"{tmp_path} is being written by process {os.getpid()}. Stop it first with `pbt stop {tmp_path}`."
        )
    ledger.append("metrics", member=1)
    ledger.close(finished=False)
    assert LedgerReader(tmp_path).table("metrics").num_rows == 1


@pytest.mark.parametrize("end", [lambda ledger: ledger.close(finished=True), Ledger.abandon])
def test_the_lock_ends_with_the_ledger(tmp_path, end):
    """Closed or let go."""
    ledger = Ledger(tmp_path)
    assert (is_written(tmp_path), writer_pid(tmp_path)) == (True, os.getpid())
    end(ledger)
    assert (is_written(tmp_path), writer_pid(tmp_path)) == (False, None)
    Ledger(tmp_path, existing=True).close(finished=False)


def test_a_ledger_that_could_not_be_opened_holds_no_lock(tmp_path):
    """Whatever went wrong."""
    ledger = Ledger(tmp_path)
    ledger.append("metrics", member=1)
    ledger.close(finished=False)
    (tmp_path / "ledger" / "metrics" / "000001.parquet").write_bytes(b"damaged")
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger(tmp_path, existing=True)
    assert not is_written(tmp_path)


def test_the_lock_ends_with_the_process(tmp_path, elsewhere):
    """SIGKILL included; then the next writer can take the ledger up."""
    child = elsewhere("ledger = Ledger(run); print(os.getpid(), flush=True); sys.stdin.read()")
    assert (is_written(tmp_path), writer_pid(tmp_path)) == (True, int(child.said))
    with pytest.raises(LedgerError, match=rf"is being written by process {child.said}\."):
        Ledger(tmp_path, existing=True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not is_written(tmp_path)
    Ledger(tmp_path, existing=True).close(finished=False)


def test_a_forked_child_does_not_hold_the_lock(tmp_path, elsewhere):
    """A worker that outlives the writer is no writer."""
    script = """
ledger = Ledger(run)
if os.fork():
    os._exit(0)
print(os.getpid(), is_written(run), flush=True)
sys.stdin.read()
"""
    child = elsewhere(script)
    child.wait()
    assert child.said.split()[0] != str(child.pid)
    assert not is_written(tmp_path)
    Ledger(tmp_path, existing=True).close(finished=False)


def test_a_fork_does_not_take_the_lock_away(tmp_path, elsewhere):
    """What the child lets go of is its own copy."""
    child = elsewhere(
        "ledger = Ledger(run)\nif not os.fork(): os._exit(0)\nos.wait(); print(flush=True); sys.stdin.read()"
    )
    assert writer_pid(tmp_path) == child.pid


@pytest.mark.parametrize("there", [False, True])
def test_no_ledger_is_not_written(tmp_path, there):
    """And looking leaves nothing behind."""
    if there:
        (tmp_path / "ledger").mkdir()
    before = list(tmp_path.rglob("*"))
    assert (is_written(tmp_path), writer_pid(tmp_path)) == (False, None)
    assert before == list(tmp_path.rglob("*"))
    assert not is_written(tmp_path / "missing" / "deeper")


def test_looking_does_not_keep_a_writer_out(run, monkeypatch):
    """The moment for which a look shares the lock is waited for."""
    with open(run / "ledger" / "lock", "wb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        tries, attempt = [], module._try

        def until_they_looked(file, kind):
            tries.append(kind)
            if len(tries) == 5:
                looking.close()
            return attempt(file, kind)

        monkeypatch.setattr(module, "_try", until_they_looked)
        lock = WriterLock(run)
        lock.release()
        assert len(tries) == 5


def test_looking_for_ever_keeps_a_writer_out_in_the_end(run, monkeypatch):
    """Rather than letting it hang."""
    monkeypatch.setattr(module, "_TRIES", 3)
    with open(run / "ledger" / "lock", "wb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        with pytest.raises(LedgerError, match="is being written by another process"):
            WriterLock(run)


@pytest.mark.parametrize(
    ("said", "pid", "words"),
    [
        ("", 0, "another process"),
        ("garbage", 0, "process garbage"),
        ("\x00\xff", 0, "process"),
        (f"123 {socket.gethostname()}\n", 123, r"process 123\."),
        ("123 far-away\n", 123, r"process 123 on far-away\."),
        ("123", 123, r"process 123\."),
    ],
)
def test_what_stands_in_the_lock_is_only_words(run, said, pid, words):
    """Damaged or not, it is the lock that counts."""
    lock = WriterLock(run)
    (run / "ledger" / "lock").write_text(said)
    assert writer_pid(run) == pid
    with pytest.raises(LedgerError, match=f"is being written by {words}"):
        WriterLock(run)
    lock.release()
    assert not is_written(run)


def test_a_filesystem_without_locks_is_named(run, monkeypatch):
    """Where nobody can say who writes, nobody may."""

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (run / "ledger" / "lock").touch()
    for look in (WriterLock, is_written):
        with pytest.raises(StorageError, match="Function not implemented"):
            look(run)
