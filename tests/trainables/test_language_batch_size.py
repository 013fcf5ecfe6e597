"""Members of one stack with batch sizes of their own: the contract, plain torch, buckets, what is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pbt import Sweep
from pbt.errors import SpecError
from searchspaces import Choice, Float, Int
from tests.contracts.states import assert_close, assert_same
from tests.trainables import test_language
from trainables import Language, Place, TrainableError
from trainables.core.batch_size import BATCH_SIZE
from trainables.core.plan import measured
from trainables.core.stack import CoreStack
from trainables.core.step import compiler

TINY = test_language.TINY | {"batch": 8}
EXACT = Place(dtype="float64", compile="never")
SIZES = (8, 5, 7)


class TestContract(test_language.TestContract):
    """The contract of every trainable, with a batch size of its own for each member of a stack."""

    SAMPLES = tuple(
        {**sample, "batch_size": size} for sample, size in zip(test_language.TestContract.SAMPLES, SIZES, strict=True)
    )

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, data=text)


class TestContractInMicroBatches(TestContract):
    """The same in micro-batches of two windows: of five windows the last has none, and the one before has one."""

    CHANGES: ClassVar = {**TestContract.CHANGES, "z_loss": test_language.Change(to=0.1)}

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, data=text, accumulate=4, z_loss=1e-4)


def _stack(trainable, members, place=EXACT):
    """Members with seeds 0, 1, ...; the bucket is that of the first."""
    stack = trainable.build(trainable.bucket(members[0]), len(members), place)
    for slot, hparams in enumerate(members):
        stack.admit(slot, hparams, seed=slot)
    return stack


# --- a member trains on as many windows as it says


def test_follows_an_independent_model(text):
    """In a bucket of 32, members of 24, 32 and 17 windows have the losses of plain torch on as many (float64, 1e-9)."""
    trainable = Language(width=8, depth=2, heads=2, context=8, batch=4, data=text)
    sizes = (24, 32, 17)
    stack = _stack(trainable, [{"batch_size": size, "lr": 1e-2} for size in sizes])
    references = [_reference_losses(trainable, stack.state(i), size) for i, size in enumerate(sizes)]
    losses = np.array([stack.run([step + 1] * 3)["loss"] for step in range(60)])
    np.testing.assert_allclose(losses, np.array(references).T, rtol=1e-9)


def _reference_losses(trainable, state, size):
    model = test_language.Reference(trainable.width, trainable.depth, trainable.heads).double()
    model.load(state)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embedding" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim == 1 or "embedding" in n]
    groups = [{"params": matrices}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(60):
        tokens = test_language._batch(replace(trainable, batch=size), state.seed, step)
        assert len(tokens) == size
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2, "z_loss": 0.01},
        {"schedule": "power"},
        {"schedule": "wsd", "schedule_unit": "tokens"},
        {"schedule": "power", "schedule_unit": "tokens"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_is_the_member_of_a_stack_of_just_its_size(text, options):
    """6 windows in a bucket of 8 train as in a model made for 6: data, dropout, clipping, schedule (float64, 1e-12)."""
    hparams = {"lr": 0.03, "dropout": 0.2, "clip_norm": 0.1}
    tokens = {"warmup_tokens": 200, "decay_tokens": 400} if "schedule_unit" in options else {"warmup_steps": 5}
    found = []
    for batch in (6, 8):
        trainable = Language(**TINY | {"batch": batch}, data=text, **options)
        stack = _stack(trainable, [{**hparams, **tokens, "batch_size": 6}])
        metrics = stack.run([20])
        found.append((stack.state(0), metrics["lr"][0], metrics["loss"][0]))
    (own, own_lr, own_loss), (shared, shared_lr, shared_loss) = found
    shards = [[shard for shard in state.shards if not shard.name.startswith("noise.")] for state in (own, shared)]
    assert_close(replace(own, shards=shards[0]), replace(shared, shards=shards[1]), 1e-12)
    assert shared_lr == pytest.approx(own_lr, rel=1e-12)
    assert shared_loss == pytest.approx(own_loss, rel=1e-12)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("z_loss", [None, 0.01])
def test_a_full_member_does_not_notice(text, accumulate, z_loss):
    """With all of its rows, a member has the same bits beside one that leaves some out, and in a stack that knows none.

    Whoever varies nothing trains as before there were batch sizes.
    """
    trainable = Language(**TINY, data=text, accumulate=accumulate, z_loss=z_loss)
    place = Place(compile="never")
    stacks = [_stack(trainable, [{"batch_size": 8}, {"batch_size": size}], place) for size in (8, 5)]
    program = stacks[0].program
    extra = {name: spec for name, spec in program.extra_hparams.items() if name != BATCH_SIZE}
    plain = CoreStack(replace(program, extra_hparams=extra), 2, place)
    for slot in range(2):
        plain.admit(slot, {}, seed=slot)
    metrics = [stack.run([6, 6]) for stack in (*stacks, plain)]
    for stack, found in zip(stacks, metrics, strict=False):
        assert_same(plain.state(0), stack.state(0))
        assert {name: values[0] for name, values in found.items()} == {n: v[0] for n, v in metrics[-1].items()}


@pytest.mark.parametrize(("size", "parts"), [(8, (2, 2, 2, 2)), (7, (2, 2, 2, 1)), (6, (2, 2, 2)), (5, (2, 2, 1))])
def test_noise_scale_is_that_of_its_own_windows(text, size, parts):
    """Between and within unequal micro-batches, by analysis of variance on the windows' own gradients.

    With means g_i over n_i windows, of p micro-batches and n windows: tr(Sigma) is `sum n_i |g_i - g|^2 / (p - 1)`, and
    |G|^2 is `|g|^2 - tr(Sigma) / n`.
    """
    trainable = Language(**TINY, data=text, accumulate=4)
    stack = _stack(trainable, [{"batch_size": size}, {"batch_size": 8}])
    stack.run([3, 3])
    state = stack.state(0)
    before = {s.name: s.tensor.item() for s in state.shards if s.name.startswith("noise.")}
    model = test_language.Reference(trainable.width, trainable.depth, trainable.heads).double()
    model.load(state)
    rows = []
    for window in test_language._batch(trainable, 0, 3)[:size]:
        model.zero_grad()
        F.cross_entropy(model(window[None, :-1])[0], window[1:]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    rows = torch.stack(rows)
    mean = rows.mean(0)
    between = sum(len(part) * (part.mean(0) - mean).square().sum() for part in rows.split(parts))
    trace = (between / (len(parts) - 1)).item()
    stack.run([4, 4])
    after = {s.name: s.tensor.item() for s in stack.state(0).shards if s.name.startswith("noise.")}
    decay = trainable.noise_decay
    for name, value in (("trace", trace), ("sq_norm", mean.square().sum().item() - trace / size)):
        new = (after[f"noise.{name}"] - decay * before[f"noise.{name}"]) / (1 - decay)
        assert new == pytest.approx(value, rel=1e-9)


# --- buckets


@pytest.mark.parametrize(
    ("batch", "size", "rows"),
    [
        *((8, None, 8), (8, 8, 8), (8, 5, 8), (8, 4, 4), (8, 24, 32), (8, 32, 32), (8, 33, 64), (8, 1, 1), (8, 3, 4)),
        *((24, None, 24), (24, 24, 24), (24, 23, 32), (24, 32, 32), (24, 12, 16), (8, np.int64(24), 32), (8, 24.0, 32)),
    ],
)
def test_buckets_are_powers_of_two_and_the_option(text, batch, size, rows):
    """Rounded up; the option's own size has a bucket of just that size, as it had in recorded sweeps."""
    trainable = Language(**TINY | {"batch": batch}, data=text)
    hparams = {} if size is None else {"batch_size": size}
    name = f"language-width8-depth1-heads2-context8-batch{rows}"
    assert trainable.bucket(hparams) == name
    assert trainable.bucket({**hparams, "lr": 0.1}) == name
    stack = trainable.build(name, 1, EXACT)
    stack.admit(0, hparams, seed=0)
    assert stack.hparams(0)["batch_size"] == (batch if size is None else size)
    assert type(stack.hparams(0)["batch_size"]) is int
    assert math.isfinite(stack.run([1])["loss"][0])


