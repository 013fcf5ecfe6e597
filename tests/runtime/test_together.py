"""Members that one order trained are told together where they wait for nobody: live, and when it is told again."""

import dataclasses
import json
import math
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from pbt.member import Slot, member_seed
from pbt.population import PBT
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.schema import canonical
from pbt.runtime.brain import Brain
from pbt.runtime.orders import Publish, Trouble
from pbt.runtime.plan import Session
from pbt.spec import Budget, Checkpoints
from pbt.strategy import (
    ContinueUntil,
    Copy,
    Finish,
    MemberFailed,
    SegmentReported,
    Set,
    Start,
    SweepStarted,
    Task,
    Together,
)
from tests.examples import examples
from tests.runtime.miniature import SPACE, Clear
from tests.runtime.stage import Clock, Script, Shelf, Stage, ended, new_run, photographs
from tests.runtime.test_brain import PLAN, done, go_on, rows, start

pytestmark = pytest.mark.usefixtures("no_sync")

NONE = Checkpoints(every_minutes=None)
ASYNC = dataclasses.replace(PLAN, synchronous=False)
ONE_STACK = dataclasses.replace(ASYNC, slots=tuple(Slot(0, index) for index in range(4)))

ONWARD = {f"report:{m}:{n}": [go_on(m, 10 * (n + 2), n + 1, f"report:{m}:{n}")] for m in range(4) for n in range(3)}


@pytest.fixture
def make_brain(tmp_path):
    """A brain with a scripted strategy."""
    brains = []

    def make(answers, plan, again=False):
        starts = [dataclasses.replace(start(member), slot=slot) for member, slot in enumerate(plan.slots)]
        begin = [action for it in starts for action in (it, go_on(it.member, 10))]
        script, shelf = Script({"start": begin} | answers), Shelf(tmp_path)
        brains.append(Brain(plan, script, Ledger(tmp_path, existing=again), shelf, Clock()))
        brains[-1].script, brains[-1].shelf = script, shelf
        return brains[-1]

    yield make
    for brain in brains:
        brain.abandon()


def train_all(brain, score=0.5):
    """All stacks train, and report in one message."""
    brain.report([ended(order, dict.fromkeys(range(4), score)) for order in brain.orders(range(brain.num_stacks))])


def broken(order):
    """The report of an order that broke off."""
    return dataclasses.replace(
        ended(order, dict.fromkeys(range(4), 0.5)), segments=(), trouble=Trouble(message="a crack", traceback="")
    )


def orders_of(brain):
    """Work for all stacks, once what was lost is back."""
    work = {}
    while len(work) < brain.num_stacks:
        orders = brain.orders(range(brain.num_stacks))
        kinds = {row["order"]: row["kind"] for row in rows(brain.shelf.run, "orders")}
        work |= {order.stack: order for order in orders if kinds[order.id] == "work"}
        brain.report([done(order) for order in orders if kinds[order.id] == "recovery"])
    return [work[stack] for stack in sorted(work)]


# --- who is told together


def test_what_one_order_trained_is_told_together(make_brain):
    """Also where two stacks report in one message: those of each by themselves, in the order of their slots."""
    brain = make_brain(ONWARD, ASYNC)
    brain.start()
    train_all(brain)
    assert [("start",), ("report:0:0", "report:1:0"), ("report:2:0", "report:3:0")] == brain.script.moments


@pytest.mark.parametrize("plan", [PLAN, dataclasses.replace(ONE_STACK, synchronous=True)], ids=["two", "one"])
def test_in_synchronous_mode_all_are_told_one_by_one(make_brain, plan):
    """What is told does not depend on how stacks are laid out."""
    answers = {"report:3:0": [go_on(3, 20)]}
    brain = make_brain(answers, plan)
    brain.start()
    train_all(brain)
    assert [("start",), *((f"report:{member}:0",) for member in range(4))] == brain.script.moments
    brain.abandon()
    again = make_brain(answers, plan, again=True)
    again.start()
    assert brain.script.moments == again.script.moments


def test_stacks_are_told_apart_when_it_is_told_again_though_nothing_was_decided_between_them(make_brain):
    """A strategy that answers nothing to the first, as at the end of a budget, hears of the second by itself."""
    answers = {"report:3:0": [go_on(3, 20, 1)]}
    brain = make_brain(answers, ASYNC)
    brain.start()
    for order in brain.orders([0, 1]):
        brain.report([ended(order, dict.fromkeys(range(4), 0.5))])
    assert ("report:0:0", "report:1:0") == brain.script.moments[1]
    brain.abandon()
    again = make_brain(answers, ASYNC, again=True)
    again.start()
    assert brain.script.moments == again.script.moments


