"""`Language` with normalised queries and keys, and with a z-loss: the contract, plain torch, what stays as it was."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.contracts.stack_contract import Change
from tests.contracts.states import assert_close, assert_same
from tests.trainables import test_language
from trainables import Language, Place, TrainableError
from trainables.core.step import compiler

TINY = test_language.TINY
BOTH = {"qk_norm": True, "z_loss": 1e-4}
EXACT = Place(dtype="float64", compile="never")


class TestContract(test_language.TestContract):
    """The contract of every trainable, with `z_loss` among the live hyperparameters."""

    CHANGES: ClassVar = {**test_language.TestContract.CHANGES, "z_loss": Change(to=0.1)}

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, data=text, **BOTH)


class TestContractUnderCompleteP(TestContract):
    """The same with multipliers on every tensor, and in micro-batches."""

    @pytest.fixture
    def trainable(self, text):
        scaled = {"parametrization": "completep", "base_width": 4, "base_depth": 2, "accumulate": 2}
        return Language(**TINY, data=text, **BOTH, **scaled)


# --- an independent reference


class Block(test_language.Block):
    """A block whose queries and keys go through torch.nn.RMSNorm."""

    def __init__(self, width, heads):
        super().__init__(width, heads)
        self.norms = nn.ModuleList(nn.RMSNorm(width // heads, eps=1e-6) for _ in range(2))
        self.calls = 0

    def turn(self, x):
        """Called for queries, then for keys."""
        norm = self.norms[self.calls % 2]
        self.calls += 1
        return super().turn(norm(x))


class Reference(test_language.Reference):
    """The whole model for one member."""

    def __init__(self, width, depth, heads):
        super().__init__(width, depth, heads)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def load(self, state):
        """Weights by our names; the others' are those of the plain reference."""
        names = {"attention.q_norm": "norms.0", "attention.k_norm": "norms.1", "attention.qkv": "qkv"}
        names |= {"attention.out": "out", "attention.norm": "norm1"}
        names |= {"mlp.up": "up", "mlp.down": "down", "mlp.norm": "norm2"}
        weights = {}
        for shard in state.shards:
            if shard.name.startswith("params."):
                name = shard.name.removeprefix("params.")
                for ours, theirs in names.items():
                    name = name.replace(ours, theirs)
                weights[f"{name}.weight"] = shard.tensor
        self.load_state_dict(weights)


def test_follows_an_independent_model(text):
    """Plain torch with torch.nn.RMSNorm on queries and keys and a penalty of log^2 Z, 200 free steps (float64, 1e-9).

    The loss reported is the cross entropy alone, which the reference computes apart.
    """
    trainable = Language(width=8, depth=2, heads=2, context=8, batch=2, data=text, **BOTH)
    stack = trainable.build(trainable.bucket({}), 2, EXACT)
    strengths = (0.0, 0.05)
    for slot, strength in enumerate(strengths):
        stack.admit(slot, {"lr": 1e-2, "z_loss": strength}, seed=slot)
    references = [_reference_losses(trainable, stack.state(i), strengths[i]) for i in range(2)]
    losses = np.array([stack.run([step + 1] * 2)["loss"] for step in range(200)])
    np.testing.assert_allclose(losses, np.array(references).T, rtol=1e-9)