def test_other_options_stay_in_the_name(text):
    """The rows stand where the option stood."""
    trainable = Language(**TINY, data=text, schedule="wsd", accumulate=2)
    assert (
        trainable.bucket({"batch_size": 30}) == "language-width8-depth1-heads2-context8-batch32-schedulewsd-accumulate2"
    )


@pytest.mark.parametrize("rows", ["24", "0", "08", "", "8-batch32"])
def test_a_bucket_of_another_size_is_refused(text, rows):
    """Only what `bucket` may say is built."""
    trainable = Language(**TINY, data=text)
    with pytest.raises(TrainableError, match=r"none of this language model's, such as .*-batch8"):
        trainable.build(f"language-width8-depth1-heads2-context8-batch{rows}", 1, EXACT)


@pytest.mark.parametrize("size", [4, 9, 0, 6.5])
def test_a_member_of_another_bucket_is_refused(text, size):
    """A stack of 8 windows takes 5 to 8; the message says what it takes."""
    trainable = Language(**TINY, data=text)
    stack = trainable.build(trainable.bucket({}), 1, EXACT)
    with pytest.raises(TrainableError, match="'batch_size' is"):
        stack.admit(0, {"batch_size": size}, seed=0)


def test_the_default_is_refused_where_it_does_not_belong(text):
    """A member that says nothing has the option's batch size, which is not that of a bucket of 32."""
    trainable = Language(**TINY, data=text)
    stack = trainable.build(trainable.bucket({"batch_size": 24}), 1, EXACT)
    with pytest.raises(TrainableError, match=r"'batch_size' is 8; give a value in \[17, 32\]"):
        stack.admit(0, {}, seed=0)