def test_parts_of_a_stack_are_told_apart_where_it_trains_in_halves(make_brain):
    """After an exception; a member that is found to be the cause has failed before the others are told of."""
    brain = make_brain(ONWARD, ONE_STACK)
    brain.start()
    (order,) = brain.orders([0])
    brain.report([broken(order)])
    while len(brain.script.moments) < 4:
        (order,) = orders_of(brain)
        is_at_fault = any(item.member == 2 and item.segment == 0 for item in order.train)
        brain.report([broken(order) if is_at_fault else ended(order, dict.fromkeys(range(4), 0.5))])
    assert [("start",), ("report:0:0", "report:1:0"), ("failed:2:0",), ("report:3:0",)] == brain.script.moments[:4]
    brain.abandon()
    again = make_brain(ONWARD, ONE_STACK, again=True)
    again.start()
    assert brain.script.moments == again.script.moments


@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_of_one_stack_decides_the_same_in_both_modes(tmp_path, seed):
    """All are compared with all of the same age: the digests are equal."""
    sweep = {"members": 7, "stacks": 1, "generations": 6, "seed": seed}
    modes = [Stage(new_run(tmp_path), PBT(quantile=0.3, synchronous=it), **sweep).play() for it in (True, False)]
    assert len({stage.digest() for stage in modes}) == 1
    assert "copied" in {row["start"] for row in modes[0].rows("segments")}


# --- what is kept for others


def test_in_one_stack_nothing_is_kept_for_others(make_brain):
    """Nobody asks for the state of a neighbour that is under way."""
    brain = make_brain(ONWARD, ONE_STACK)
    brain.start()
    for _ in range(2):
        train_all(brain)
    assert [()] == [order.publish for order in brain.orders([0])]


def test_what_was_lent_is_kept_from_when_there_are_other_stacks(make_brain):
    """Members that are under way when the sweep is extended, those that lend: a newcomer elsewhere may copy them."""
    copy = [Copy(cause="report:4:0", donor=0, receiver=4, reason=""), go_on(4, 20, 1, "report:4:0")]
    keeps = dataclasses.replace(ONWARD["report:1:0"][0], lends=False)
    newcomer = [Start(cause="extended:1", member=4, slot=Slot(1, 0), hparams={}, seed=104), go_on(4, 10, 0)]
    answers = ONWARD | {"report:1:0": [keeps], "extended:1": newcomer, "report:4:0": copy}
    brain = make_brain(answers, ONE_STACK)
    brain.start()
    train_all(brain)
    brain.abandon()
    data = canonical({"spec": {}, "slots": [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]})
    budget = Budget(members=5, generations=3, steps=10)
    plan = dataclasses.replace(
        ONE_STACK,
        extend=lambda spec: Task(space=SPACE, metric="Q", mode="max", budget=budget, seed=0),
        session=Session(reason="extend", extension=(1, data)),
    )
    for session in range(2):  # the second time the extension is told again
        again = make_brain(answers, plan, again=True)
        again.start()
        first, second = orders_of(again)
        assert {Publish(0, "0:0"), Publish(2, "2:0"), Publish(3, "3:0")} == set(first.publish)
        if session == 0:
            again.abandon()
    again.report([ended(second, {4: 0.1})])
    (receiving,) = again.orders([1])
    assert ["0:0"] == [item.token for item in receiving.fetch]


# --- what is copied at one moment


@dataclasses.dataclass(frozen=True)
class Swaps:
    """Options of a strategy by which members of one moment copy each other, and others, at random: in circles, too.

    What it decides follows from who was told together.
    """

    seed: int
    synchronous: bool = False

    def begin(self, task):
        return Swapping(self.seed, task.budget)


