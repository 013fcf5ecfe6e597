"""Planning to train again what was lost: everything wanted, nothing needless, and every read finds its state."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.lineage import Lineage, Segment
from pbt.member import SegmentKey, Slot, lay_out
from pbt.runtime.recovery import Recovery, Step, Wave, plan
from tests.contracts.states import assert_same
from tests.examples import examples
from trainables import Place, Quadratic

STEPS = 10


def key(text):
    """`2:1` is the second segment of member 2."""
    return SegmentKey(*map(int, text.split(":")))


def keys(text):
    return [key(word) for word in text.split()]


def segment(name, parent=None, age=0, status="ended"):
    """A segment of 10 steps."""
    where = key(name)
    ended = status == "ended"
    return Segment(
        key=where,
        generation=where.index,
        start="fresh" if parent is None else "own" if key(parent).member == where.member else "copied",
        parent=key(parent) if parent else None,
        hparams={"h0": 0.5 + 0.1 * where.member, "h1": 0.2, "lr": 0.02 + 0.01 * where.index},
        hparams_in_effect=None,
        seed=100 + where.member,
        age=(age, age + STEPS if ended else None),
        consumed=(STEPS * where.index, STEPS * (where.index + 1) if ended else None),
        score=None,
        status=status,
    )


# --- random histories


@st.composite
def lineages(draw, max_segments=24):
    """A lineage of up to 5 members: own, copied and fresh starts in any order, and last segments that did not end."""
    members = draw(st.integers(1, 5))
    turns = st.tuples(
        st.integers(0, members - 1), st.sampled_from(["own", "own", "copied", "fresh"]), st.integers(0, 99)
    )
    found = {}
    counts = [0] * members
    for member, start, choice in draw(st.lists(turns, min_size=1, max_size=max_segments)):
        before = f"{member}:{counts[member] - 1}" if counts[member] else None
        donors = [name for name in found if not name.startswith(f"{member}:")]
        parent = donors[choice % len(donors)] if start == "copied" and donors else before if start == "own" else None
        name = f"{member}:{counts[member]}"
        found[name] = segment(name, parent, age=found[parent].age[1] if parent else 0)
        counts[member] += 1
    parents = {one.parent for one in found.values()}
    for member, count in enumerate(counts):
        name = f"{member}:{count - 1}"
        if name in found and key(name) not in parents:
            one = found[name]
            status = draw(st.sampled_from(["ended", "ended", "running", "failed"]))
            found[name] = segment(name, one.parent and f"{one.parent.member}:{one.parent.index}", one.age[0], status)
    return Lineage(found.values())


def ended(lineage):
    return sorted(key for key, one in lineage.segments.items() if one.status == "ended")


def digest(key):
    return f"digest of {key.member}:{key.index}"


@st.composite
def losses(draw):
    """What `plan` is told: a lineage, where its segments were trained, what is saved, what is lost and wanted."""
    lineage = draw(lineages())
    num_stacks = draw(st.integers(1, 3))
    layout = lay_out(max(num_stacks, draw(st.integers(1, 5))), num_stacks)
    homes = {one: draw(st.sampled_from(layout)) for one in sorted(lineage.segments)}
    stacks = draw(st.sets(st.sampled_from(range(num_stacks)), min_size=1))
    slots = [slot for slot in layout if slot.stack in stacks]
    known = ended(lineage)
    some = st.sets(st.sampled_from(known)) if known else st.just(set())
    targets = draw(st.dictionaries(st.sampled_from(slots), st.sampled_from(known))) if known else {}
    extra = draw(some)
    saved = {one: digest(one) for one in draw(some)}
    return {
        "lineage": lineage,
        "homes": homes,
        "targets": targets,
        "extra": extra,
        "slots": draw(st.permutations(slots)),
        "saved": saved,
    }


# --- an abstract machine


def truth(lineage, key):
    """The state at the end of a segment, as the list of what was done to it."""
    path = [one.key for one in lineage.path(key)]
    return [f"fresh {path[0].member}", *path]


@dataclass
class Machine:
    """Slots that hold symbolic states, and an exchange. Refuses what a stack could not do."""

    lineage: Lineage
    slots: dict
    published: dict

    def load(self, key, found):
        assert digest(key) == found
        self.published[key] = truth(self.lineage, key)

    def carry_out(self, wave):
        """All stacks publish before any of them changes anything."""
        for stack, part in wave.items():
            for slot, key in part.publish:
                assert slot.stack == stack
                assert key not in self.published, f"{key} is published twice"
                self.published[key] = self.slots[slot]
        for stack, part in wave.items():
            used = [step.slot for step in part.steps]
            assert len(set(used)) == len(used), "a slot is double-booked"
            assert {slot.stack for slot in used} <= {stack}
            for step in part.steps:
                self.train(step)
            for slot, key in part.place:
                assert slot.stack == stack
                self.slots[slot] = self.published[key]

    def train(self, step):
        fresh = [f"fresh {step.key.member}"]
        assert (step.source is None) == (self.lineage.segments[step.key].start == "fresh")
        assert step.slot in self.slots
        self.slots[step.slot] = [*(fresh if step.source is None else self.published[step.source]), step.key]


def carried_out(told, recovery):
    """The machine after a recovery."""
    machine = Machine(told["lineage"], {slot: ["rubbish"] for slot in told["slots"]}, {})
    for one, found in recovery.loads:
        machine.load(one, found)
    for wave, drops in zip(recovery.waves, recovery.drops, strict=True):
        machine.carry_out(wave)
        for one in drops:
            del machine.published[one]
    return machine


@examples(150)
@given(losses())
def test_all_that_is_wanted_is_there_at_the_end(told):
    """Each target in its slot, the extra states and no others published; every read on the way found its state."""
    machine = carried_out(told, plan(**told))
    assert {slot: truth(told["lineage"], one) for slot, one in told["targets"].items()} == {
        slot: machine.slots[slot] for slot in told["targets"]
    }
    assert {one: truth(told["lineage"], one) for one in told["extra"]} == machine.published


def needed(told):
    """Segments to train and checkpoints to load, found the slow way: by asking of each what it needs."""
    train, load = set(), set()

    def need(one):
        if one in told["saved"]:
            load.add(one)
            return
        train.add(one)
        if parent := told["lineage"].segments[one].parent:
            need(parent)

    for one in {*told["targets"].values(), *told["extra"]}:
        need(one)
    return train, load


@examples(150)
@given(losses())
def test_nothing_is_done_that_need_not_be(told):
    """No segment is trained twice, or where a checkpoint makes it needless; no checkpoint is loaded for nothing."""
    recovery = plan(**told)
    train, load = needed(told)
    assert sorted(train) == sorted(recovery.trained)
    assert sorted(load) == [one for one, _ in recovery.loads]
    assert sorted((train | load) - told["extra"]) == list(recovery.tokens)


@examples(150)
@given(losses())
def test_segments_are_trained_where_they_were(told):
    """In their own stack if it is there, and in their own slot unless another has it in that wave."""
    stacks = {slot.stack for slot in told["slots"]}
    for wave in plan(**told).waves:
        steps = [step for part in wave.values() for step in part.steps]
        used = {step.slot for step in steps}
        for step in steps:
            home = told["homes"][step.key]
            if home.stack in stacks:
                assert home.stack == step.slot.stack
                assert home == step.slot or home in used


@examples(150)
@given(losses())
def test_nothing_waits_without_need(told):
    """A segment that is not trained as soon as its source is there finds every slot it may use taken until then."""
    recovery = plan(**told)
    stacks = {slot.stack for slot in told["slots"]}
    when = {}
    for number, wave in enumerate(recovery.waves):
        for step in (step for part in wave.values() for step in part.steps):
            home = told["homes"][step.key].stack
            mine = {slot for slot in told["slots"] if home not in stacks or slot.stack == home}
            for earlier in recovery.waves[when.get(step.source, -1) + 1 : number]:
                assert mine <= {other.slot for part in earlier.values() for other in part.steps}
            when[step.key] = number


@examples(100)
@given(losses())
def test_the_shape_of_a_plan(told):
    """Every stack is in every wave; a wave publishes what the one before has trained; only the last places."""
    recovery = plan(**told)
    *earlier, last = recovery.waves
    before = []
    for wave in recovery.waves:
        assert {slot.stack for slot in told["slots"]} == set(wave)
        assert before == sorted(entry for part in wave.values() for entry in part.publish)
        before = sorted((step.slot, step.key) for part in wave.values() for step in part.steps)
    assert before == []
    assert all(any(part.steps for part in wave.values()) for wave in earlier)
    assert [] == [entry for wave in earlier for part in wave.values() for entry in part.place]
    assert sorted(told["targets"].items()) == sorted(entry for part in last.values() for entry in part.place)


@examples(100)
@given(losses(), st.randoms(use_true_random=False))
def test_a_plan_depends_on_what_it_is_told_alone(told, random):
    """Not on the order in which it is told."""
    shuffled = dict(told)
    for name in ("homes", "targets", "saved"):
        entries = list(told[name].items())
        random.shuffle(entries)
        shuffled[name] = dict(entries)
    slots = list(told["slots"])
    random.shuffle(slots)
    segments = list(told["lineage"].segments.values())
    random.shuffle(segments)
    assert plan(**told) == plan(**shuffled | {"slots": slots, "lineage": Lineage(segments)})


# --- examples

#: Two stacks of two: members 0 and 1, and 2 and 3. Member 1 copies 0 after the first generation, 2 copies 1 after the
#: second; member 3 fails in the second, and 0 is under way in its fourth.
HISTORY = Lineage(
    [
        segment("0:0"),
        segment("0:1", "0:0", 10),
        segment("0:2", "0:1", 20),
        segment("0:3", "0:2", 30, status="running"),
        segment("1:0"),
        segment("1:1", "0:0", 10),
        segment("1:2", "1:1", 20),
        segment("2:0"),
        segment("2:1", "2:0", 10),
        segment("2:2", "1:1", 20),
        segment("3:0"),
        segment("3:1", "3:0", 10, status="failed"),
    ]
)
SLOTS = lay_out(4, 2)
A, B, C, D = SLOTS
HOMES = {one: SLOTS[one.member] for one in HISTORY.segments}
ALL = {A: key("0:2"), B: key("1:2"), C: key("2:2")}


def planned(targets=ALL, extra="", slots=SLOTS, saved="", lineage=HISTORY):
    return plan(
        lineage=lineage,
        homes=HOMES,
        targets=targets,
        extra=set(keys(extra)),
        slots=slots,
        saved={one: digest(one) for one in keys(saved)},
    )


def story(recovery):
    """For each wave the segments trained, and where: `0:1@0.0`."""
    return [
        " ".join(
            f"{step.key.member}:{step.key.index}@{step.slot.stack}.{step.slot.index}"
            for part in wave.values()
            for step in part.steps
        )
        for wave in recovery.waves
    ]


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ("", ["0:0@0.0", "0:1@0.0 1:1@0.1", "0:2@0.0 1:2@0.1 2:2@1.0", ""]),
        ("0:0", ["0:1@0.0 1:1@0.1", "0:2@0.0 1:2@0.1 2:2@1.0", ""]),
        ("1:1", ["0:0@0.0 1:2@0.1 2:2@1.0", "0:1@0.0", "0:2@0.0", ""]),
        ("0:1 1:1 1:2", ["0:2@0.0 2:2@1.0", ""]),
        ("0:2 1:2 2:2", [""]),
        ("3:0 2:1 1:0", ["0:0@0.0", "0:1@0.0 1:1@0.1", "0:2@0.0 1:2@0.1 2:2@1.0", ""]),
    ],
)
def test_a_sweep_taken_up_again(saved, expected):
    """All stacks are lost: each ancestry is trained again from the newest checkpoint in it, what is shared once."""
    assert expected == story(planned(saved=saved))


def test_a_host_lost_alone():
    """One stack is lost: its member's donors, whose stack goes on with something else, are trained again in it."""
    recovery = planned(targets={C: key("2:2")}, slots=(C, D))
    assert ["0:0@1.0", "1:1@1.0", "2:2@1.0", ""] == story(recovery)


