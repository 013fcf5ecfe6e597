"""A sweep that was cut off, wherever that was, goes on from its ledger as if it had not been."""

import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pbt.errors import HostError, LedgerError
from pbt.population import PBT, Fixed, Halving
from pbt.record.ledger import LedgerReader, is_written
from pbt.record.schema import canonical
from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import CheckpointStore
from pbt.spec import Budget, Checkpoints
from pbt.strategy import Task
from tests.runtime.miniature import SPACE, Clear, train
from tests.runtime.stage import Stage, new_run, photographs, rows
from tests.runtime.test_brain import is_sound
from trainables import State

pytestmark = pytest.mark.usefixtures("no_sync")

OPTIONS = PBT(quantile=0.4)
SWEEP = {"members": 5, "generations": 3, "seed": 2}

EVERY = Checkpoints(every_steps=10)
NONE = Checkpoints(every_minutes=None)


@dataclass
class Album:
    """A sweep, as it was left at the end, and as a process that died would have left it after each commit."""

    digest: str
    photos: list[Path]
    checkpoints: Checkpoints
    options: PBT | Halving

    def copy(self, photo: Path, storage: Path) -> Path:
        """A copy of a photo, to go on with."""
        return Path(shutil.copytree(photo, storage / "run", dirs_exist_ok=False))


def make_album(folder, checkpoints, options=OPTIONS):
    run = new_run(folder)
    stage = Stage(run, options, checkpoints=checkpoints, ledger=photographs(run, folder / "album"), **SWEEP)
    stage.play(random.Random(0).choice)
    return Album(stage.digest(), sorted((folder / "album").iterdir()), checkpoints, options)


@pytest.fixture(scope="module", params=[EVERY, NONE], ids=["every segment", "none"])
def album(request, tmp_path_factory):
    return make_album(tmp_path_factory.mktemp("album"), request.param)


@pytest.fixture(scope="module")
def saved_album(tmp_path_factory):
    """One with checkpoints of every segment."""
    return make_album(tmp_path_factory.mktemp("album"), EVERY)


def resume(run, album, choose=min):
    """Go on to the end."""
    return Stage(run, album.options, checkpoints=album.checkpoints, **SWEEP).play(choose)


def decisions(run):
    """What was decided and what came of it, without columns that say nothing."""
    return [
        [{name: value for name, value in row.items() if value is not None} for row in rows(run, table)]
        for table in ("segments", "decisions", "outcomes")
    ]


def kinds(stage, kind):
    """Incidents of a kind."""
    return [row for row in stage.rows("incidents") if row["kind"] == kind]


# --- killed


def test_after_every_commit(album, tmp_path):
    """The digest is that of the undisturbed sweep, no segment is trained on record twice, and nothing is left over."""
    assert len(album.photos) > 20
    for number, photo in enumerate(album.photos):
        stage = resume(album.copy(photo, tmp_path / str(number)), album)
        assert album.digest == stage.digest(), photo.name
        assert is_sound(stage)
        assert LedgerReader(stage.run).finished
        assert ["start", "resume"] == [row["reason"] for row in stage.rows("sessions")]
        assert [1, 2] == [row["session"] for row in stage.rows("sessions")]


def test_on_the_host_of_this_process(album, tmp_path):
    """With the real host and its threads, too."""
    for number, photo in enumerate(album.photos[::4]):
        run = album.copy(photo, tmp_path / str(number))
        result = train(tmp_path, album.options, again=run, checkpoints=album.checkpoints, stacks=2, **SWEEP)
        assert album.digest == result.digest()
        assert result.finished
        outcomes = [(row["member"], row["segment"]) for row in result.rows["outcomes"]]
        assert len(outcomes) == len(set(outcomes))


def test_in_the_middle_of_a_commit(saved_album, tmp_path):
    """A torn last line is dropped; checkpoints that it spoke of are there all the same, and may be gone."""
    last = saved_album.photos[-1]
    (wal,) = (last / "ledger").glob("wal-*.jsonl")
    size, rng = wal.stat().st_size, random.Random(0)
    for number in range(30):
        run = saved_album.copy(last, tmp_path / str(number))
        with open(run / "ledger" / wal.name, "r+b") as file:
            file.truncate(rng.randrange(1, size))
        stage = resume(run, saved_album)
        assert saved_album.digest == stage.digest()
        assert is_sound(stage)


