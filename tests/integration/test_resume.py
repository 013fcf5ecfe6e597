"""A sweep that was stopped, killed or extended goes on from its ledger as if nothing had happened."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pbt
from pbt import PBT, Budget, Checkpoints, Fixed, Hosts, Result, Sweep, control, launch
from pbt.errors import LedgerError, RunNotFound, SpecError
from pbt.record.ledger import is_written
from pbt.record.runs import Run, rewrite_run
from searchspaces import Choice, Float, Int
from tests.integration.test_sweep import SPACE
from trainables import Quadratic


def sweep(storage: Path, kind: str = "local", *, generations: int = 6, members: int = 7, **changes: Any) -> Sweep:
    """Seven members of the paper's toy on two stacks: exploits cross stacks."""
    fields = {"strategy": PBT(quantile=0.3), "space": SPACE, "checkpoints": Checkpoints(every_steps=30)} | changes
    return Sweep(
        name="toy",
        trainable=Quadratic(),
        objective="Q",
        budget=Budget(members=members, generations=generations, steps=10),
        hosts=Hosts(kind=kind, stacks=2),  # type: ignore[arg-type]
        storage=storage,
        tracking=False,
        **fields,
    )


def only_run(storage: Path) -> Path:
    """The folder of the one run there is."""
    (run,) = storage.glob("toy-*")
    return run


@contextmanager
def meanwhile(storage: Path, generation: int, act: Callable[[Path], None]) -> Iterator[None]:
    """In another thread, do something to the run once it has come to a generation."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for run in storage.glob("toy-*"):
                if (run / "ledger" / "manifest.json").exists():
                    rows = pbt.load(run).rows["segments"]
                    if any(row["generation"] >= generation for row in rows):
                        act(run)
                        return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- stop and resume


def test_stopped_and_resumed_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """`pbt.stop` from elsewhere saves everybody; the resumed run has the digest of one that was left alone."""
    alone = sweep(tmp_path / "alone", generations=150).run(progress=False)
    with (
        meanwhile(tmp_path / "stopped", 20, lambda run: pbt.stop(run, wait=False)),
        pytest.raises(KeyboardInterrupt, match="pbt resume"),
    ):
        sweep(tmp_path / "stopped", generations=150).run(progress=False)
    run = only_run(tmp_path / "stopped")
    stopped = pbt.load(run)
    assert (stopped.status, is_written(run)) == ("stopped", False)
    last = {segment.key for member in range(7) for segment in [stopped.lineage.last(member)]}
    saved = {(row["member"], row["segment"]) for row in stopped.rows["checkpoints"] if row["status"] == "saved"}
    assert {(key.member, key.index) for key in last} <= saved
    resumed = pbt.resume(run, progress=False)
    assert (resumed.status, resumed.digest()) == ("finished", alone.digest())
    assert [row["reason"] for row in resumed.rows["sessions"]] == ["start", "resume"]
    (recovered,) = resumed.rows["incidents"]
    # Every member's state; and a donor's before its last segment, where a receiver in the other stack had yet to begin.
    assert re.fullmatch(r"[789] states loaded from checkpoints", recovered["message"])


def test_a_finished_run_has_nothing_to_resume(tmp_path: Path) -> None:
    """And says how to go beyond its end."""
    result = sweep(tmp_path).run(progress=False)
    with pytest.raises(LedgerError, match=r"has finished. `pbt extend .* --generations N` goes on"):
        pbt.resume(result.path)


def test_a_run_that_died_before_its_ledger_is_begun(tmp_path: Path) -> None:
    """There is only `run.json`: reading says so, stopping and extending too, and resuming begins it."""
    alone = sweep(tmp_path / "alone").run(progress=False)
    run = tmp_path / "died" / alone.run.id
    run.mkdir(parents=True)
    shutil.copy(alone.path / "run.json", run)
    for ask in (pbt.load, lambda path: pbt.extend(path, generations=9)):
        with pytest.raises(RunNotFound, match=r"nothing is recorded yet. `pbt resume .*` begins it"):
            ask(run)
    with pytest.raises(LedgerError, match=r"is not running. `pbt resume .*` goes on with it"):
        pbt.stop(run)
    begun = pbt.resume(run, progress=False)
    assert (begun.status, begun.digest()) == ("finished", alone.digest())
    assert [row["reason"] for row in begun.rows["sessions"]] == ["start"]


def test_a_run_whose_ledger_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    """Its checkpoints would go; what is missing is named, and everything stays."""
    result = sweep(tmp_path).run(progress=False)
    shutil.rmtree(result.path / "ledger")
    before = sorted(result.path.rglob("*"))
    for ask in (pbt.load, lambda path: pbt.extend(path, generations=9)):
        with pytest.raises(RunNotFound, match=r"ledger is missing, or has no manifest. Restore it"):
            ask(result.path)
    with pytest.raises(LedgerError, match=r"ledger is missing though it has checkpoints. Restore it"):
        pbt.resume(result.path)
    assert sorted(result.path.rglob("*")) == before


def test_a_run_that_nobody_trains_cannot_be_stopped(tmp_path: Path) -> None:
    """It names the way to go on, or that there is nothing left."""
    result = sweep(tmp_path).run(progress=False)
    with pytest.raises(LedgerError, match="has finished"):
        pbt.stop(result.path)


@pytest.mark.full
def test_a_run_has_one_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever resumes a run that is being trained is told to stop it first, after a moment, and disturbs nothing."""
    monkeypatch.setattr(control, "_PATIENCE_S", 0.3)
    refusals: list[str] = []

    def resume(run: Path) -> None:
        with pytest.raises(LedgerError) as caught:
            pbt.resume(run, progress=False)
        refusals.append(str(caught.value))

    with meanwhile(tmp_path, 3, resume):
        result = sweep(tmp_path, generations=200).run(progress=False)
    assert result.finished
    assert len(refusals) == 1
    assert "is running. Stop it first with `pbt stop" in refusals[0]


