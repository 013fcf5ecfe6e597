"""The language model: the contract, an independent reference, and what it says of itself."""

import math
import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.contracts.stack_contract import Change, StackContract
from tests.contracts.states import assert_close
from tests.trainables.changes import ADAM, REST
from trainables import Language, Place, TrainableError
from trainables.core.rng import Draws, below, keep, normal, site
from trainables.core.schedules import SCHEDULES, UNITS, Setting, WarmupCosine
from trainables.core.schedules import build as schedule_named
from trainables.core.step import compiler

TINY = {"width": 8, "depth": 1, "heads": 2, "context": 8, "batch": 2, "eval_bytes": 128}


class TestContract(StackContract):
    """`Language` keeps the contract of every trainable."""

    SAMPLES = (
        {"lr": 3e-3, "weight_decay": 0.1, "dropout": 0.0, "decay_steps": 100},
        {"lr": 1e-3, "weight_decay": 0.0, "dropout": 0.1, "beta1": 0.8, "clip_norm": 0.0},
        {"lr": 2e-3, "beta2": 0.99, "dropout": 0.2, "warmup_steps": 5, "final_lr_ratio": 0.5},
    )
    CHANGES: ClassVar = ADAM | REST

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, data=text)

    def test_switching_dropout_on_for_one_leaves_the_others_alone(self, trainable, place):
        """With every dropout 0 the mask is not drawn at all; drawing it for one member changes no bit of another."""
        states = []
        for dropout in (0.0, 0.5):
            stack = trainable.build(trainable.bucket({}), 2, place)
            stack.admit(0, {"dropout": 0.0}, seed=1)
            stack.admit(1, {"dropout": dropout}, seed=2)
            stack.run([5, 5])
            states.append(stack.state(0))
        assert_close(*states, tolerance=0.0)

    def test_a_copy_goes_on_at_the_donors_age(self, tmp_path, exact):
        """On text that is everywhere the same, a receiver's next step is the donor's: nothing else reads `consumed`."""
        path = tmp_path / "same.txt"
        path.write_text("x" * 1000)
        trainable = Language(**TINY, data=path)
        stack = trainable.build(trainable.bucket({}), 2, exact)
        for slot in range(2):
            stack.admit(slot, {"warmup_steps": 20, "lr": 0.4}, seed=slot)
        stack.run([10, 2])
        stack.copy([0], [1])
        metrics = stack.run([11, 3])
        assert metrics["lr"] == pytest.approx(0.4 * 11 / 20)
        donor, receiver = stack.state(0), stack.state(1)
        assert_close(donor, receiver, 1e-12)


class TestContractOfAnotherSchedule(StackContract):
    """The contract holds whatever the schedule, in tokens too."""

    SAMPLES = (
        {"lr": 3e-3, "warmup_tokens": 40, "stable_tokens": 100, "decay_tokens": 100},
        {"lr": 1e-3, "warmup_tokens": 0, "decay_tokens": 90, "final_lr_ratio": 0.5},
        {"lr": 2e-3},
    )
    CHANGES: ClassVar = {
        **{name: change for name, change in TestContract.CHANGES.items() if not name.endswith("_steps")},
        "warmup_tokens": Change(to=160),
        "stable_tokens": Change(to=16),
        "decay_tokens": Change(to=50),
        "final_lr_ratio": Change(to=0.75),
    }

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, data=text, schedule="wsd", schedule_unit="tokens")


# --- an independent reference