@pytest.mark.parametrize("checkpoints", [EVERY, NONE], ids=["every segment", "none"])
def test_where_members_began_again(tmp_path, checkpoints):
    """From new weights, in the midst of their lives: they are brought back with those, and those before are not."""
    album = make_album(tmp_path, checkpoints, Halving(reduction_factor=2))
    for number, photo in enumerate(album.photos[::4]):
        stage = resume(album.copy(photo, tmp_path / str(number)), album)
        assert album.digest == stage.digest(), photo.name
        assert is_sound(stage)
        again = [row for row in stage.rows("segments") if row["start"] == "fresh" and row["segment"]]
        reasons = [row["reason"] for row in stage.rows("decisions") if row["kind"] == "start" and row["reason"]]
        assert len(again) == len(reasons) > 1


@pytest.mark.parametrize("seed", range(3))
def test_without_generations_in_common(tmp_path, seed):
    """What was recorded stands; what follows is decided by what then happens, and the record is sound."""
    options = PBT(quantile=0.5, synchronous=False)
    album = make_album(tmp_path, (EVERY, NONE, Checkpoints(every_steps=20, keep=1))[seed], options)
    for number, photo in enumerate(album.photos):
        run = album.copy(photo, tmp_path / str(number))
        before = decisions(run)
        stage = resume(run, album, random.Random(number).choice)
        assert is_sound(stage)
        for was, now in zip(before, decisions(run), strict=True):
            assert was == now[: len(was)]


@pytest.mark.parametrize("turns", [5, 6, 8])
def test_again_and_again(tmp_path, saved_album, turns):
    """Every session gets so far and dies: the sweep ends, and as it would have."""
    run = new_run(tmp_path)
    stage, sessions = Stage(run, OPTIONS, checkpoints=EVERY, **SWEEP), 1
    while not stage.brain.done and sessions < 30:
        for _ in range(turns):
            if not stage.brain.done:
                stage.turn()
        stage.brain.abandon()
        stage, sessions = Stage(run, OPTIONS, checkpoints=EVERY, **SWEEP), sessions + 1
    assert stage.brain.finished
    stage.play()
    assert saved_album.digest == stage.digest()
    assert is_sound(stage)
    assert list(range(1, sessions + 1)) == [row["session"] for row in stage.rows("sessions")]
    assert sessions > 2


def test_with_hosts_lost_besides(saved_album, tmp_path):
    """One after another, while the sweep is being brought back."""
    for number, photo in enumerate(saved_album.photos[::5]):
        stage = Stage(saved_album.copy(photo, tmp_path / str(number)), OPTIONS, checkpoints=EVERY, **SWEEP)
        stage.take()
        stage.lose(0)
        if not stage.brain.done:
            stage.turn()
        stage.lose(1)
        stage.play()
        assert saved_album.digest == stage.digest()
        assert is_sound(stage)


def test_orders_of_an_earlier_session_are_not_answered(saved_album, tmp_path):
    """A host that reports late, to a brain that has been built again, is not heard."""
    run = new_run(tmp_path)
    stage = Stage(run, OPTIONS, checkpoints=EVERY, **SWEEP)
    stage.take()
    late = [stage.carry_out(stack) for stack in (0, 1)]
    stage.brain.abandon()
    again = Stage(run, OPTIONS, checkpoints=EVERY, **SWEEP)
    again.take()
    again.brain.report(late)
    assert [] == again.rows("outcomes")
    again.play()
    assert saved_album.digest == again.digest()


# --- checkpoints


def newest(run):
    """The newest checkpoint of each member that is on record as saved."""
    saved = {}
    for row in rows(run, "checkpoints"):
        if row["status"] == "saved":
            saved[row["member"]] = row["digest"]
    return set(saved.values())


def flip(run, digests):
    """Damage checkpoints, those of them that are there."""
    there = [path for path in (run / "checkpoints").glob("*.safetensors") if path.stem in digests]
    for path in there:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    return {path.stem for path in there}


def test_with_the_newest_checkpoints_damaged(saved_album, tmp_path):
    """They are named, and the next older good ones are used."""
    used = 0
    for number, photo in enumerate(saved_album.photos[5::3]):
        run = saved_album.copy(photo, tmp_path / str(number))
        damaged = flip(run, newest(run))
        stage = resume(run, saved_album)
        assert saved_album.digest == stage.digest()
        assert is_sound(stage)
        named = [row["digest"] for row in stage.rows("checkpoints") if row["status"] == "damaged"]
        assert set(named) <= damaged
        told = kinds(stage, "checkpoint_damaged")
        assert len(named) == len(told)
        for digest, row in zip(named, told, strict=True):
            assert f"{digest}.safetensors is damaged" in row["message"]
            assert "trained again from an older one" in row["message"]
        used += len(named)
    assert used > 5