@pytest.mark.parametrize("size", [0, -8, 6.5, True, "8", None, math.nan, math.inf])
def test_what_is_no_batch_size_has_no_bucket(text, size):
    """The message names the hyperparameter and the value."""
    with pytest.raises(TrainableError, match=r"'batch_size' is .*; give a whole number >= 1"):
        Language(**TINY, data=text).bucket({"batch_size": size})


def test_micro_batches_divide_the_rows(text):
    """Three micro-batches divide 6 windows and not the 8 that a member with 5 windows would have."""
    trainable = Language(**TINY | {"batch": 6}, data=text, accumulate=3)
    assert trainable.bucket({}).endswith("batch6-accumulate3")
    with pytest.raises(TrainableError, match=r"'batch_size' is 5, in batches of 8 windows; .* divides 8, not 3"):
        trainable.bucket({"batch_size": 5})


# --- sweeps


@pytest.mark.parametrize(
    ("domain", "options", "message"),
    [
        (Int(0, 8), {}, "space.batch_size: reaches 0, outside what the trainable allows. Stay at 1 or above"),
        (Int(2, 8), {"batch": 6, "accumulate": 3}, "space.batch_size: reaches 2. .*divides 2, not 3"),
        (Float(2.0, 8.5), {}, "space.batch_size: is a whole number to the trainable. Write type: int"),
        (Choice(["small"]), {}, "space.batch_size: 'small' is not a number, which the trainable needs"),
    ],
)
def test_sizes_that_no_stack_trains_are_refused_before_a_sweep(text, domain, options, message):
    """By the field, with what the trainable says."""
    with pytest.raises(SpecError, match=message):
        Sweep(
            trainable=Language(**TINY | options, data=text),
            space={"batch_size": domain},
            objective="loss",
            budget={"members": 2, "generations": 1, "steps": 1},
        )


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager(text):
    """Full stacks and others, micro-batches included, to 1e-9 in float64."""
    trainable = Language(**TINY, data=text, accumulate=4)
    states = []
    for how in ("never", "always"):
        place = Place(dtype="float64", compile=how)
        stack = _stack(trainable, [{"batch_size": 8}, {"batch_size": 8}], place)
        stack.run([3, 3])
        stack.admit(1, {"batch_size": 5}, seed=2)
        stack.run([6, 3])
        states.append([stack.state(slot) for slot in range(2)])
    for eager, compiled in zip(*states, strict=True):
        assert_close(eager, compiled, 1e-9)


def test_a_plan_is_found_for_any_bucket(text):
    """The planner's members belong to the bucket that it plans for."""
    trainable = Language(**TINY, data=text)
    plan = measured(trainable, trainable.bucket({"batch_size": 24}), 2, Place(compile="never"))
    assert plan is not None
    assert plan.chunk in (1, 2)


def test_where_it_is_fixed_a_compiled_step_knows_nothing_of_it(text):
    """A place that fixes it refuses others, and its stacks leave the masks out for good; another bucket's do not."""
    trainable = Language(**TINY, data=text)
    place = Place(compile="never", fixed=frozenset({"batch_size", "clip_norm"}))
    stack = trainable.build(trainable.bucket({}), 1, place)
    assert stack._table.absent == {"batch_size"}
    with pytest.raises(TrainableError, match="'batch_size' is 5, but fixed at 8 for all members here"):
        stack.admit(0, {"batch_size": 5}, seed=0)
    assert trainable.build(trainable.bucket({"batch_size": 24}), 1, place)._table.absent == set()