class Block(nn.Module):
    """One pre-norm block, written with torch.nn and complex rotary positions."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(width, dim=-1)
        q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        q, k = self.turn(q), self.turn(k)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    @staticmethod
    def turn(x):
        length, half = x.shape[-2], x.shape[-1] // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(length)[:, None] * frequency
        pairs = torch.complex(x[..., :half], x[..., half:])
        turned = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], dim=-1)


class Reference(nn.Module):
    """The whole model for one member."""

    def __init__(self, width, depth, heads):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def load(self, state):
        names = {"mlp.up": "up", "mlp.down": "down", "mlp.norm": "norm2"}
        names |= {"attention.qkv": "qkv", "attention.out": "out", "attention.norm": "norm1"}
        weights = {}
        for shard in state.shards:
            if shard.name.startswith("params."):
                name = shard.name.removeprefix("params.")
                for ours, theirs in names.items():
                    name = name.replace(ours, theirs)
                weights[f"{name}.weight"] = shard.tensor
        self.load_state_dict(weights)


def test_follows_an_independent_model(text):
    """Two members have the loss of a plain torch.nn model under torch.optim.AdamW, 200 free steps (float64, 1e-9)."""
    trainable = Language(width=8, depth=2, heads=2, context=8, batch=2, data=text)
    stack = trainable.build(trainable.bucket({}), 2, Place(dtype="float64", compile="never"))
    hparams = (
        {"lr": 3e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "clip_norm": 1.0},
        {"lr": 1e-2, "weight_decay": 0.0, "beta1": 0.8, "beta2": 0.99, "clip_norm": 0.0},
    )
    for slot, values in enumerate(hparams):
        stack.admit(slot, values, seed=slot)
    references = [_reference_losses(trainable, stack.state(i), hparams[i]) for i in range(2)]
    losses = np.array([stack.run([step + 1] * 2)["loss"] for step in range(200)])
    np.testing.assert_allclose(losses, np.array(references).T, rtol=1e-9)


def _reference_losses(trainable, state, hparams):
    model = Reference(trainable.width, trainable.depth, trainable.heads).double()
    model.load(state)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embedding" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim == 1 or "embedding" in n]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": rest, "weight_decay": 0.0}],
        lr=hparams["lr"],
        betas=(hparams["beta1"], hparams["beta2"]),
        weight_decay=hparams["weight_decay"],
    )
    losses = []
    for step in range(200):
        tokens = _batch(trainable, state.seed, step)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        if hparams["clip_norm"]:
            nn.utils.clip_grad_norm_(model.parameters(), hparams["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    return losses


def _batch(trainable, seed, consumed):
    """The batch that a member sees, `[batch, context + 1]`."""
    tokens = {s: torch.from_numpy(t) for s, t in trainable._corpus().splits.items()}
    feed = trainable._program(tokens).feed
    return feed.batch(Draws(torch.tensor([seed]), torch.tensor([consumed])))[0]


# --- compiled


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager(text):
    """The step compiles without a graph break and trains as the eager one does, to 1e-5; changes do not recompile."""
    trainable = Language(**TINY, data=text)
    states = []
    for how in ("never", "always"):
        stack = trainable.build(trainable.bucket({}), 2, Place(compile=how))
        stack.admit(0, {"dropout": 0.0}, seed=1)
        stack.admit(1, {"dropout": 0.3, "warmup_steps": 2}, seed=2)
        stack.run([3, 3])
        torch._dynamo.utils.counters.clear()
        stack.set_hparams([0, 1], lr=[1e-3, 2e-3], dropout=[0.1, 0.0])
        stack.run([6, 6])
        assert not torch._dynamo.utils.counters["stats"]
        states.append([stack.state(slot) for slot in range(2)])
    for eager, compiled in zip(*states, strict=True):
        assert_close(eager, compiled, 1e-5)


# --- what it learns and says


def test_learns(text):
    """A few steps take the model well below the 8 bits of a uniform guess, on text it has not seen."""
    trainable = Language(width=16, depth=1, heads=2, context=16, batch=4, data=text)
    stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
    stack.admit(0, {"lr": 1e-2}, seed=0)
    assert stack.evaluate("validation", [0])["bits_per_byte"][0] == pytest.approx(8.0)
    stack.run([150])
    scores = stack.evaluate("validation", [0])
    assert scores["bits_per_byte"][0] < 4.0
    assert scores["bits_per_byte"][0] == pytest.approx(scores["loss"][0] / math.log(2))
    assert 0.3 < scores["accuracy"][0] <= 1.0


def test_members_with_other_seeds_see_other_data(text):
    """The data order is a function of the seed: equal weights and hyperparameters, other losses."""
    trainable = Language(**TINY, data=text)
    assert not torch.equal(_batch(trainable, 1, 0), _batch(trainable, 2, 0))
    assert not torch.equal(_batch(trainable, 1, 0), _batch(trainable, 1, 1))
    assert torch.equal(_batch(trainable, 1, 1), _batch(trainable, 1, 1))


def test_lr_in_effect_is_reported(text):
    """`run` reports the learning rate after the schedule: warm-up over four steps, averaged."""
    trainable = Language(**TINY, data=text)
    stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
    stack.admit(0, {"lr": 0.4, "warmup_steps": 4}, seed=0)
    assert stack.run([4])["lr"][0] == pytest.approx(0.25)
    assert stack.run([6])["lr"][0] == pytest.approx(0.4)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_chosen_is_in_effect(text, name, unit):
    """Each step of each member has the learning rate of the schedule, for its own hyperparameters and age."""
    trainable = Language(**TINY, data=text, schedule=name, schedule_unit=unit, schedule_knots=2)
    schedule = schedule_named(name, Setting(batch_size=2, tokens_per_step=16, num_knots=2), unit)
    specs = trainable.describe().hparams
    assert schedule.hparams.items() <= specs.items()
    step = 16 if unit == "tokens" else 1
    durations = {n: 2 * i * step for i, n in enumerate((n for n in specs if n.endswith(f"_{unit}")), start=1)}
    ratios = {n: 0.25 for n in specs if n.endswith("_lr_ratio")}
    members = [{"lr": 0.1}, {"lr": 0.2, **durations, **ratios}]
    stack = trainable.build(trainable.bucket({}), 2, Place(compile="never"))
    for slot, hparams in enumerate(members):
        stack.admit(slot, hparams, seed=slot)
    rows = {n: torch.tensor([stack.hparams(i)[n] for i in range(2)], dtype=torch.float64) for n in specs}
    for age in range(12):
        wanted = rows["lr"] * schedule(torch.tensor([age, age]), rows)
        assert stack.run([age + 1] * 2)["lr"].tolist() == wanted.tolist()


def test_schedules_are_documented():
    """The docstring names every schedule; the default's hyperparameters have the names that recorded runs have."""
    assert all(f"`{name}`" in Language.__doc__ for name in SCHEDULES)
    assert Language(**TINY)._program({}).schedule == WarmupCosine()
    assert list(WarmupCosine().hparams) == ["warmup_steps", "decay_steps", "final_lr_ratio"]