def test_with_all_checkpoints_gone(saved_album, tmp_path):
    """Everything is trained again from the start."""
    for number, photo in enumerate(saved_album.photos[10::8]):
        run = saved_album.copy(photo, tmp_path / str(number))
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        stage = resume(run, saved_album)
        assert saved_album.digest == stage.digest()
        assert is_sound(stage)
        (row,) = kinds(stage, "recovered")
        assert re.fullmatch(r"\d+ segments? trained again", row["message"])


def test_what_is_on_record_as_saved_is_there_in_the_end(album, tmp_path):
    """And nothing else: what was removed, or was not whole, is gone."""
    for number, photo in enumerate(album.photos[::6]):
        stage = resume(album.copy(photo, tmp_path / str(number)), album)
        there = {}
        for row in stage.rows("checkpoints"):
            there[row["member"], row["segment"]] = row["digest"] if row["status"] == "saved" else None
        digests = {digest for digest in there.values() if digest}
        assert digests <= stage.shelf.store.digests()
        for digest in digests:
            stage.shelf.store.verify(digest)
        ends = {(member, 2) for member in range(5)}
        assert ends <= {key for key, digest in there.items() if digest}


def test_training_goes_on_from_the_newest_checkpoints(saved_album, tmp_path):
    """No segment is trained again that need not be."""
    run = saved_album.copy(saved_album.photos[-1], tmp_path / "run")
    stage = resume(run, saved_album)
    (row,) = kinds(stage, "recovered")
    assert "5 states loaded from checkpoints" == row["message"]


# --- finished, stopped


def test_a_finished_sweep_taken_up_again_trains_nothing(saved_album, tmp_path):
    """The record is that of before, and one more session."""
    run = new_run(tmp_path)
    Stage(run, OPTIONS, checkpoints=EVERY, **SWEEP).play()
    before = {table: rows(run, table) for table in ("segments", "outcomes", "decisions", "checkpoints", "metrics")}
    trainable = Clear()
    stage = Stage(run, OPTIONS, checkpoints=EVERY, trainable=trainable, **SWEEP).play()
    assert saved_album.digest == stage.digest()
    assert before == {table: rows(run, table) for table in before}
    assert "run" not in {call for _, call, _ in trainable.journal}
    assert LedgerReader(run).finished
    assert stage.brain.best is not None


@pytest.mark.parametrize("seed", [0, 3, 5])
@pytest.mark.parametrize("checkpoints", [EVERY, NONE], ids=["every segment", "none"])
def test_stop_and_resume(tmp_path, saved_album, checkpoints, seed):
    """Whenever it is stopped, the sweep goes on to the same end, and nothing has to be trained again for that."""
    rng, run = random.Random(seed), new_run(tmp_path)
    stage = Stage(run, OPTIONS, checkpoints=checkpoints, **SWEEP)
    while not stage.brain.finished:
        for _ in range(rng.randrange(8)):
            stage.take([rng.choice([0, 1])])
            stage.shelf.tell(stage.brain)
            if stage.ready and not stage.brain.done:
                stage.do(rng.choice(stage.ready))
        stage.brain.stop()
        stage.play(rng.choice)
        stage = Stage(run, OPTIONS, checkpoints=checkpoints, **SWEEP)
    stage.play()
    assert saved_album.digest == stage.digest()
    assert is_sound(stage)
    told = kinds(stage, "recovered")
    assert 2 < len(told)
    for row in told:
        assert row["message"].endswith("loaded from checkpoints")