class Swapping:
    def __init__(self, seed, budget):
        self._seed, self._budget = seed, budget
        self._under_way, self._reported, self.heard = set(range(budget.members)), set(), []

    def handle(self, events):
        self.heard += events
        return [action for event in events for action in self._answer(event)]

    def _answer(self, event):
        if isinstance(event, SweepStarted):
            slots = enumerate(event.slots)
            begun = [Start(cause="start", member=m, slot=at, hparams={}, seed=member_seed(0, m)) for m, at in slots]
            return begun + [go_on(it.member, self._budget.steps) for it in begun]
        reports = event.reports if isinstance(event, Together) else (event,)
        rng = random.Random(f"{self._seed} {[it.id for it in reports]}")
        self._under_way -= {it.member for it in reports}
        self._reported |= {it.member for it in reports}
        self._reported -= {it.member for it in reports if isinstance(it, MemberFailed)}
        ready = [it for it in reports if isinstance(it, SegmentReported) and it.segment + 1 < self._budget.generations]
        rng.shuffle(ready)
        changes = [action for it in ready for action in self._replace(it, rng)]
        self._under_way |= {it.member for it in ready}
        trains = [self._train(it) for it in ready]
        end = [] if self._under_way else [Finish(cause=reports[-1].id, best=None, reason="that was all")]
        return changes + trains + end

    def _replace(self, report, rng):
        others = sorted(self._reported - {report.member})
        if not others or rng.random() < 0.2:
            return []
        donor, hparams = rng.choice(others), {"gain": rng.uniform(0.5, 2.0), "lr": 0.1}
        copy = Copy(cause=report.id, donor=donor, receiver=report.member, reason="")
        return [copy, Set(cause=report.id, member=report.member, hparams=hparams)]

    def _train(self, report):
        generation = report.segment + 1
        until = (generation + 1) * self._budget.steps
        return ContinueUntil(cause=report.id, member=report.member, consumed=until, generation=generation)


def failing(seed):
    """A trainable on which the member of this seed fails in its second segment."""
    trainable = Clear()
    build = trainable.build

    def build_failing(bucket, capacity, place):
        stack = build(bucket, capacity, place)
        held = stack.hparams

        def hparams(slot):
            seat = stack.seats[slot]
            return held(slot) | ({"gain": -1.0} if (seat.seed, seat.consumed) == (seed, 10) else {})

        stack.hparams = hparams
        return stack

    trainable.build = build_failing
    return trainable


def copies(run):
    """Checks every weight on record against its ancestry; returns who was copied, as `(cause, receiver, donor)`."""
    found = LedgerReader(run).rows(("segments", "outcomes"))
    ends = {(row["member"], row["segment"]): row for row in found["outcomes"]}
    told = []
    for row in found["segments"]:
        end, parent = ends.get((row["member"], row["segment"])), (row["parent_member"], row["parent_segment"])
        origin = ends.get(parent, {"score": 0.0, "age_end": 0})
        if row["start"] == "copied":
            before = [it["segment"] for it in ends.values() if it["member"] == parent[0] and it["at"] < row["at"]]
            assert max(before) == parent[1]  # as it was told last
            told.append((row["cause"], row["member"], parent[0]))
        if end is not None and end["status"] == "ended":
            gained = json.loads(row["hparams"])["gain"] * (end["age_end"] - origin["age_end"])
            assert math.isclose(origin["score"] + gained, end["score"])
    return told


SOME = examples(
    15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SOME
@given(
    seed=st.integers(0, 999),
    members=st.integers(2, 7),
    stacks=st.integers(1, 3),
    fails=st.integers(0, 9),
    data=st.data(),
)
def test_whoever_copies_whom_each_gets_what_the_other_was(seed, members, stacks, fails, data):
    """In chains and circles, inside stacks and across, under way or not; and as well when the sweep is taken up again.

    Wherever it was cut off, what is on record is decided again, which follows from who was told together.
    """
    sweep = {"members": members, "stacks": min(stacks, members), "generations": 4, "checkpoints": NONE}
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(Path(folder))
        trainable = failing(member_seed(0, fails))
        stage = Stage(run, Swaps(seed), ledger=photographs(run, Path(folder) / "album"), trainable=trainable, **sweep)
        heard = stage.play(random.Random(seed).choice).strategy.heard
        copies(run)
        again = Stage(run, Swaps(seed), **sweep).play()
        assert repr(heard) == repr(again.strategy.heard)
        photo = data.draw(st.sampled_from(sorted((Path(folder) / "album").iterdir())))
        stage = Stage(photo, Swaps(seed), trainable=failing(member_seed(0, fails)), **sweep)
        copies(stage.play(random.Random(seed + 1).choice).run)
        assert "differs" not in {row["kind"] for row in stage.rows("incidents")}
        assert 0 == len(stage.shelf.exchange)


def test_members_of_one_moment_do_copy_each_other_in_circles(tmp_path):
    """So the above is about them."""
    kinds = set()
    for seed in range(20):
        stage = Stage(new_run(tmp_path), Swaps(seed), members=4, stacks=1, generations=4, checkpoints=NONE).play()
        donors = {(cause.rsplit(":")[-1], receiver): donor for cause, receiver, donor in copies(stage.run)}
        for (segment, receiver), donor in donors.items():
            following = donors.get((segment, donor))
            kinds |= {"single"} if following is None else {"swap"} if following == receiver else {"chain"}
        assert {()} == {order.publish for order in stage.released if order.train}
    assert {"single", "swap", "chain"} == kinds