def test_nothing_to_train():
    """There is still a wave, which puts the checkpoints where they are wanted, or does nothing at all."""
    two = key("2:2")
    assert Recovery(loads=((two, digest(two)),), waves=({1: Wave(place=((C, two),))},), drops=((two,),)) == planned(
        targets={C: two}, slots=(C, D), saved="2:2 1:1"
    )
    nothing = Recovery(loads=(), waves=({1: Wave()},), drops=((),))
    assert nothing == planned(targets={}, slots=(C, D))
    assert (nothing.tokens, nothing.trained) == ((), ())


def test_states_for_orders_to_come():
    """A state wanted under its token is published in the wave after it was trained, and not dropped."""
    one, two, three = keys("0:0 0:1 0:2")
    expected = Recovery(
        loads=((one, digest(one)),),
        waves=(
            {0: Wave(steps=(Step(two, A, one),))},
            {0: Wave(publish=((A, two),), steps=(Step(three, A, two),))},
            {0: Wave(publish=((A, three),), place=((A, three),))},
        ),
        drops=((), (), (three,)),
    )
    assert expected == planned(targets={A: three}, extra="0:0 0:1", slots=(A, B), saved="0:0")


def test_states_are_dropped_when_read_for_the_last_time():
    """However long the way, no more is held than is still to be read."""
    chain = Lineage([segment("0:0"), *(segment(f"0:{i}", f"0:{i - 1}", 10 * i) for i in range(1, 300))])
    recovery = plan(
        lineage=chain,
        homes=dict.fromkeys(chain.segments, A),
        targets={A: key("0:299")},
        extra=set(),
        slots=[A],
        saved={},
    )
    assert [(), *((SegmentKey(0, i),) for i in range(300))] == list(recovery.drops)