def test_stopped_before_it_is_all_back(tmp_path, saved_album):
    """Nothing more is trained again, what is missing is told, and the sweep still comes to the same end."""
    sweep = {"checkpoints": NONE, **SWEEP}
    run = new_run(tmp_path)
    stage = Stage(run, OPTIONS, **sweep)
    while len(stage.rows("outcomes")) < 10:
        stage.turn()
    stage.brain.abandon()
    for waves in range(2):
        stage = Stage(run, OPTIONS, **sweep)
        before = len(stage.rows("orders"))
        for _ in range(2 * waves):
            stage.turn()
        stage.take()
        stage.brain.stop()
        stage.play()
        assert stage.brain.done
        assert not stage.brain.finished
        assert {"recovery"} == {row["kind"] for row in stage.rows("orders")[before:]}
        assert not stage.rows("checkpoints")
        assert not len(stage.shelf.exchange)
    told = [row["message"] for row in kinds(stage, "recovery_stopped")]
    left = [int(message.split(": ")[1].split()[0]) for message in told]
    assert [8, 8] == left  # what was trained again meanwhile was not saved
    assert saved_album.digest == Stage(run, OPTIONS, **sweep).play().digest()


def test_time_that_ends_while_segments_are_trained_again(tmp_path, saved_album):
    """The budget is kept: the session ends with the mend, nothing recorded is lost, and with more time it goes on."""
    sweep = {"checkpoints": NONE, **SWEEP}
    run = new_run(tmp_path)
    stage = Stage(run, OPTIONS, wall_minutes=1000, **sweep)
    while len(stage.rows("outcomes")) < 10:
        stage.turn()
    stage.brain.abandon()
    stage = Stage(run, OPTIONS, wall_minutes=1e-9, **sweep)
    with pytest.raises(HostError, match="time is used up before what was lost had been trained again"):
        stage.play()
    stage.brain.close()
    assert saved_album.digest == Stage(run, OPTIONS, wall_minutes=3000, **sweep).play().digest()


def test_checkpoints_that_are_not_on_record_are_removed(saved_album, tmp_path):
    """Whoever wrote them died before saying so. One that is damaged, and on record as such, is left to look at."""
    run = saved_album.copy(saved_album.photos[-1], tmp_path / "run")
    store = CheckpointStore(run / "checkpoints")
    (tmp_path / "other").mkdir()
    orphan = store.save(State((), age=1, consumed=1, seed=1), {}).digest
    damaged = flip(run, newest(run))
    stage = resume(run, saved_album)
    assert orphan not in store.digests()
    assert damaged
    assert damaged <= resume(run, saved_album).shelf.store.digests()
    assert saved_album.digest == stage.digest()


def test_steps_since_the_last_checkpoint_are_counted_across_sessions(tmp_path):
    """Every 20 steps: a member saved at 20 is next saved at 40, though the sweep was taken up again at 30."""
    sweep = {"checkpoints": Checkpoints(every_steps=20, every_minutes=None, keep=9), **SWEEP, "generations": 6}
    run, alone = new_run(tmp_path), Stage(new_run(tmp_path), Fixed(), **sweep).play()
    stage = Stage(run, Fixed(), **sweep)
    while len(stage.rows("outcomes")) < 15:
        stage.turn()
    stage.brain.abandon()
    stage = Stage(run, Fixed(), **sweep).play()
    saved = {(row["member"], row["segment"]) for row in stage.rows("checkpoints") if row["status"] == "saved"}
    assert {(row["member"], row["segment"]) for row in alone.rows("checkpoints")} == saved


def test_stop_and_resume_on_the_host_of_this_process(tmp_path, saved_album):
    """Over and over."""
    trainable, run = Clear(), None
    for _ in range(20):
        before = len(trainable.journal)
        result = train(
            tmp_path,
            OPTIONS,
            again=run,
            trainable=trainable,
            is_to_stop=lambda before=before: any(call == "run" for _, call, _ in list(trainable.journal)[before:]),
            stacks=2,
            **SWEEP,
        )
        run = result.path
        assert not is_written(run)
        if result.finished:
            break
    assert result.finished
    assert saved_album.digest == result.digest()


# --- extended