def test_data_that_changed_are_refused(tmp_path: Path) -> None:
    """A resumed run would not be the same run: the data are named, old and new."""
    text = tmp_path / "text.txt"
    text.write_text("a population of models. " * 2000)
    described = {
        "trainable": pbt.Component(
            name="language",
            options={"width": 8, "depth": 1, "heads": 1, "context": 8, "batch": 2, "data": str(text)},
        ),
        "space": {"lr": Float(1e-3, 1e-2, log=True)},
        "objective": "bits_per_byte",
        "budget": Budget(members=2, generations=2, steps=1, tokens=32),
    }
    options: dict[str, Any] = {"hosts": Hosts(kind="local", stacks=1), "storage": tmp_path / "runs", "tracking": False}
    result = Sweep(name="toy", **described, **options).run(progress=False)
    text.write_text("another population of models. " * 2000)
    with pytest.raises(SpecError, match="but the run was begun with"):
        pbt.extend(result.path, tokens=64, progress=False)


# --- kill and resume

CHILD = """
import os, sys, threading, time
from pathlib import Path
import pbt
from tests.integration.test_resume import sweep

if __name__ == "__main__":
    sweep(Path(sys.argv[1]), generations=100_000).run(progress=False)
"""


def child(storage: Path) -> subprocess.Popen[str]:
    """A driver in another process, in the midst of a long sweep."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(storage)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = list(storage.glob("toy-*/ledger/manifest.json"))
        if runs and len(pbt.load(only_run(storage)).rows["outcomes"]) > 70:
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the child trained nothing: {process.communicate()[0]}")


@pytest.mark.full
def test_one_interrupt_saves_and_stops(tmp_path: Path) -> None:
    """As Ctrl-C does: the segments under way end, everybody is saved, and the last line says how to go on."""
    process = child(tmp_path)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=180)
    assert "stopped; every member is saved. Go on with `pbt resume" in printed
    result = pbt.load(only_run(tmp_path))
    assert result.status == "stopped"
    assert {row["member"] for row in result.rows["checkpoints"]} == set(range(7))


def test_sigterm_twice_in_a_row_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` sends it to its child, and to the whole group at once; later it is the second, which stops at once."""
    told: list[str] = []
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with launch._stoppable(Run(tmp_path, {}), told.append):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert 1 == len(told)
        now[0] += 2.0
        with pytest.raises(KeyboardInterrupt, match="stopped at once"):
            signal.raise_signal(signal.SIGTERM)


def test_ctrl_c_twice_in_a_row_stops_at_once(tmp_path: Path) -> None:
    """However fast a person is."""
    with launch._stoppable(Run(tmp_path, {}), print):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="stopped at once"):
            signal.raise_signal(signal.SIGINT)


# --- extend