def test_describes_its_data_and_objective(text):
    """The corpus's hash and sizes, the bytes of a step and the direction of the metrics are there before a build."""
    described = Language(**TINY, data=text).describe()
    assert described.metrics["bits_per_byte"].mode == "min"
    assert described.metrics["bits_per_byte"].unit == "bit/byte"
    assert described.tokens_per_step == 16
    assert described.data["source"] == str(text)
    assert len(described.data["sha256"]) == 64
    total = sum(described.data[f"bytes_{s}"] for s in ("train", "validation", "test"))
    assert total == text.stat().st_size


@pytest.mark.parametrize("num_members", [1, 3])
@pytest.mark.parametrize(
    "shape", [{}, {"width": 24, "depth": 3, "heads": 3, "context": 20, "batch": 5}], ids=["tiny", "odd"]
)
def test_flops_are_those_of_the_matrix_products(text, shape, num_members):
    """Exactly what torch counts in a step, optimizer included; attention plain, as fused kernels compute some twice."""
    trainable = Language(**TINY | shape, data=text)
    stack = trainable.build(trainable.bucket({}), num_members, Place(compile="never"))
    for slot in range(num_members):
        stack.admit(slot, {"dropout": 0.1}, seed=slot)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        stack.run([1] * num_members)
    assert counter.get_total_flops() == num_members * trainable.describe().flops_per_step