def _reference_losses(trainable, state, strength):
    model = Reference(trainable.width, trainable.depth, trainable.heads).double()
    model.load(state)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embedding" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim == 1 or "embedding" in n]
    groups = [{"params": matrices}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(200):
        tokens = test_language._batch(trainable, state.seed, step)
        logits = model(tokens[:, :-1]).flatten(0, 1)
        loss = F.cross_entropy(logits, tokens[:, 1:].flatten())
        optimizer.zero_grad()
        (loss + strength * logits.exp().sum(-1).log().square().mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# --- what they are for


def test_scores_do_not_depend_on_the_size_of_queries_and_keys(text):
    """Projections 100 times as large change the plain model's loss, and that of normalised ones by their eps alone."""
    for qk_norm in (False, True):
        trainable = Language(**TINY, data=text, qk_norm=qk_norm)
        model = trainable._program({}).model
        stack = trainable.build(trainable.bucket({}), 1, EXACT)
        stack.admit(0, {"lr": 1e-2}, seed=0)
        stack.run([20])
        params = dict(stack.params)
        batch = test_language._batch(trainable, 0, 0)
        before = model.evaluate(params, batch)["loss"]
        qkv = params["blocks.0.attention.qkv"].clone()
        qkv[:, :16] *= 100.0
        after = model.evaluate(params | {"blocks.0.attention.qkv": qkv}, batch)["loss"]
        assert torch.allclose(before, after, rtol=1e-4) == qk_norm


def test_z_loss_keeps_the_normaliser_near_1(text):
    """From log Z = log 256, a member with a z-loss brings log^2 Z down further than its twin without."""
    trainable = Language(**TINY, data=text, z_loss=0.0)
    stack = trainable.build(trainable.bucket({}), 2, EXACT)
    for slot, strength in enumerate((0.0, 0.1)):
        stack.admit(slot, {"lr": 1e-2, "z_loss": strength}, seed=0)
    stack.run([100, 100])
    tokens = test_language._batch(trainable, 0, 0)[:, :-1]
    logits = trainable._program({}).model._logits(stack.params, tokens.expand(2, *tokens.shape), lambda x, where: x)
    plain, penalised = logits.exp().sum(-1).log().square().mean(1).tolist()
    assert penalised < 0.5 * plain
    assert penalised < math.log(256.0) ** 2


# --- what stays as it was


def test_switched_off_it_changes_no_bit(text):
    """With `z_loss` there but 0, alone or beside a member that has one, training is that of a model without."""
    states = []
    for z_loss, beside in ((None, None), (0.0, 0.0), (0.0, 0.5)):
        trainable = Language(**TINY, data=text, z_loss=z_loss)
        stack = trainable.build(trainable.bucket({}), 2, Place(compile="never"))
        for slot, strength in enumerate((0.0, beside)):
            stack.admit(slot, {} if z_loss is None else {"z_loss": strength}, seed=slot)
        stack.run([5, 5])
        states.append(stack.state(0))
    for state in states[1:]:
        assert_same(states[0], state)


def test_recorded_sweeps_keep_their_hyperparameters_and_buckets(text):
    """A ledger names every live hyperparameter: `z_loss` is one only where the option asks for it, with its default."""
    plain = Language(**TINY, data=text)
    assert "z_loss" not in plain.describe().hparams
    assert plain.bucket({}) == "language-width8-depth1-heads2-context8-batch2"
    asked = Language(**TINY, data=text, z_loss=0)
    assert type(asked.describe().hparams["z_loss"].default) is float
    assert Language(**TINY, data=text, z_loss=1e-4).describe().hparams["z_loss"].default == 1e-4
    assert asked.bucket({}) == f"{plain.bucket({})}-z_loss0.0"
    assert Language(**TINY, data=text, qk_norm=True).bucket({}) == f"{plain.bucket({})}-qk_normTrue"
    assert Language(**TINY, data=text, qk_norm=False) == plain


def test_gains_are_gains(text):
    """One for each dimension of a head, beginning at 1, without weight decay, scaled as the block's other norm."""
    trainable = Language(**TINY, data=text, qk_norm=True, parametrization="completep", base_width=4)
    found = trainable._program({}).model.parameters()
    for name in ("q_norm", "k_norm"):
        gain = found[f"blocks.0.attention.{name}"]
        assert gain.shape == (4,)
        assert (gain.mean, gain.std, gain.decay) == (1.0, 0.0, False)
        assert gain.scale == found["blocks.0.attention.norm"].scale


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_norm": 1}, "qk_norm is 1; give true or false"),
        ({"z_loss": -0.1}, r"z_loss is -0\.1; give a number >= 0"),
        ({"z_loss": math.inf}, "z_loss is inf"),
        ({"z_loss": True}, "z_loss is True"),
        ({"z_loss": "1e-4"}, "z_loss is '1e-4'"),
    ],
)
def test_bad_options_are_refused(options, message):
    """In one line that names the option."""
    with pytest.raises(TrainableError, match=message):
        Language(**options)


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager(text):
    """One graph, to 1e-9 in float64; switching the z-loss on compiles nothing anew."""
    trainable = Language(**TINY, data=text, **BOTH)
    states = []
    for how in ("never", "always"):
        stack = trainable.build(trainable.bucket({}), 2, Place(dtype="float64", compile=how))
        for slot in range(2):
            stack.admit(slot, {"z_loss": 0.0}, seed=slot)
        stack.run([3, 3])
        torch._dynamo.utils.counters.clear()
        stack.set_hparams([1], z_loss=[0.1])
        stack.run([6, 6])
        assert not torch._dynamo.utils.counters["stats"]
        states.append([stack.state(slot) for slot in range(2)])
    for eager, compiled in zip(*states, strict=True):
        assert_close(eager, compiled, 1e-9)