@pytest.mark.parametrize(
    "space", [SPACE, pytest.param(dict(reversed(SPACE.items())), marks=pytest.mark.full)], ids=["a to z", "z to a"]
)
def test_more_generations_later_are_as_good_as_at_once(tmp_path: Path, space: Any) -> None:
    """Six generations extended to ten have the digest of ten: no decision was lost by stopping in between."""
    alone = sweep(tmp_path / "alone", generations=10, space=space).run(progress=False)
    first = sweep(tmp_path / "extended", generations=6, space=space).run(progress=False)
    extended = pbt.extend(first.path, generations=10, progress=False)
    assert extended.digest() == alone.digest()
    assert extended.finished
    assert extended.run.info["spec"]["budget"]["generations"] == 10
    assert [row["kind"] for row in extended.rows["decisions"] if row["kind"] in ("finish", "extend")] == [
        "finish",
        "extend",
        "finish",
    ]


@pytest.mark.full
def test_an_extension_that_died_before_it_was_on_record_is_forgotten(tmp_path: Path) -> None:
    """`run.json` had the new numbers already: the ledger is what counts, and `run.json` is put right."""
    first = sweep(tmp_path, generations=150)
    with meanwhile(tmp_path, 5, lambda run: pbt.stop(run, wait=False)), pytest.raises(KeyboardInterrupt):
        first.run(progress=False)
    run = pbt.load(only_run(tmp_path)).run
    spec = dict(run.info["spec"])
    larger = {**spec, "budget": {**spec["budget"], "generations": 500}}
    rewrite_run(run, {**run.info, "begun": spec, "spec": larger})
    resumed = pbt.resume(run.path, progress=False)
    assert resumed.run.info["spec"] == spec
    assert pbt.load(run.path).run.info["spec"] == spec
    assert {row["consumed_end"] for row in resumed.rows["outcomes"]} >= {1500}


def test_an_extended_sweep_has_no_winner_until_it_ends_again(tmp_path: Path) -> None:
    """The old one was announced before the extension; a limit may be set where there was none."""
    first = sweep(tmp_path, generations=3).run(progress=False)
    assert first.winner is not None
    with meanwhile(tmp_path, 20, lambda run: pbt.stop(run, wait=False)), pytest.raises(KeyboardInterrupt):
        pbt.extend(first.path, generations=500, wall_minutes=60, progress=False)
    stopped = pbt.load(first.path)
    assert (stopped.status, stopped.winner) == ("stopped", None)
    with pytest.raises(LedgerError, match="has no winner: it has not finished"):
        _ = stopped.best
    assert stopped.run.info["spec"]["budget"]["wall_minutes"] == 60


@pytest.mark.parametrize(
    "strategy", [PBT(quantile=0.3), pytest.param(Fixed(), marks=pytest.mark.full)], ids=["pbt", "fixed"]
)
def test_new_members_catch_up(tmp_path: Path, strategy: Any) -> None:
    """They sit on stacks of their own, train as long as the others have, and are compared at equal age."""
    first = sweep(tmp_path, generations=4, strategy=strategy).run(progress=False)
    extended = pbt.extend(first.path, members=9, generations=6, progress=False)
    lineage = extended.lineage
    assert lineage.members == list(range(9))
    ends = {member: lineage.last(member) for member in range(9)}
    assert {end.consumed[1] for end in ends.values()} == {60}
    rows = extended.segments.to_pylist()
    assert {row["stack"] for row in rows if row["member"] >= 7} == {2}
    (late, *_) = [row for row in rows if row["member"] == 7]
    assert (late["start"], late["consumed_start"], late["until"]) == ("fresh", 0, 50)


@pytest.mark.full
def test_a_wider_space_keeps_the_order_of_the_old_one(tmp_path: Path) -> None:
    """What is drawn for which hyperparameter depends on it: a space that is no wider changes no decision."""
    turned = dict(reversed(SPACE.items()))
    alone = sweep(tmp_path / "alone", generations=10, space=turned).run(progress=False)
    first = sweep(tmp_path / "extended", generations=6, space=turned).run(progress=False)
    extended = pbt.extend(first.path, generations=10, space=SPACE, progress=False)
    assert list(extended.run.info["spec"]["space"]) == list(turned)
    assert extended.digest() == alone.digest()


