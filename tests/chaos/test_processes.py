"""A sweep whose process is killed with SIGKILL, and that is resumed in another, ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import signal
import time
from itertools import count

import pytest

from pbt.record.ledger import is_written
from pbt.record.result import load
from pbt.record.validity import violations
from pbt.runtime.checkpoints import CheckpointStore
from tests.chaos.child import live, make_sweep, only_run
from tests.chaos.faults import Kill


@pytest.fixture(scope="module")
def processes():
    """Where processes come from: a server that has everything imported, and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.child"])
    return context


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What must come of it."""
    return _facts(make_sweep(tmp_path_factory.mktemp("undisturbed")).run(progress=False))


def _facts(result):
    scores = sorted((row["member"], row["segment"], row["status"], row["score"]) for row in result.rows["outcomes"])
    return result.digest(), result.finished, result.best.member, result.best.metrics, scores


def _assert_unharmed(run, expected):
    result, store = load(run), CheckpointStore(run / "checkpoints")
    assert expected == _facts(result)
    assert [] == violations(result.rows, lambda digest: digest in store.digests())


def _live(processes, storage, kill=None, *, again):
    """The exit code of a life."""
    process = processes.Process(target=live, args=(storage, kill), kwargs={"again": again})
    process.start()
    process.join(timeout=300)
    return process.exitcode


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([Kill("write wal", 4, "torn")], marks=pytest.mark.full),
        pytest.param([Kill("write wal", 17, "after"), Kill("write wal", 3, "torn")], marks=pytest.mark.full),
        [Kill("replace tensors", 9, "after")],
        pytest.param([Kill("replace part", 4, "before")], marks=pytest.mark.full),
        pytest.param([Kill("replace manifest", 3, "after")], marks=pytest.mark.full),
    ],
    ids=lambda kills: ", ".join(map(str, kills)),
)
def test_killed_at_a_chosen_moment(tmp_path, processes, expected, kills):
    """Half a line is left behind, or a checkpoint without its facts, or a ledger without a seal."""
    for number, kill in enumerate(kills):
        assert -signal.SIGKILL == _live(processes, tmp_path, kill, again=number > 0)
    run = only_run(tmp_path)
    assert not is_written(run)
    if not load(run).finished:
        assert 0 == _live(processes, tmp_path, again=True)
    _assert_unharmed(run, expected)


@pytest.mark.full
def test_killed_from_outside(tmp_path, processes, expected):
    """At any moment after its first decisions are on record."""
    process = processes.Process(target=live, args=(tmp_path, None), kwargs={"again": False})
    process.start()
    for _ in count():
        if any(wal.stat().st_size > 4000 for wal in tmp_path.glob("*/ledger/wal-*.jsonl")) or not process.is_alive():
            break
        time.sleep(0.001)
    process.kill()
    process.join()
    run = only_run(tmp_path)
    if not load(run).finished:
        assert 0 == _live(processes, tmp_path, again=True)
    _assert_unharmed(run, expected)