def test_the_longest_way_is_begun_first():
    """Two slots, three ancestries: the one of two segments waits for none of the others."""
    lineage = Lineage([segment("0:0"), segment("1:0"), segment("2:0"), segment("2:1", "2:0", 10)])
    recovery = plan(
        lineage=lineage,
        homes=dict.fromkeys(lineage.segments, A),
        targets={},
        extra=set(keys("0:0 1:0 2:1")),
        slots=[A, B],
        saved={},
    )
    assert ["2:0@0.0 0:0@0.1", "1:0@0.0 2:1@0.1", ""] == story(recovery)


@pytest.mark.parametrize("slots", [(A, B, C, D), (D, C, B, A)], ids=["in order", "reversed"])
def test_segments_whose_stack_goes_on_are_spread(slots):
    """Over the stacks at disposal, evenly, the first of them first, however they are listed."""
    lineage = Lineage([segment(f"{member}:0") for member in range(5)])
    recovery = plan(
        lineage=lineage,
        homes=dict.fromkeys(lineage.segments, Slot(7, 1)),
        targets={},
        extra=set(lineage.segments),
        slots=slots,
        saved={},
    )
    assert ["0:0@0.0 2:0@0.1 1:0@1.0 3:0@1.1", "4:0@0.0", ""] == story(recovery)