def test_a_wider_space_is_used_from_then_on(tmp_path: Path) -> None:
    """Members find values that the old space did not hold."""
    narrow = {**SPACE, "lr": Float(1e-3, 2e-3, log=True)}
    first = sweep(tmp_path, space=narrow, generations=3).run(progress=False)
    extended = pbt.extend(first.path, generations=30, space=SPACE, progress=False)
    tried = {segment.hparams["lr"] for segment in extended.lineage.segments.values()}
    assert max(tried) > 2e-3
    early = [s.hparams["lr"] for s in extended.lineage.segments.values() if s.generation < 3]
    assert max(early) <= 2e-3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A sweep at its end, which nobody changes."""
    return sweep(tmp_path_factory.mktemp("finished")).run(progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 100}, "budget.tokens: the tokens are used up: 420 of 100"),
        ({"wall_minutes": 1e-9}, "budget.wall_minutes: the wall time is used up"),
        ({"members": 6}, "budget.members: 6 is less than the 7 there are"),
        ({"generations": 3}, "budget.generations: 3 is less than the 6 there are"),
        ({}, "extend: changes nothing"),
        ({"space": {"h0": Float(0.0, 1.0)}}, "space.h1: is missing, but members have it"),
        ({"space": {**SPACE, "lr": Float(1e-3, 1e-2, log=True)}}, "space.lr"),
        ({"space": {**SPACE, "h2": Float(0.0, 1.0)}}, "space.h2: is new, but no member has it"),
    ],
)
def test_what_would_make_a_sweep_smaller_is_refused(finished: Result, changes: Any, message: str) -> None:
    """Field, value and mend; and the run is as it was."""
    before = sorted((path, path.stat().st_size) for path in finished.path.rglob("*") if path.is_file())
    with pytest.raises(SpecError) as caught:
        pbt.extend(finished.path, **changes)
    assert message in str(caught.value)
    assert before == sorted((path, path.stat().st_size) for path in finished.path.rglob("*") if path.is_file())


def test_wider_domains() -> None:
    """Bounds and options may grow; nothing else may change."""
    from pbt.sweep import check_wider
    from searchspaces import Simplex, Space

    def is_wider(old: Any, new: Any) -> bool:
        try:
            check_wider(Space({"x": old}), Space({"x": new}))
        except SpecError:
            return False
        return True

    assert is_wider(Float(0.1, 1.0, log=True), Float(0.01, 1.0, log=True))
    assert not is_wider(Float(0.1, 1.0, log=True), Float(0.1, 1.0))
    assert not is_wider(Float(0.1, 1.0), Float(0.1, 0.9))
    assert is_wider(Int(1, 4), Int(0, 4))
    assert not is_wider(Int(1, 4), Float(1.0, 4.0))
    assert is_wider(Choice(["a", "b"]), Choice(["c", "b", "a"]))
    assert not is_wider(Choice(["a", "b"]), Choice(["a", "c"]))
    assert is_wider(Simplex(["a", "b"]), Simplex(["a", "b"]))
    assert not is_wider(Simplex(["a", "b"]), Simplex(["a", "b", "c"]))


# --- budgets


@pytest.mark.full
def test_a_budget_of_tokens_is_never_exceeded(tmp_path: Path) -> None:
    """The sweep ends a generation early, with a winner, and says why; with more it goes on to the same end."""
    one = 7 * 10  # tokens of a generation: the toy's step is one
    alone = sweep(tmp_path / "alone").run(progress=False)
    budget = Budget(members=7, generations=6, steps=10, tokens=4 * one + 3)
    limited = Sweep(
        name="toy",
        trainable=Quadratic(),
        space=SPACE,
        objective="Q",
        strategy=PBT(quantile=0.3),
        budget=budget,
        hosts=Hosts(kind="local", stacks=2),
        storage=tmp_path / "limited",
        tracking=False,
    ).run(progress=False)
    assert sum(row["tokens"] for row in limited.rows["outcomes"]) == 4 * one
    finish = [row for row in limited.rows["decisions"] if row["kind"] == "finish"][-1]
    assert "the tokens are used up: 280 of 283" in finish["reason"]
    assert limited.best.checkpoint is not None
    with pytest.raises(LedgerError, match=r"has finished: the tokens are used up: 280 of 283.* --tokens N` goes on"):
        pbt.resume(limited.path)
    with pytest.raises(SpecError, match=r"the tokens are used up: 280 of 283.* Raise that limit as well"):
        pbt.extend(limited.path, generations=7, progress=False)
    extended = pbt.extend(limited.path, tokens=6 * one, progress=False)
    assert extended.digest() == alone.digest()


def test_a_budget_of_time_ends_the_sweep_inside_it(tmp_path: Path) -> None:
    """With the best so far saved, though its generations would take for ever; the simulator holds it to the second."""
    result = Sweep(
        name="toy",
        trainable=Quadratic(),
        space=SPACE,
        objective="Q",
        budget=Budget(members=4, generations=3, steps=10**9, wall_minutes=2 / 60),
        hosts=Hosts(kind="local", stacks=2),
        storage=tmp_path,
        tracking=False,
    ).run(progress=False)
    ends = [end["consumed_end"] for end in result.rows["outcomes"]]
    assert 0 < max(ends) < 10**9, "no time is spent on finding out how to train fastest"
    assert "time is used up" in [row for row in result.rows["decisions"] if row["kind"] == "finish"][-1]["reason"]
    assert result.best.checkpoint is not None
    assert {row["status"] for row in result.rows["outcomes"]} == {"ended"}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"gpu_hours": 1.0}, "budget.gpu_hours"),
        ({"joules": 1.0}, "budget.joules"),
        ({"tokens": 3}, "budget.tokens"),
        ({"wall_minutes": 0}, "budget.wall_minutes"),
    ],
)
def test_limits_that_cannot_be_watched_are_refused(tmp_path: Path, limits: dict[str, float], message: str) -> None:
    """Before anything is started."""
    with pytest.raises(SpecError, match=message):
        Sweep(
            trainable=Quadratic(),
            space=SPACE,
            objective="Q",
            budget={"members": 2, "generations": 2, "steps": 2, **limits},
            hosts=Hosts(kind="local", device="cpu"),
            storage=tmp_path,
            tracking=False,
        ).run(progress=False)
    assert not list(tmp_path.iterdir())


# --- under Ray


@pytest.mark.full
@pytest.mark.ray
def test_a_brain_that_dies_is_rebuilt_from_the_ledger(ray_cluster: None, tmp_path: Path) -> None:
    """Ray restarts its actor, the hosts begin anew with it, and the digest is that of a run in this process."""
    import ray

    def kill(run: Path) -> None:
        ray.kill(ray.get_actor(f"pbt-brain-{run.name}"), no_restart=False)

    alone = sweep(tmp_path / "alone", generations=60).run(progress=False)
    with meanwhile(tmp_path / "killed", 15, kill):
        killed = sweep(tmp_path / "killed", "ray", generations=60).run(progress=False)
    assert killed.digest() == alone.digest()
    assert [row["reason"] for row in killed.rows["sessions"]] == ["start", "restart"]
    assert [row["kind"] for row in killed.rows["incidents"]][-1] == "recovered"


@pytest.mark.ray
@pytest.mark.full
def test_stopped_and_resumed_under_ray(ray_cluster: None, tmp_path: Path) -> None:
    """A new Tuner on the old ledger; begun under Ray, it may as well go on in process."""
    alone = sweep(tmp_path / "alone", generations=100).run(progress=False)
    with (
        meanwhile(tmp_path / "stopped", 10, lambda run: pbt.stop(run, wait=False)),
        pytest.raises(KeyboardInterrupt),
    ):
        sweep(tmp_path / "stopped", "ray", generations=100).run(progress=False)
    run = only_run(tmp_path / "stopped")
    resumed: Result = pbt.resume(run, progress=False, hosts={"kind": "local"})
    assert resumed.digest() == alone.digest()


# --- elsewhere


@pytest.mark.full
def test_sealed_parts_may_be_kept_elsewhere(tmp_path: Path) -> None:
    """The run's folder points to them; it is read, resumed and extended as any other."""
    alone = sweep(tmp_path / "alone", generations=8).run(progress=False)
    archive = (tmp_path / "archive").as_uri()
    first = sweep(tmp_path / "runs", archive=archive).run(progress=False)
    assert list((tmp_path / "archive" / first.path.name / "segments").glob("*.parquet"))
    assert not list(first.path.rglob("*.parquet"))
    extended = pbt.extend(first.path, generations=8, progress=False)
    assert extended.digest() == alone.digest()


def test_an_archive_with_a_password_is_refused() -> None:
    """It would be recorded; and the message does not show it."""
    with pytest.raises(SpecError, match="archive: holds a password") as caught:
        sweep(Path("unused"), archive="s3://key:hidden@bucket/path")
    assert "hidden" not in str(caught.value)


def test_what_only_ray_can_do_is_left_out_in_this_process() -> None:
    """`--local` goes on with any run: an address, ranks and Tune's reporter are of no use here."""
    spec = sweep(Path("runs"), "ray").spec
    hosts = Hosts(kind="ray", stacks=2, reporter="tune", ranks=2, address="auto")
    there = control.with_hosts(spec, {"kind": "ray", "reporter": "tune", "ranks": 2, "address": "auto"})
    assert hosts == there.hosts
    assert Hosts(kind="local", stacks=2) == control.with_hosts(there, {"kind": "local"}).hosts
