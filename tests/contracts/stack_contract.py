"""What every trainable keeps, as one suite to inherit.

A trainable's test module subclasses `StackContract`, gives a small `trainable` fixture and says in `CHANGES` how to
change each live hyperparameter so that it matters::

    class TestMine(StackContract):
        CHANGES = {"lr": Change(to=0.1), ...}

        @pytest.fixture
        def trainable(self):
            return Mine(width=8)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.contracts.states import assert_close, assert_same, assert_weights, finite, same
from trainables import shrink_and_perturb
from trainables.base import HparamValue, Lending, Place, Stack, State, Trainable, TrainableError

CAPACITY = 3
SEEDS = (11, 12, 13)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of one live hyperparameter that must show in the next step.

    Attributes:
        to: The new value.
        given: Hyperparameters before the change, where the sample's would hide it.
        age: Steps trained before the change.
    """

    to: HparamValue
    given: Mapping[str, HparamValue] = field(default_factory=dict)
    age: int = 3


class StackContract:
    """The suite. Members 0, 1, 2 differ in seed and hyperparameters; member i begins in slot i."""

    #: By live hyperparameter name.
    CHANGES: ClassVar[Mapping[str, Change]]
    #: One dict of hyperparameters per member.
    SAMPLES: ClassVar[tuple[Mapping[str, HparamValue], ...]]
    #: Whether training, validation and test data differ.
    SPLITS_DIFFER: ClassVar[bool] = True
    #: A metric that `run` reports.
    TRAINING: ClassVar[str] = "loss"
    #: Part of the names of tensors that a float32 step fills with rounding; None if there are none.
    ROUNDING: ClassVar[str | None] = None

    @pytest.fixture
    def trainable(self) -> Trainable:
        raise NotImplementedError("give a small trainable")

    @pytest.fixture
    def place(self) -> Place:
        return Place(compile="never")

    @pytest.fixture
    def exact(self, place: Place) -> Place:
        return replace(place, dtype="float64")

    @pytest.fixture
    def stack(self, trainable: Trainable, place: Place) -> Stack:
        """Three members, fresh."""
        return self._stack(trainable, place)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "changed" in metafunc.fixturenames:
            metafunc.parametrize("changed", sorted(self.CHANGES))

    # --- description

    def test_is_a_trainable(self, trainable, stack):
        """A trainable and its stacks satisfy the protocols."""
        assert isinstance(trainable, Trainable)
        assert isinstance(stack, Stack)

    def test_the_suite_covers_every_live_hparam(self, trainable):
        """No live hyperparameter escapes the test that it is in effect."""
        specs = trainable.describe().hparams
        assert {name for name, spec in specs.items() if spec.kind == "live"} == set(self.CHANGES)

    def test_evaluate_reports_what_is_described(self, trainable, stack):
        """`evaluate` reports exactly the described metrics, on every described split."""
        described = trainable.describe()
        for split in described.splits:
            assert set(stack.evaluate(split, [0])) == set(described.metrics)

    def test_another_bucket_is_refused(self, trainable, place):
        """A bucket the trainable did not name is refused."""
        with pytest.raises(TrainableError, match="no-such-bucket"):
            trainable.build("no-such-bucket", 1, place)

    @pytest.mark.parametrize("capacity", [0, -1])
    def test_no_capacity_is_refused(self, trainable, place, capacity):
        """A stack has at least one slot."""
        with pytest.raises(TrainableError, match="capacity"):
            trainable.build(trainable.bucket({}), capacity, place)

    # --- members do not depend on where they are

    def test_a_slot_does_not_matter(self, trainable, exact):
        """A member trains the same in whatever slot it sits (float64, to rounding)."""
        straight = self._stack(trainable, exact)
        turned = self._stack(trainable, exact, order=(2, 0, 1))
        for stack in (straight, turned):
            stack.run([10] * CAPACITY)
        for slot, member in enumerate((2, 0, 1)):
            assert_close(straight.state(member), turned.state(slot), 1e-12)

    def test_initial_weights_depend_on_the_seed_alone(self, trainable, place):
        """A fresh member's weights are the same bits in any slot at any capacity."""
        single, wide = (self._empty(trainable, place, capacity) for capacity in (1, 5))
        single.admit(0, {}, seed=7)
        wide.admit(4, {}, seed=7)
        assert_same(single.state(0), wide.state(4))

    @pytest.mark.parametrize("steps", [40, pytest.param(100, marks=pytest.mark.full)])
    def test_stacked_equals_one_at_a_time(self, trainable, exact, steps):
        """Three members stacked are what each would be alone, for 100 steps in the long suite (float64, 1e-9)."""
        stacked = self._stack(trainable, exact)
        stacked.run([steps] * CAPACITY)
        for member in range(CAPACITY):
            alone = self._empty(trainable, exact, 1)
            self._admit(alone, 0, member)
            alone.run([steps])
            assert_close(alone.state(0), stacked.state(member), 1e-9)

    def test_one_float32_step_stacked_equals_one_alone(self, trainable, place):
        """From one state, a float32 step is the same stacked and alone, to 1e-5 of each tensor's norm."""
        stacked = self._stack(trainable, place)
        stacked.run([20] * CAPACITY)
        states = [stacked.state(member) for member in range(CAPACITY)]
        stacked.run([21] * CAPACITY)
        for member, state in enumerate(states):
            alone = self._empty(trainable, place, 1)
            self._admit(alone, 0, member, state)
            alone.run([21])
            assert_close(alone.state(0), stacked.state(member), 1e-5, but=self.ROUNDING)

    # --- members do not touch each other

    def test_a_diverging_member_touches_no_other(self, trainable, place):
        """One member's learning rate of 1e30 leaves the others bit for bit as they were."""
        calm, wild = self._stack(trainable, place), self._stack(trainable, place)
        wild.set_hparams([1], lr=[1e30])
        metrics = [stack.run([8] * CAPACITY) for stack in (calm, wild)]
        for slot in (0, 2):
            assert_same(calm.state(slot), wild.state(slot))
            assert [m[slot] for m in metrics[0].values()] == [m[slot] for m in metrics[1].values()]
        assert not finite(wild.state(1))

    def test_nan_weights_touch_no_other(self, trainable, place):
        """A member admitted with NaN weights leaves the others bit for bit as they were, in evaluation too."""
        calm, poisoned = self._stack(trainable, place), self._stack(trainable, place)
        nan = poisoned.state(1)
        for shard in nan.shards:
            if shard.tensor.is_floating_point():
                shard.tensor.fill_(torch.nan)
        self._admit(poisoned, 1, 1, nan)
        for stack in (calm, poisoned):
            stack.run([4] * CAPACITY)
        scores = [stack.evaluate("validation", [0, 1, 2]) for stack in (calm, poisoned)]
        for slot in (0, 2):
            assert_same(calm.state(slot), poisoned.state(slot))
            assert all(scores[0][name][slot] == scores[1][name][slot] for name in scores[0])
        assert not finite(poisoned.state(1))

    def test_empty_slots_touch_no_member(self, trainable, place):
        """A member trains the same bits beside empty slots as beside members, before and after an eviction."""
        full, sparse = self._stack(trainable, place), self._empty(trainable, place, CAPACITY)
        self._admit(sparse, 1, 1)
        for stack in (full, sparse):
            stack.run([5] * CAPACITY)
        full.evict(0)
        for stack in (full, sparse):
            metrics = stack.run([9] * CAPACITY)
            assert np.isnan(metrics[self.TRAINING][0])
            assert np.isfinite(metrics[self.TRAINING][1])
        assert_same(full.state(1), sparse.state(1))

    # --- going on elsewhere

    def test_run_in_pieces_equals_run_at_once(self, trainable, place):
        """Where a run is interrupted leaves no trace."""
        whole, pieces = self._stack(trainable, place), self._stack(trainable, place)
        whole.run([9] * CAPACITY)
        for until in (1, 2, 6, 9):
            pieces.run([until] * CAPACITY)
        for slot in range(CAPACITY):
            assert_same(whole.state(slot), pieces.state(slot))

    def test_evict_and_admit_is_exact(self, trainable, place):
        """An evicted member goes on in another stack, bit for bit as if it had stayed."""
        stayed, left = self._stack(trainable, place), self._stack(trainable, place)
        for stack in (stayed, left):
            stack.run([4] * CAPACITY)
        arrived = self._stack(trainable, place)
        self._admit(arrived, 1, 1, left.evict(1))
        assert arrived.progress(1) == (4, 4)
        for stack in (stayed, arrived):
            stack.run([9] * CAPACITY)
        assert_same(stayed.state(1), arrived.state(1))

    def test_evict_frees_the_slot(self, stack):
        """After `evict` the slot holds no member, and can hold another, exactly as a new stack would."""
        fresh = stack.state(0)
        stack.run([3] * CAPACITY)
        stack.evict(0)
        for ask in (stack.state, stack.hparams, stack.progress, stack.evict):
            with pytest.raises(TrainableError, match="slot 0 is empty"):
                ask(0)
        self._admit(stack, 0, 0)
        assert_same(fresh, stack.state(0))

    def test_a_state_is_a_copy(self, stack):
        """Training on does not change a state taken before, nor does changing a state change the member."""
        taken, again = stack.state(0), stack.state(0)
        stack.run([3] * CAPACITY)
        assert_same(taken, again)
        trained = stack.state(0)
        for shard in stack.state(0).shards:
            shard.tensor.zero_()
        assert_same(trained, stack.state(0))

    def test_what_is_lent_is_the_state_where_it_lies(self, stack):
        """As `state`, and nothing is copied: asked for again, it lies at the same place."""
        if not isinstance(stack, Lending):
            pytest.skip("this stack copies its states out")
        stack.run([3] * CAPACITY)
        assert_same(stack.state(1), stack.lend(1))
        for once, again in zip(stack.lend(1).shards, stack.lend(1).shards, strict=True):
            assert once.tensor.data_ptr() == again.tensor.data_ptr()

    def test_a_state_is_ready_for_safetensors(self, stack):
        """Shards have distinct plain names and contiguous tensors of the whole global shape."""
        shards = stack.state(1).shards
        assert len({shard.name for shard in shards}) == len(shards)
        for shard in shards:
            assert shard.tensor.is_contiguous()
            assert tuple(shard.tensor.shape) == shard.global_shape
            assert shard.offset == (0,) * len(shard.global_shape)

    def test_a_receiver_of_a_state_keeps_its_own_counter(self, trainable, place, stack):
        """`admit(state, consumed=)` takes over the state's age, not its `consumed`."""
        stack.run([6, 2, 2])
        stack.admit(1, self.SAMPLES[1], SEEDS[1], state=stack.state(0), consumed=2)
        assert stack.progress(1) == (6, 2)

    # --- shrink and perturb

    def test_shrunk_weights_are_between_the_trained_and_fresh_ones(self, trainable, place, stack):
        """The optimizer begins anew, and running statistics; counters, hyperparameters and neighbours stay."""
        stack.run([3] * CAPACITY)
        trained, others = stack.state(1), [stack.state(0), stack.state(2)]
        held = stack.hparams(1)
        shrink_and_perturb(stack, 1, self.SAMPLES[1], keep=0.2, noise=0.1, seed=99)
        fresh = self._stack(trainable, place)
        fresh.admit(1, self.SAMPLES[1], 99)
        found = stack.state(1)
        assert (found.age, found.consumed, found.seed) == (3, 3, SEEDS[1])
        assert stack.hparams(1) == held
        before = {shard.name: shard.tensor for shard in trained.shards}
        for new, mixed in zip(fresh.state(1).shards, found.shards, strict=True):
            wanted = new.tensor
            if new.name.startswith("params."):
                wanted = 0.2 * before[new.name] + 0.1 * new.tensor
            elif new.name.startswith(("buffers.", "counters.", "place.")) and not new.tensor.is_floating_point():
                wanted = before[new.name]
            torch.testing.assert_close(mixed.tensor, wanted, rtol=0, atol=0, equal_nan=True)
        for before, slot in zip(others, (0, 2), strict=True):
            assert_same(before, stack.state(slot))

    def test_weights_that_keep_nothing_are_new_ones(self, trainable, place, stack):
        """Trained on, they go where a new member of that seed's weights would, at its own place in its data."""
        stack.run([3] * CAPACITY)
        shrink_and_perturb(stack, 1, self.SAMPLES[1], keep=0.0, noise=1.0, seed=99)
        fresh = self._stack(trainable, place)
        fresh.admit(1, self.SAMPLES[1], 99)
        for new, mixed in zip(fresh.state(1).shards, stack.state(1).shards, strict=True):
            if new.name.startswith("params."):
                torch.testing.assert_close(mixed.tensor, new.tensor, rtol=0, atol=0)

    @pytest.mark.parametrize(("keep", "noise"), [(-0.1, 0.1), (1.1, 0.1), (0.2, float("nan")), (0.2, 2.0)])
    def test_shares_that_are_none_are_refused(self, stack, keep, noise):
        """And the member stays as it was."""
        before = stack.state(1)
        with pytest.raises(TrainableError, match="give a number from 0 to 1"):
            shrink_and_perturb(stack, 1, self.SAMPLES[1], keep=keep, noise=noise, seed=99)
        assert_same(before, stack.state(1))

    def test_a_state_that_does_not_fit_is_refused(self, stack):
        """A missing tensor or another shape is refused by name, and the member stays as it was."""
        state, before = stack.state(0), stack.state(1)
        short = replace(state, shards=state.shards[1:])
        grown = replace(state.shards[0], tensor=torch.zeros(99, 99))
        for bad in (short, replace(state, shards=(grown, *state.shards[1:]))):
            with pytest.raises(TrainableError, match=state.shards[0].name):
                stack.admit(1, self.SAMPLES[1], 0, state=bad)
        assert_same(before, stack.state(1))

    # --- copy

    def test_copy_then_continue_is_exact(self, trainable, place):
        """A receiver goes on exactly as a member admitted with the donor's state and the receiver's own rest."""
        copied, admitted = self._stack(trainable, place), self._stack(trainable, place)
        for stack in (copied, admitted):
            stack.run([7, 4, 4])
        copied.copy([0], [2])
        donor = admitted.state(0)
        admitted.admit(2, self.SAMPLES[2], SEEDS[2], state=donor, consumed=4)
        for stack in (copied, admitted):
            stack.run([12] * CAPACITY)
        for slot in range(CAPACITY):
            assert_same(copied.state(slot), admitted.state(slot))

    def test_a_receiver_keeps_what_is_its_own(self, stack):
        """Weights, optimizer state and age follow the donor; seed, `consumed` and hyperparameters stay."""
        stack.run([7, 4, 4])
        own = stack.hparams(1)
        donor, receiver = stack.state(0), stack.state(1)
        stack.copy([0], [1])
        assert stack.progress(1) == (7, 4)
        assert stack.hparams(1) == own
        assert_same(replace(donor, seed=receiver.seed, consumed=4), stack.state(1))
        assert_same(donor, stack.state(0))

    def test_copies_read_before_they_write(self, stack):
        """Two members swap, and a chain moves each by one."""
        stack.run([5, 6, 7])
        first = [stack.state(slot) for slot in range(CAPACITY)]
        stack.copy([0, 1], [1, 0])
        assert_weights(first[0], stack.state(1))
        assert_weights(first[1], stack.state(0))
        stack.copy([1, 0, 2], [0, 1, 2])
        stack.copy([0, 1], [1, 2])
        assert_weights(first[0], stack.state(1))
        assert_weights(first[1], stack.state(2))

    @pytest.mark.parametrize(("src", "dst"), [([0, 1], [2, 2]), ([0], [1, 2]), ([0], [3])])
    def test_copies_without_sense_are_refused(self, stack, src, dst):
        """Two sources for one target, lists of unequal length and slots that are not there."""
        with pytest.raises(TrainableError):
            stack.copy(src, dst)

    def test_copy_from_an_empty_slot_is_refused(self, stack):
        """There is nothing to copy from or onto in a slot without a member."""
        stack.evict(1)
        for src, dst in ([1], [0]), ([0], [1]):
            with pytest.raises(TrainableError, match="slot 1 is empty"):
                stack.copy(src, dst)

    # --- run

    def test_finished_slots_stay_frozen(self, stack):
        """A slot at its `until` keeps every bit while the others train on."""
        stack.run([4] * CAPACITY)
        frozen = stack.state(1)
        metrics = stack.run([8, 3, 6])
        assert_same(frozen, stack.state(1))
        assert [stack.progress(slot) for slot in range(CAPACITY)] == [(8, 8), (4, 4), (6, 6)]
        assert all(np.isnan(values[1]) for values in metrics.values())

    def test_each_slot_ends_at_its_own_until(self, trainable, place):
        """Unequal ends in one run equal the same ends reached in single runs."""
        together, apart = self._stack(trainable, place), self._stack(trainable, place)
        metrics = together.run([2, 9, 5])
        for until in ([2, 0, 0], [2, 9, 0], [2, 9, 5]):
            single = apart.run(until)
        for slot in range(CAPACITY):
            assert_same(together.state(slot), apart.state(slot))
        assert all(single[name][2] == metrics[name][2] for name in metrics)

    def test_run_reports_means_over_its_steps(self, stack):
        """Metrics of a run are the means over its steps, float64, one entry a slot."""
        parts = [stack.run([until] * CAPACITY)[self.TRAINING] for until in (1, 2, 3)]
        again = stack.state(0)
        stack.admit(0, self.SAMPLES[0], SEEDS[0])
        whole = stack.run([3, 3, 3])[self.TRAINING]
        assert_same(again, stack.state(0))
        assert whole.shape == (CAPACITY,)
        assert whole.dtype == np.float64
        assert whole[0] == pytest.approx(np.mean([part[0] for part in parts]), rel=1e-12)

    def test_until_has_one_entry_a_slot(self, stack):
        """A list of another length is refused."""
        with pytest.raises(TrainableError, match="until"):
            stack.run([4, 4])

    # --- hyperparameters

    def test_a_live_hparam_is_in_effect(self, trainable, place, changed):
        """Changed in slot 1, it acts on the next step as in a fresh slot with that value, and nowhere else."""
        change = self.CHANGES[changed]
        before = [{**sample, **change.given} for sample in self.SAMPLES]
        trained = self._given(trainable, place, before)
        trained.run([change.age] * CAPACITY)
        states = [trained.state(slot) for slot in range(CAPACITY)]
        unchanged, altered = (self._given(trainable, place, before, states) for _ in range(2))
        altered.set_hparams([1], **{changed: [change.to]})
        after = [before[0], {**before[1], changed: change.to}, before[2]]
        fresh = self._given(trainable, place, after, states)
        for stack in (unchanged, altered, fresh):
            stack.run([change.age + 1] * CAPACITY)
        assert_same(fresh.state(1), altered.state(1))
        assert not same(unchanged.state(1), altered.state(1))
        for slot in (0, 2):
            assert_same(unchanged.state(slot), altered.state(slot))

    def test_hparams_read_back_exactly(self, trainable, stack, changed):
        """What is read back is what was asked for, value and type, in that slot only."""
        to, others = self.CHANGES[changed].to, [stack.hparams(slot) for slot in (0, 2)]
        stack.set_hparams([1], **{changed: [to]})
        assert stack.hparams(1)[changed] == to
        assert type(stack.hparams(1)[changed]) is type(trainable.describe().hparams[changed].default)
        assert [stack.hparams(slot) for slot in (0, 2)] == others

    def test_hparams_left_out_take_their_defaults(self, trainable, stack):
        """A member admitted with nothing said has every default."""
        stack.admit(0, {}, seed=0)
        specs = trainable.describe().hparams
        assert stack.hparams(0) == {name: spec.default for name, spec in specs.items()}

    def test_numpy_numbers_are_numbers(self, stack):
        """Spaces and strategies speak numpy: its integers and floats are taken as seeds, counters and values."""
        stack.admit(0, {"lr": np.float64(0.5)}, seed=np.int64(-1), consumed=np.int64(3))
        assert stack.hparams(0)["lr"] == 0.5
        assert stack.state(0).seed == -1
        assert stack.progress(0) == (0, 3)

    def test_set_hparams_goes_to_the_slots_named(self, stack):
        """`values[name][i]` goes to `slots[i]`."""
        stack.set_hparams([2, 0], lr=[0.25, 0.5])
        assert (stack.hparams(0)["lr"], stack.hparams(2)["lr"]) == (0.5, 0.25)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast", True, None])
    def test_values_that_are_no_number_are_refused(self, stack, value):
        """A live hyperparameter is a finite number; the message names it."""
        with pytest.raises(TrainableError, match="'lr'"):
            stack.set_hparams([0], lr=[value])

    def test_values_out_of_bounds_are_refused(self, trainable, stack):
        """The described bounds hold, in `admit` and `set_hparams`; nothing changes when one value is refused."""
        before = stack.hparams(0)
        for name, spec in trainable.describe().hparams.items():
            for bound, way in ((spec.low, -1), (spec.high, 1)):
                if bound is None:
                    continue
                bad = type(spec.default)(bound + way)
                with pytest.raises(TrainableError, match=name):
                    stack.set_hparams([0], **{"lr": [0.5], name: [bad]})
                with pytest.raises(TrainableError, match=name):
                    stack.admit(0, {name: bad}, seed=0)
        assert stack.hparams(0) == before

    def test_unknown_and_fixed_hparams_are_refused(self, trainable, stack):
        """A name that is unknown, or known but not live, is refused by name."""
        specs = trainable.describe().hparams
        fixed = [name for name, spec in specs.items() if spec.kind != "live"]
        for name in ["learning_speed", *fixed]:
            with pytest.raises(TrainableError, match=name):
                stack.set_hparams([0], **{name: [1.0]})

    # --- evaluation

    def test_evaluate_changes_nothing(self, trainable, place):
        """Evaluated or not, a member trains on the same bits."""
        evaluated, quiet = self._stack(trainable, place), self._stack(trainable, place)
        for until in (3, 6):
            for stack in (evaluated, quiet):
                stack.run([until] * CAPACITY)
            before = evaluated.state(1)
            evaluated.evaluate("validation", [0, 1, 2])
            assert_same(before, evaluated.state(1))
        for slot in range(CAPACITY):
            assert_same(quiet.state(slot), evaluated.state(slot))

    def test_evaluate_is_the_same_in_any_slot(self, trainable, exact):
        """One state has one score, wherever it sits and whoever is evaluated beside it."""
        stack = self._stack(trainable, exact)
        stack.run([5, 7, 7])
        stack.copy([0], [2])
        together = stack.evaluate("validation", [0, 1, 2])
        alone = stack.evaluate("validation", [2])
        for name, values in together.items():
            assert values[0] == pytest.approx(values[2], rel=1e-12)
            assert alone[name][2] == pytest.approx(values[2], rel=1e-12)
            assert values[0] != values[1]

    def test_evaluate_answers_for_the_slots_asked(self, stack):
        """float64, one entry a slot, NaN where it was not asked."""
        stack.run([1] * CAPACITY)
        stack.evict(0)
        for values in stack.evaluate("validation", [2]).values():
            assert values.shape == (CAPACITY,)
            assert values.dtype == np.float64
            assert np.isnan(values).tolist() == [True, True, False]

    def test_splits_differ(self, stack):
        """Training, validation and test scores are of different data, where there is data."""
        stack.run([5] * CAPACITY)
        scores = [stack.evaluate(split, [0]) for split in ("train", "validation", "test")]
        for name in scores[0]:
            distinct = {values[name][0] for values in scores}
            assert len(distinct) == (3 if self.SPLITS_DIFFER else 1)

    def test_an_unknown_split_is_refused(self, stack):
        """The message names the split and the known ones."""
        with pytest.raises(TrainableError, match=r"holdout.*train, validation, test"):
            stack.evaluate("holdout", [0])

    @pytest.mark.parametrize("slot", [-1, CAPACITY])
    def test_slots_that_are_not_there_are_refused(self, stack, slot):
        """Every method that takes a slot checks it."""
        asks = (
            lambda: stack.admit(slot, {}, 0),
            lambda: stack.evict(slot),
            lambda: stack.evaluate("train", [slot]),
            lambda: stack.set_hparams([slot], lr=[0.1]),
        )
        for ask in asks:
            with pytest.raises(TrainableError, match=f"slot {slot}"):
                ask()

    # --- helpers

    def _empty(self, trainable: Trainable, place: Place, capacity: int) -> Stack:
        return trainable.build(trainable.bucket({}), capacity, place)

    def _admit(self, stack: Stack, slot: int, member: int, state: State | None = None) -> None:
        stack.admit(slot, self.SAMPLES[member], SEEDS[member], state=state)

    def _stack(self, trainable: Trainable, place: Place, order=(0, 1, 2)) -> Stack:
        stack = self._empty(trainable, place, CAPACITY)
        for slot, member in enumerate(order):
            self._admit(stack, slot, member)
        return stack

    def _given(self, trainable, place, hparams, states=(None,) * CAPACITY) -> Stack:
        """Members with these hyperparameters, fresh or from states."""
        stack = self._empty(trainable, place, CAPACITY)
        for slot, (values, seed, state) in enumerate(zip(hparams, SEEDS, states, strict=True)):
            stack.admit(slot, values, seed, state=state)
        return stack
