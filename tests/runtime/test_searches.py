"""Searches on simulated hosts: members leave their slots and come back, and nothing that is lost is missed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pbt
from pbt.member import lay_out
from pbt.record.digest import digest
from pbt.record.ledger import LedgerReader
from pbt.record.validity import violations
from pbt.runtime.simulated import MemoryStore, World
from pbt.search import ASHA, FreezeThaw, MedianRule
from pbt.spec import Budget, Checkpoints
from searchspaces import Float, Space
from tests.examples import examples
from tests.runtime.miniature import Clear
from tests.runtime.test_simulated import Sweep

GENERATIONS = 18
EXAMPLES = examples(60)


def make(run, **changes):
    return Sweep(run, **{"options": ASHA(), "generations": GENERATIONS, **changes})


def digest_of(sweep):
    reader = LedgerReader(sweep.run)
    return digest({name: reader.table(name) for name in ("segments", "outcomes")})


def wrong(sweep, store):
    budget = Budget(members=sweep.members, generations=sweep.generations, steps=sweep.steps)
    return violations(sweep.rows, lambda digest: digest in store._states, budget)


@st.composite
def worlds(draw):
    """Hosts that are lost, brains that are lost, checkpoints that cannot be written, and states that take time."""
    hosts = draw(st.integers(1, 3))
    when = st.integers(5, 180).map(float)
    return World(
        hosts=hosts,
        losses=draw(st.lists(st.tuples(when, st.integers(0, hosts - 1)), max_size=5)),
        brain_losses=sorted(draw(st.lists(when, max_size=2))),
        save_s=draw(st.sampled_from([0.0, 3.0])),
        save_failure_rate=draw(st.sampled_from([0.0, 0.3])),
        fetch_s=draw(st.sampled_from([0.0, 1.0])),
        repair_s=20.0,
        detection_s=2.0,
        restart_s=5.0,
        seed=draw(st.integers(0, 99)),
    )


CHECKPOINTS = st.sampled_from([Checkpoints(), Checkpoints(every_steps=10), Checkpoints(every_steps=30, keep=1)])


@EXAMPLES
@given(
    options=st.sampled_from([ASHA(), MedianRule(least=2), ASHA(reduction_factor=2)]),
    stacks=st.sampled_from([1, 2, 4]),
    world=worlds(),
    checkpoints=CHECKPOINTS,
)
def test_what_is_lost_makes_no_difference(tmp_path_factory, options, stacks, world, checkpoints):
    """The same is decided, bit for bit, as where nothing goes wrong."""
    folder = tmp_path_factory.mktemp("searches")
    calm, stormy = (make(folder / name, options=options, stacks=stacks) for name in ("calm", "stormy"))
    store = MemoryStore()
    calm.simulate(World(hosts=2), store=store)
    assert wrong(calm, store) == []
    store = MemoryStore()
    report = dataclasses.replace(stormy, checkpoints=checkpoints).simulate(world, store=store)
    assert report.finished
    assert wrong(stormy, store) == []
    assert digest_of(calm) == digest_of(stormy)


@EXAMPLES
@given(world=worlds(), checkpoints=CHECKPOINTS, stacks=st.sampled_from([2, 4]))
def test_without_waiting_for_each_other_it_holds_too(tmp_path_factory, world, checkpoints, stacks):
    """What is decided depends on who is first, but never on a state that is not there."""
    options = ASHA(synchronous=False)
    sweep = make(tmp_path_factory.mktemp("searches") / "run", options=options, stacks=stacks, checkpoints=checkpoints)
    store = MemoryStore()
    assert sweep.simulate(world, store=store).finished
    assert wrong(sweep, store) == []


@EXAMPLES
@given(stops=st.lists(st.integers(1, 60), min_size=1, max_size=4), stacks=st.sampled_from([1, 2]))
def test_stopped_and_taken_up_again(tmp_path_factory, stops, stacks):
    folder = tmp_path_factory.mktemp("searches")
    calm, stopped = (make(folder / name, stacks=stacks) for name in ("calm", "stopped"))
    calm.simulate(World(hosts=2))
    store, now, report = MemoryStore(), 0.0, None
    for after in (*stops, None):
        world = World(hosts=2, save_s=2.0, stop_at=None if after is None else now + after)
        report = stopped.simulate(world, store=store, begins_s=now)
        now += report.makespan_s + 1.0
        if report.finished:
            break
    assert report.finished
    assert digest_of(calm) == digest_of(stopped)
    assert wrong(stopped, store) == []


def test_frozen_members_are_kept_and_come_back(tmp_path):
    """Every freeze has a checkpoint; who was thawed goes on from it, and was trained once."""
    sweep, store = make(tmp_path / "run", stacks=2), MemoryStore()
    report = sweep.simulate(World(hosts=2), store=store)
    kinds = Counter(row["kind"] for row in sweep.rows["decisions"])
    assert kinds["freeze"] > 10
    assert kinds["thaw"] > 2
    assert kinds["start"] > 4 * len(lay_out(4, 2))
    assert report.recoveries == 0
    saved = {(row["member"], row["segment"]) for row in sweep.rows["checkpoints"]}
    frozen = {(row["member"], row["segment"]) for row in sweep.rows["decisions"] if row["kind"] == "freeze"}
    assert frozen <= saved
    assert report.busy_s == sum(row["wall_s"] for row in _once_per_order(sweep.rows))


def _once_per_order(rows):
    """One outcome of each order: those of one stack end together."""
    last = {}
    for row in rows["orders"]:
        for key in json.loads(row["segments"]):
            last[tuple(key)] = row["order"]
    return {last[row["member"], row["segment"]]: row for row in rows["outcomes"]}.values()


def test_a_checkpoint_that_is_gone_is_made_again(tmp_path):
    """Whoever is thawed is trained again where its checkpoint cannot be read."""

    class Forgetful(MemoryStore):
        def load(self, digest):
            if self.is_whole:
                return super().load(digest)
            self.is_whole = True
            self._states.pop(digest)
            return super().load(digest)

    calm, sweep = make(tmp_path / "calm"), make(tmp_path / "run")
    calm.simulate(World(hosts=2))
    store = Forgetful()
    store.is_whole = False
    report = sweep.simulate(World(hosts=2), store=store)
    assert report.finished
    assert store.is_whole
    assert report.recoveries > 0
    assert digest_of(calm) == digest_of(sweep)
    assert "checkpoint_damaged" in {row["kind"] for row in sweep.rows["incidents"]}


def test_a_member_that_fails_gives_its_slot_to_another(tmp_path):
    sweep, store = make(tmp_path / "run"), MemoryStore()
    report = sweep.simulate(World(hosts=2, failures={(0, 0): "made up", (5, 0): "made up"}), store=store)
    assert report.finished
    assert report.best not in (0, 5)
    assert wrong(sweep, store) == []
    assert {row["member"] for row in sweep.rows["outcomes"] if row["status"] == "failed"} == {0, 5}


def test_a_limit_ends_it_with_the_best_that_was_trained_to_the_end(tmp_path):
    limits = (("tokens", 7 * 10 * 40),)
    sweep, store = make(tmp_path / "run", limits=limits), MemoryStore()
    report = sweep.simulate(World(hosts=2), store=store)
    assert report.finished
    assert sum(row["tokens"] for row in sweep.rows["outcomes"]) <= 7 * 10 * 40
    complete = {row["member"] for row in sweep.rows["outcomes"] if row["consumed_end"] == 40}
    assert report.best in complete
    assert "tokens" in sweep.rows["decisions"][-1]["reason"]


def test_by_model_too(tmp_path):
    """With the model that decides by default, stopped in the middle."""
    calm, stopped = (make(tmp_path / name, options=FreezeThaw()) for name in ("calm", "stopped"))
    calm.simulate(World(hosts=2))
    store = MemoryStore()
    report = stopped.simulate(World(hosts=2, stop_at=70.0), store=store)
    assert not report.finished
    assert stopped.simulate(World(hosts=2, losses=[(90.0, 0)]), store=store, begins_s=80.0).finished
    assert digest_of(calm) == digest_of(stopped)


def test_what_is_thawed_is_what_was_frozen(tmp_path):
    """Each step adds the gain to a member's weight: what it comes to tells whether any step of it was lost."""
    sweep = make(tmp_path / "run", trainable=Clear(), metric="Q", steps=2)
    assert sweep.simulate(World(hosts=2)).finished
    gains = {(row["member"], row["segment"]): json.loads(row["hparams"])["gain"] for row in sweep.rows["segments"]}
    for row in sweep.rows["outcomes"]:
        steps = [gains[row["member"], row["segment"]]] * row["consumed_end"]
        assert row["score"] == pytest.approx(sum(steps), rel=1e-12)
    assert any(row["kind"] == "thaw" for row in sweep.rows["decisions"])


def test_a_search_that_is_extended_goes_on(tmp_path):
    """With more to train, more slots and a wider space: what was begun before is not lost, and others come."""
    result = pbt.Sweep(
        trainable="quadratic",
        space={"h0": Float(0.0, 0.5), "h1": Float(0.0, 1.0)},
        objective="Q",
        budget={"members": 3, "generations": 16, "steps": 5},
        strategy=ASHA(),
        hosts={"kind": "local", "stacks": 2},
        storage=tmp_path,
        tracking=False,
    ).run(progress=False)
    before = len(result.lineage.members)
    assert pbt.extend(result.run.path, generations=24, progress=False).finished
    wider = Space({"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)})
    last = pbt.extend(result.run.path, members=5, space=wider, progress=False)
    assert last.finished
    assert len(last.lineage.members) > before + 10
    assert last.best.score > result.best.score
    assert max(row.hparams["h0"] for row in last.lineage.segments.values()) > 0.5
    consumed = {row["member"]: row["consumed_end"] for row in last.rows["outcomes"]}
    assert sum(consumed.values()) <= 5 * 24 * 5
    assert {row["slot"] for row in last.rows["segments"] if row["stack"] > 1}  # newcomers have a stack of their own
