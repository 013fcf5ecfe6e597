"""A recovery as work orders: waves, in order, that end with every state where it is wanted."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import HostError
from pbt.member import SegmentKey, Slot
from pbt.population import PBT
from pbt.record.ledger import LedgerReader
from pbt.runtime.exchange import LocalExchange
from pbt.runtime.orders import Admit, Fetch, Publish, SegmentResult, Train, WorkOrder, carry_out, publish
from pbt.runtime.rescue import Rescue
from pbt.runtime.saving import key_of, token_of
from tests.examples import examples
from tests.runtime.miniature import ClearStack, make_state
from tests.runtime.stage import Stage, new_run

pytestmark = pytest.mark.usefixtures("no_sync")


def rows(*segments):
    """Rows of segments of ten steps: `(member, segment, parent, slot, gain)`."""
    decided, ended = [], []
    ages = {None: 0}
    for member, segment, parent, slot, gain in segments:
        start = "fresh" if parent is None else "own" if parent[0] == member else "copied"
        parent_member, parent_segment = parent or (None, None)
        ages[member, segment] = ages[parent] + 10
        decided.append(
            {
                "member": member,
                "segment": segment,
                "generation": segment,
                "start": start,
                "parent_member": parent_member,
                "parent_segment": parent_segment,
                "hparams": f'{{"gain":{gain},"lr":0.5}}',
                "seed": 100 + member,
                "stack": slot.stack,
                "slot": slot.index,
                "age_start": ages[parent],
                "consumed_start": 10 * segment,
                "at": float(len(decided)),
            }
        )
        ended.append(
            {
                "member": member,
                "segment": segment,
                "status": "ended",
                "hparams_in_effect": f'{{"gain":{gain},"lr":0.5}}',
                "age_end": ages[member, segment],
                "consumed_end": 10 * (segment + 1),
                "score": 0.25,
            }
        )
    return {"segments": decided, "outcomes": ended}


A, B = Slot(0, 0), Slot(1, 0)
#: Two members on two stacks; the second one goes on from the first one's weights.
TWO = rows((0, 0, None, A, 1.0), (1, 0, None, B, 2.0), (0, 1, (0, 0), A, 1.0), (1, 1, (0, 0), B, 3.0))
TARGETS = {A: SegmentKey(0, 1), B: SegmentKey(1, 1)}


def hparams(gain):
    return {"gain": gain, "lr": 0.5}


def nothing():
    return {"publish": (), "fetch": (), "admit": (), "renew": (), "train": ()}


def test_from_nothing():
    """The shared ancestor is trained first, where it was; then what goes on from it; then all is placed."""
    rescue = Rescue(TWO, TARGETS, frozenset(), [A, B], {})
    assert (frozenset({0, 1}), (), False) == (rescue.stacks, rescue.loads, rescue.done)
    assert "3 segments trained again" == rescue.story

    first = nothing() | {"admit": (Admit(0, hparams(1.0), 100, 0),), "train": (Train(0, 0, 0, 10, hparams(1.0)),)}
    assert (first, nothing()) == (rescue.order(0), rescue.order(1))
    assert ((), ()) == (rescue.reported(1), rescue.reported(0))

    second = [
        nothing()
        | {
            "publish": (Publish(0, "0:0"),),
            "fetch": (Fetch(0, "0:0", hparams(1.0), 100, 10),),
            "train": (Train(0, 0, 1, 20, hparams(1.0)),),
        },
        nothing()
        | {
            "fetch": (Fetch(0, "0:0", hparams(3.0), 101, 10),),
            "train": (Train(0, 1, 1, 20, hparams(3.0)),),
        },
    ]
    assert second == [rescue.order(0), rescue.order(1)]
    assert ((), (SegmentKey(0, 0),)) == (rescue.reported(0), rescue.reported(1))

    third = [
        nothing() | {"publish": (Publish(0, "0:1"),), "fetch": (Fetch(0, "0:1", hparams(1.0), 100, 20),)},
        nothing() | {"publish": (Publish(0, "1:1"),), "fetch": (Fetch(0, "1:1", hparams(3.0), 101, 20),)},
    ]
    assert third == [rescue.order(0), rescue.order(1)]
    assert () == rescue.reported(0)
    assert not rescue.done
    assert (SegmentKey(0, 1), SegmentKey(1, 1)) == rescue.reported(1)
    assert rescue.done


def test_from_checkpoints():
    """What is saved is loaded, and nothing before it is trained."""
    rescue = Rescue(TWO, TARGETS, frozenset(), [A, B], {SegmentKey(0, 1): "ab", SegmentKey(1, 1): "cd"})
    assert ((SegmentKey(0, 1), "ab"), (SegmentKey(1, 1), "cd")) == rescue.loads
    assert "2 states loaded from checkpoints" == rescue.story
    place = nothing() | {"fetch": (Fetch(0, "0:1", hparams(1.0), 100, 20),)}
    assert place == rescue.order(0)
    assert set(rescue.tokens) == {SegmentKey(0, 1), SegmentKey(1, 1)}


def test_a_stack_waits_for_the_others_before_the_next_wave():
    """It is given nothing twice, and nothing too early."""
    rescue = Rescue(TWO, TARGETS, frozenset(), [A, B], {})
    rescue.reported(0)
    assert rescue.order(0) is None
    assert rescue.order(1) is not None
    rescue.reported(1)
    assert rescue.order(0) is not None
    assert rescue.order(2) is None


def test_a_state_that_is_wanted_for_others_is_published_and_kept():
    """For orders that will fetch it: the recovery does not drop it."""
    rescue = Rescue(TWO, {B: SegmentKey(1, 1)}, frozenset({SegmentKey(1, 0)}), [B], {SegmentKey(0, 0): "ab"})
    dropped, published = [], set()
    while not rescue.done:
        published |= {item.token for item in rescue.order(1)["publish"]}
        dropped += rescue.reported(1)
    assert "1:0" in published
    assert SegmentKey(1, 0) not in dropped
    assert SegmentKey(1, 0) not in rescue.tokens


# --- what comes out


def result(score=0.25, **changes):
    found = SegmentResult(member=1, segment=1, age=20, consumed=20, held=hparams(3.0), evaluation={"Q": score})
    return dataclasses.replace(found, **changes)


def rescue_of(score):
    changed = TWO | {"outcomes": [row | {"score": score} for row in TWO["outcomes"]]}
    return Rescue(changed, TARGETS, frozenset(), [A, B], {})


@pytest.mark.parametrize("score", [0.25, math.nan, -0.0])
def test_the_same_again_is_no_news(score):
    """NaN included."""
    assert rescue_of(score).difference(result(), score) is None


@pytest.mark.parametrize(
    ("was", "now"), [(0.25, math.nextafter(0.25, 1)), (0.25, math.nan), (math.nan, 0.25), (None, 0.25)], ids=str
)
def test_another_score_is_told(was, now):
    """By however little: the machine does not compute the same bits."""
    problem = rescue_of(was).difference(result(now), now)
    known = math.nan if was is None else was
    wanted = f"trained again, it scored {now!r} instead of {known!r}: this machine does not compute the same bits"
    assert wanted == problem


def test_what_does_not_train_again_is_no_state_to_go_on_from():
    """What trained before fails now, or stops elsewhere: the sweep ends with the mend."""
    with pytest.raises(HostError, match=r"could not be trained again: it broke. Resume the sweep with the versions"):
        rescue_of(0.25).check(result(failure="it broke"), is_limited=True)
    with pytest.raises(HostError, match=r"it ended after 15 steps instead of 20. Resume the sweep with the versions"):
        rescue_of(0.25).check(result(consumed=15), is_limited=False)


def test_training_again_ends_with_the_budget():
    """A segment that a limit on time cut short is no state to go on from: more time is asked for."""
    with pytest.raises(HostError, match=r"time is used up before .* `pbt extend RUN --wall-minutes N`"):
        rescue_of(0.25).check(result(consumed=15), is_limited=True)
    rescue_of(0.25).check(result(), is_limited=True)


def test_what_is_left_of_a_recovery():
    """For people, when it is stopped: all its segments, as none is saved; nothing, where states are only loaded."""
    rescue = Rescue(TWO, TARGETS, frozenset(), [A, B], {})
    for stack in (0, 1):
        rescue.reported(stack)
    assert "stopped before all that was lost was back; still to be trained again: 3 segments" == rescue.rest
    saved = dict.fromkeys([*TARGETS.values()], "0" * 64)
    assert Rescue(TWO, TARGETS, frozenset(), [A, B], saved).rest is None


# --- whole recoveries


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The rows of a sweep of six members on three stacks, with many exploits."""
    stage = Stage(new_run(tmp_path_factory.mktemp("runs")), PBT(quantile=0.5), members=6, stacks=3, generations=4)
    stage.play()
    return LedgerReader(stage.run).rows(("segments", "outcomes"))