@pytest.mark.parametrize("name", ["0:3", "3:1"])
@pytest.mark.parametrize("where", ["targets", "extra"])
def test_a_segment_that_did_not_end_well_has_no_state(name, where):
    """Neither one under way nor one that failed."""
    wanted = {"targets": {A: key(name)}} if where == "targets" else {"extra": name}
    with pytest.raises(ValueError, match="has not ended well: there is no state of its end"):
        planned(**wanted)


def test_slots_that_are_not_there():
    """A state is wanted in one, or there is none to train in; without training none is needed."""
    with pytest.raises(ValueError, match=r"^Slot\(stack=1, index=0\) is not at disposal$"):
        planned(slots=(A, B))
    with pytest.raises(ValueError, match="no slot at disposal to train 2 segments in"):
        planned(targets={}, extra="1:1", slots=())
    assert Recovery(loads=((key("1:1"), digest(key("1:1"))),), waves=({},), drops=((),)) == planned(
        targets={}, extra="1:1", slots=(), saved="1:1"
    )


# --- on real stacks


class Stacks:
    """Does to stacks what the work orders of a wave do to them."""

    def __init__(self):
        trainable = Quadratic()
        self.stacks = [trainable.build(trainable.bucket({}), 2, Place(compile="never")) for _ in range(2)]
        self.published = {}

    def admit(self, slot, one, source, consumed):
        state = self.published[source] if source else None
        self.stacks[slot.stack].admit(slot.index, one.hparams, one.seed, state, consumed)

    def carry_out(self, wave):
        for stack, part in wave.items():
            for slot, key in part.publish:
                self.published[key] = self.stacks[stack].state(slot.index)
        for stack, part in wave.items():
            until = [0, 0]
            for step in part.steps:
                one = HISTORY.segments[step.key]
                self.admit(step.slot, one, step.source, one.consumed[0])
                until[step.slot.index] = one.consumed[1]
            if part.steps:
                self.stacks[stack].run(until)
            for slot, key in part.place:
                one = HISTORY.segments[key]
                self.admit(slot, one, key, one.consumed[1])


@pytest.fixture(scope="module")
def undisturbed():
    """The end states of all segments, as they were when nothing was lost: trained generation by generation."""
    stacks = Stacks()
    for generation in range(3):
        now = [one for one in HISTORY.segments.values() if one.generation == generation and one.status == "ended"]
        steps = [Step(one.key, HOMES[one.key], one.parent) for one in now]
        wave = {stack: Wave(steps=tuple(step for step in steps if step.slot.stack == stack)) for stack in range(2)}
        stacks.carry_out(wave)
        for one in now:
            home = HOMES[one.key]
            stacks.published[one.key] = stacks.stacks[home.stack].state(home.index)
    return stacks.published


@pytest.mark.parametrize("saved", ["", "0:0", "1:1", "0:1 1:1", "0:2 2:2"])
@pytest.mark.parametrize("stack", [None, 0, 1])
def test_what_is_trained_again_is_the_same_bit_for_bit(undisturbed, saved, stack):
    """Weights, optimizer state, age, counter and seed of every member, whatever was saved, whichever stack was lost."""
    slots = [slot for slot in SLOTS if stack in (None, slot.stack)]
    targets = {slot: one for slot, one in ALL.items() if slot in slots}
    recovery = planned(targets=targets, extra="1:1", slots=slots, saved=saved)
    stacks = Stacks()
    stacks.published = {one: undisturbed[one] for one, _ in recovery.loads}
    for wave in recovery.waves:
        stacks.carry_out(wave)
    for slot, one in targets.items():
        assert_same(undisturbed[one], stacks.stacks[slot.stack].state(slot.index))
    assert_same(undisturbed[key("1:1")], stacks.published[key("1:1")])
