"""`pbt watch`: a run followed from another process, to whatever end it comes."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from pbt.cli import main
from pbt.errors import RunNotFound, StorageError
from pbt.record.lock import WriterLock
from pbt.record.runs import open_run, remember_end
from pbt.report.follow import watch
from tests import ledgers


class Clock:
    """A clock that only waiting moves; at each wait, something may happen."""

    def __init__(self, *events: Iterator[Any]) -> None:
        self.now = ledgers.CREATED + 1000.0
        self._events = itertools.chain(*events)

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        next(self._events, None)


def followed(run: Path, clock: Clock | None = None, *, as_json: bool = False) -> tuple[str, list[str]]:
    """How it ended, and the lines that were printed."""
    clock, console = clock or Clock(), Console(file=io.StringIO(), width=60)
    status = watch(open_run(run), console, as_json=as_json, clock=clock, pause=clock.pause)
    return status, console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_finished_run_is_told_to_its_end_at_once(tmp_path: Path) -> None:
    """Nobody waits for anything."""
    clock = Clock()
    status, lines = followed(ledgers.tell(tmp_path / "run"), clock)
    assert "finished" == status
    assert lines[-1].startswith("run finished after 2:01: best is member 1")
    assert ledgers.CREATED + 1000.0 == clock.now


def test_a_running_run_is_followed_as_it_goes(tmp_path: Path) -> None:
    """Each line once, from the moment it is known, until the sweep has finished."""
    run = tmp_path / "run"
    story = ledgers.story(run)
    next(story)
    status, lines = followed(run, Clock(story))
    assert "finished" == status
    assert 7 == len(lines)
    assert [f"generation {number}/4" for number in (1, 2, 3, 4)] == [
        line.partition("  ")[0] for line in lines if line.startswith("generation")
    ]


def test_a_run_that_was_killed_is_said_to_be_unfinished(tmp_path: Path) -> None:
    """At once, with the way to go on: nothing will come by waiting."""
    clock = Clock()
    status, lines = followed(ledgers.tell(tmp_path / "run", commits=5), clock)
    assert ("unfinished", ledgers.CREATED + 1000.0) == (status, clock.now)
    assert lines[-1].startswith("Nobody trains it: its process was killed, or its machine went down. `pbt resume run`")


@pytest.mark.parametrize(
    ("status", "says"), [("stopped", "It was stopped."), ("failed", "It failed: CUDA error: no device.")]
)
def test_a_run_that_ended_otherwise_says_how(tmp_path: Path, status: str, says: str) -> None:
    """In the words its driver left."""
    run = ledgers.tell(tmp_path / "run", commits=5)
    remember_end(open_run(run), status, "CUDA error: no device.")
    ended, lines = followed(run)
    assert status == ended
    assert f"{says} `pbt resume run` goes on." == lines[-1]


def test_a_brain_that_is_started_anew_is_waited_for(tmp_path: Path) -> None:
    """For a while; a run that nobody takes up again by then has ended."""
    run = ledgers.tell(tmp_path / "run", commits=5)

    def fate() -> Iterator[None]:
        lock = WriterLock(run)
        yield
        lock.release()
        for _ in range(20):  # ten seconds
            yield
        lock = WriterLock(run)
        yield
        lock.release()

    events = fate()
    next(events)
    clock = Clock(events)
    status, _ = followed(run, clock)
    assert "unfinished" == status
    assert 40 <= clock.now - (ledgers.CREATED + 1000.0) <= 45


def test_leaving_leaves_the_sweep_alone(tmp_path: Path) -> None:
    """Ctrl-C says that it goes on, and does not say that it has ended."""
    run = ledgers.tell(tmp_path / "run", commits=5)
    lock, console = WriterLock(run), Console(file=io.StringIO(), width=60)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="no longer watching run, which goes on"):
        watch(open_run(run), console, pause=interrupt)
    lock.release()
    assert "unfinished" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_json_has_a_line_for_every_event(tmp_path: Path) -> None:
    """In the order things happened; a score that is no number is null."""
    _, lines = followed(ledgers.tell(tmp_path / "run"), as_json=True)
    events = [json.loads(line) for line in lines]
    kinds = ["run", "generation", "failure", "generation", "generation", "generation", "end"]
    assert kinds == [event["event"] for event in events]
    assert sorted(event["at"] for event in events) == [event["at"] for event in events]
    assert (6, 4, 100, "run") == tuple(events[0][name] for name in ("members", "generations", "steps", "run"))
    assert (0, 2.0, 0, 2) == tuple(events[1][name] for name in ("generation", "best", "best_member", "num_exploits"))
    assert (3, 1, ledgers.FAILURE) == tuple(events[2][name] for name in ("member", "segment", "reason"))
    assert ("finished", 1, 1.3, 1.0) == tuple(
        events[-1][name] for name in ("status", "best_member", "best_score", "share")
    )


def test_json_tells_incidents(tmp_path: Path) -> None:
    """With the stack they concern."""
    story = ledgers.story(tmp_path / "run")
    next(story)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pbt.report.follow.Tail.poll", lambda self: [("incidents", INCIDENT)])
        _, lines = followed(tmp_path / "run", Clock(story), as_json=True)
    told = [json.loads(line) for line in lines if "incident" in line]
    assert {"event": "incident"} | INCIDENT | {"member": None, "segment": None} == told[0]


INCIDENT = {"kind": "host_lost", "stack": 2, "message": "its process was killed", "at": ledgers.CREATED + 5.0}


def test_a_run_that_has_just_begun_is_waited_for(tmp_path: Path) -> None:
    """Its ledger comes a moment after its folder."""
    run = ledgers.run_json(tmp_path / "run", members=6, generations=4, steps=100)
    clock = Clock(iter(lambda: ledgers.tell(run), None))
    clock.now = ledgers.CREATED
    assert "finished" == followed(run, clock)[0]


def test_a_run_that_never_began_is_one_line(tmp_path: Path) -> None:
    """After a while."""
    run = ledgers.run_json(tmp_path / "run", members=6, generations=4, steps=100)
    with pytest.raises(RunNotFound, match="nothing is recorded yet"):
        followed(run)


@pytest.mark.parametrize(
    ("commits", "end", "code"),
    [(None, None, 0), (5, None, 1), (5, "stopped", 130), (5, "failed", 1)],
    ids=["finished", "killed", "stopped", "failed"],
)
def test_the_exit_code_is_that_of_the_run(tmp_path: Path, commits: int | None, end: str | None, code: int) -> None:
    """As `pbt run` would have left."""
    run = ledgers.tell(tmp_path / "runs" / "made-up-1", commits=commits)
    if end:
        remember_end(open_run(run), end, "why")
    outcome = CliRunner().invoke(main, ["watch", "latest", "--storage", str(tmp_path / "runs")])
    assert code == outcome.exit_code, outcome.output
    assert "made-up-1" in outcome.output


def test_a_report_is_written_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run's folder, if nobody says where."""
    write = lambda run, file: Path(file).write_text("x") and Path(file)  # noqa: E731
    monkeypatch.setattr("pbt.report.report_page.write_report", write)
    run = ledgers.tell(tmp_path / "runs" / "made-up-1")
    storage = ["--storage", str(tmp_path / "runs")]
    for more, file in ([], run / "report.html"), (["-o", str(tmp_path / "mine.html")], tmp_path / "mine.html"):
        outcome = CliRunner().invoke(main, ["report", "latest", *storage, *more])
        assert 0 == outcome.exit_code, outcome.output
        assert file.exists()
        assert str(file) in outcome.output


def test_a_report_is_not_written_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Which is not made; the mend is told."""
    ledgers.tell(tmp_path / "runs" / "made-up-1")
    file = tmp_path / "new" / "mine.html"
    outcome = CliRunner().invoke(main, ["report", "latest", "--storage", str(tmp_path / "runs"), "-o", str(file)])
    assert 2 == outcome.exit_code
    there_is_none = f"there is no folder {file.parent}. Make it, or name another file: -o."
    assert f"pbt: cannot write {file}: {there_is_none}\n" == outcome.stderr
    assert not file.parent.exists()


def test_a_report_that_may_not_be_written_says_how_to_name_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where to keep new runs."""

    def refuse(run: Path, file: Path) -> None:
        raise StorageError("no") from OSError(30, "Read-only file system")

    monkeypatch.setattr("pbt.report.report_page.write_report", refuse)
    run = ledgers.tell(tmp_path / "made-up-1")
    outcome = CliRunner().invoke(main, ["report", str(run)])
    assert (2, f"pbt: cannot write {run / 'report.html'}: Read-only file system. Name another file: -o.\n") == (
        outcome.exit_code,
        outcome.stderr,
    )