def test_flops_are_six_for_each_matrix_element_and_token(text):
    """Kaplan et al. 2020: 6 N per token, and attention's share, which grows with the context."""
    model = Language(width=512, depth=8, heads=8, context=16, batch=4, data=text).describe()
    matrices = 8 * 12 * 512**2 + 256 * 512
    assert model.flops_per_step / model.tokens_per_step == pytest.approx(6 * matrices, rel=0.01)
    assert model.flops_per_step / model.tokens_per_step > 6 * matrices


def test_random_numbers_keep_their_name(text):
    """A recorded sweep can be repeated while the name stays: change a number here, and change the name."""
    assert Language(**TINY, data=text).describe().rng == "splitmix64 v1"
    key = Draws(torch.tensor([7]), torch.tensor([3])).key(site("here"))
    assert below(key, 4, 1000).tolist() == [[7, 840, 212, 49]]
    assert keep(key, 8, torch.tensor([0.5])).int().tolist() == [[0, 1, 0, 1, 1, 1, 0, 0]]
    assert normal(key, 2)[0].tolist() == pytest.approx([-2.430015113848923, 0.9968013434663681], rel=1e-12)


def test_weight_decay_spares_norms_and_embedding():
    """Standard practice: matrices decay, gains and the embedding do not."""
    parameters = Language(**TINY)._program({}).model.parameters()
    spared = {name.rsplit(".")[-1] for name, p in parameters.items() if not p.decay}
    assert spared == {"norm", "embedding"}


def test_is_shipped_to_workers_as_its_options(text):
    """A pickled `Language` is small and equal: workers load the data themselves."""
    trainable = Language(**TINY, data=text, domains=["text"])
    trainable.describe()
    assert pickle.loads(pickle.dumps(trainable)) == trainable  # noqa: S301
    assert len(pickle.dumps(trainable)) < 1000


def test_other_shapes_are_other_buckets(text):
    """Members stack only if they share every shape."""
    small, large = (Language(**{**TINY, "width": w}, data=text) for w in (8, 12))
    assert small.bucket({}) != large.bucket({})
    with pytest.raises(TrainableError, match="width12"):
        small.build(large.bucket({}), 1, Place())


def test_the_schedule_is_in_the_bucket(text):
    """Another schedule is another program; the default one leaves the names of recorded buckets as they were."""
    cosine, wsd, tokens = (
        Language(**TINY, data=text, **o) for o in ({}, {"schedule": "wsd"}, {"schedule_unit": "tokens"})
    )
    assert cosine.bucket({}) == "language-width8-depth1-heads2-context8-batch2"
    assert wsd.bucket({}) == f"{cosine.bucket({})}-schedulewsd"
    assert tokens.bucket({}) == f"{cosine.bucket({})}-schedule_unittokens"


def test_a_path_is_made_absolute(text, monkeypatch):
    """Workers start in other folders than the driver: a relative path means the driver's."""
    monkeypatch.chdir(text.parent)
    trainable = Language(data=text.name)
    monkeypatch.chdir("/")
    assert trainable == Language(data=text)
    assert trainable.describe().data["source"] == str(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"depth": 1.5}, "depth is 1.5"),
        ({"batch": True}, "batch is True"),
        ({"width": 10, "heads": 4}, "width is 10; give a multiple of 8"),
        ({"domains": "prose"}, "domains is 'prose'; give a list"),
        ({"domains": []}, r"domains is \[\]"),
        ({"schedule": "cosin"}, r"schedule 'cosin' is unknown; did you mean 'cosine'\?"),
        ({"schedule": ["cosine"]}, r"schedule \['cosine'\] is unknown; did you mean 'cosine'\?"),
        ({"schedule_unit": "token"}, r"schedule unit 'token' is unknown; did you mean 'tokens'\?"),
        ({"schedule_knots": 0}, "schedule_knots is 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    """Each message names the option, the value and the mend, in one line."""
    with pytest.raises(TrainableError, match=message) as caught:
        Language(**options)
    assert "\n" not in str(caught.value)