@examples(80)
@given(data=st.data())
def test_every_state_is_brought_back(played, data):
    """Whatever is saved and whatever is lost: each slot holds what it is to hold, and no state is left over."""
    ended = {SegmentKey(row["member"], row["segment"]): row for row in played["outcomes"]}
    homes = {
        SegmentKey(row["member"], row["segment"]): (Slot(row["stack"], row["slot"]), row) for row in played["segments"]
    }
    stacks = data.draw(st.sets(st.sampled_from([0, 1, 2]), min_size=1))
    at = data.draw(st.integers(0, 3))
    targets = {homes[key][0]: key for key in homes if key.index == at and homes[key][0].stack in stacks}
    extra = data.draw(st.frozensets(st.sampled_from(sorted(key for key in homes if key.index <= at)), max_size=2))
    saved = data.draw(st.sets(st.sampled_from(sorted(homes))))
    slots = sorted(slot for slot in {slot for slot, _ in homes.values()} if slot.stack in stacks)
    rescue = Rescue(played, targets, extra, slots, {key: token_of(key) for key in saved})

    exchange, built = LocalExchange(), {stack: ClearStack(2) for stack in stacks}
    for key, digest in rescue.loads:
        row = ended[key_of(digest)]
        exchange.publish(token_of(key), make_state(row["score"], row["age_end"], row["consumed_end"], 0))
    while not rescue.done:
        orders = [
            WorkOrder(id="o", stack=stack, split="validation", **parts)
            for stack in sorted(stacks)
            if (parts := rescue.order(stack)) is not None
        ]
        for order in orders:
            publish(built[order.stack], order, exchange)
        for order in orders:
            assert all(item.token in exchange for item in order.fetch)
            for found in carry_out(built[order.stack], order, exchange).segments:
                assert rescue.difference(found, found.evaluation["Q"]) is None
            for key in rescue.reported(order.stack):
                exchange.drop(token_of(key))
    for slot, key in targets.items():
        seat, row = built[slot.stack].seats[slot.index], ended[key]
        assert (row["score"], row["age_end"], row["consumed_end"]) == (seat.weight, seat.age, seat.consumed)
        assert homes[key][1]["seed"] == seat.seed
    assert {token_of(key) for key in extra} == {token_of(key) for key in homes if token_of(key) in exchange}