#: Two more members, on a stack of their own, and two more generations.
SLOTS = [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
EXTENSION = 1, canonical({"spec": {"members": 7, "generations": 5}, "slots": SLOTS})


def extend(spec):
    """The task of an extended spec."""
    return Task(space=SPACE, metric="Q", mode="max", budget=Budget(**spec, steps=10), seed=SWEEP["seed"])


def extended(run, **changes):
    """A sweep that is being extended, or has been."""
    return Stage(run, OPTIONS, checkpoints=EVERY, extension=EXTENSION, extend=extend, **SWEEP, **changes)


@pytest.mark.parametrize("moment", [0, 4, None], ids=["at once", "midway", "finished"])
def test_an_extended_sweep_that_was_cut_off(tmp_path, moment):
    """Early and late in the session that extends it: it is extended once, and ends as it would have."""
    run = new_run(tmp_path)
    stage = Stage(run, OPTIONS, checkpoints=EVERY, **SWEEP)
    if moment is None:
        stage.play()
    else:
        for _ in range(moment):
            stage.turn()
        stage.brain.abandon()
    whole = extended(run, ledger=photographs(run, tmp_path / "album")).play(random.Random(0).choice)
    assert is_sound(whole)
    assert dict.fromkeys(range(7), 50) == {row["member"]: row["consumed_end"] for row in whole.rows("outcomes")}
    assert ["extend"] == [row["kind"] for row in whole.rows("decisions") if row["kind"] == "extend"]
    photos = sorted((tmp_path / "album").iterdir())
    for number, photo in enumerate([*photos[:8], *photos[8::6]]):
        again = extended(Path(shutil.copytree(photo, tmp_path / str(number)))).play()
        assert whole.digest() == again.digest()
        assert is_sound(again)
        assert 3 == again.brain.num_stacks
        assert ["extend"] == [row["kind"] for row in again.rows("decisions") if row["kind"] == "extend"]


def test_newcomers_have_stacks_of_their_own(tmp_path):
    """Those there were are as large as before, so that nobody's results change."""
    run = new_run(tmp_path)
    before = Stage(run, OPTIONS, checkpoints=EVERY, **SWEEP).play()
    scores = {(row["member"], row["segment"]): row["score"] for row in before.rows("outcomes")}
    stage = extended(run)
    assert [2, 3, 2] == [stage.brain.capacity(number) for number in range(3)]
    stage.play()
    after = {(row["member"], row["segment"]): row["score"] for row in stage.rows("outcomes")}
    assert scores == {key: after[key] for key in scores}
    known = [(row["session"], row["stack"], row["capacity"]) for row in stage.rows("stacks")]
    assert [(1, 0, 2), (1, 1, 3), (2, 0, 2), (2, 1, 3), (2, 2, 2)] == known


# --- what does not fit


def test_a_strategy_that_decides_otherwise_is_refused(saved_album, tmp_path):
    """What the record says and what is said now are named, nothing is changed, and the right strategy still goes on."""
    run = saved_album.copy(saved_album.photos[-4], tmp_path / "run")
    before = decisions(run)
    with pytest.raises(LedgerError, match="the sweep cannot go on: the record says"):
        train(tmp_path, PBT(quantile=0.4, factors=(0.5, 2.0)), again=run, stacks=2, **SWEEP)
    assert before == decisions(run)
    assert not is_written(run)
    assert saved_album.digest == resume(run, saved_album).digest()


def test_a_strategy_that_decides_less_is_refused(saved_album, tmp_path):
    """Decisions that it no longer takes are left over."""
    run = saved_album.copy(saved_album.photos[-1], tmp_path / "run")
    sweep = SWEEP | {"generations": 2}
    with pytest.raises(LedgerError, match="the sweep cannot go on"):
        train(tmp_path, OPTIONS, again=run, stacks=2, **sweep)
    assert saved_album.digest == resume(run, saved_album).digest()


def test_a_run_that_is_being_trained_is_not_taken_up(tmp_path):
    """One process at a time."""
    stage = Stage(new_run(tmp_path), Fixed())
    with pytest.raises(LedgerError, match="being written"):
        Stage(stage.run, Fixed())
    stage.play()


# --- one order of events


def test_events_come_in_one_order_live_and_again(tmp_path):
    """Members that one order trained stand where it left them when they are told of, live as when it is told again."""
    told = []

    class Watching(Brain):
        def _tell(self, moment, *arguments):
            told[-1].append(repr(moment))
            super()._tell(moment, *arguments)
            places = {number: (it.segment, it.ended, it.until, it.parent) for number, it in self._members.items()}
            told[-1].append(json.dumps(places, default=repr, sort_keys=True))

    options = PBT(quantile=0.5, synchronous=False)
    run, sweep = new_run(tmp_path), SWEEP | {"generations": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.runtime.stage.Brain", Watching)
        told.append([])
        stage = Stage(run, options, checkpoints=EVERY, **sweep)
        stage.play(random.Random(1).choice)
        told.append([])
        Stage(run, options, checkpoints=EVERY, **sweep).play()
    live, again = told
    assert len(live) > 30
    assert live == again
