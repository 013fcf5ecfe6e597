"""The image classifiers: the contract, an independent reference, what they learn, and what they say of themselves."""

import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import searchspaces
from tests.contracts.stack_contract import Change, StackContract
from tests.contracts.states import assert_close, assert_same
from tests.trainables.changes import ADAM, REST
from tests.trainables.networks.references import names_of, plain
from trainables import Place, TrainableError, Vision, images
from trainables.base import Plan
from trainables.core.rng import Draws
from trainables.core.step import compiler

RESNET = {"width": 4, "depth": 1, "stages": 2, "batch": 8}
VIT = {"architecture": "vit", "width": 8, "depth": 1, "heads": 2, "patch": 4, "batch": 8}


class TestContract(StackContract):
    """A residual network with batch norm, whose running statistics are part of a member's state."""

    SAMPLES = (
        {"lr": 3e-3, "weight_decay": 0.1, "decay_steps": 100, "shift": 1},
        {"lr": 1e-3, "weight_decay": 0.0, "dropout": 0.1, "beta1": 0.8, "clip_norm": 0.0, "bn_momentum": 0.3},
        {"lr": 2e-3, "beta2": 0.99, "dropout": 0.2, "warmup_steps": 5, "label_smoothing": 0.1, "cutout": 2},
    )
    CHANGES: ClassVar = {
        **ADAM,
        **REST,
        "label_smoothing": Change(to=0.3),
        "bn_momentum": Change(to=0.5),
        "shift": Change(to=2),
        "flip": Change(to=0.5),
        "cutout": Change(to=4),
    }

    @pytest.fixture
    def trainable(self):
        return Vision(**RESNET)

    def test_switching_on_for_one_leaves_the_others_alone(self, trainable, place):
        """What is 0 for everybody may be left out; switching it on for one member changes no bit of another."""
        states = []
        for hparams in ({}, {"dropout": 0.5, "label_smoothing": 0.1, "shift": 1, "flip": 0.5, "cutout": 3}):
            stack = trainable.build(trainable.bucket({}), 2, place)
            stack.admit(0, {}, seed=1)
            stack.admit(1, hparams, seed=2)
            stack.run([5, 5])
            states.append(stack.state(0))
        assert_same(*states)


class TestContractOfGhostNorm(TestContract):
    """Pre-activated, with ghost batches, under Nesterov momentum, in examples."""

    CHANGES: ClassVar = {
        **{k: change for k, change in TestContract.CHANGES.items() if not k.startswith(("beta", "warmup", "decay"))},
        "momentum": Change(to=0.5),
        "warmup_tokens": Change(to=160),
        "decay_tokens": Change(to=40),
        "final_lr_ratio": Change(to=0.75, given={"decay_tokens": 40}),
    }
    SAMPLES = (
        {"lr": 0.03, "weight_decay": 0.01, "decay_tokens": 800},
        {"lr": 0.01, "weight_decay": 0.0, "dropout": 0.1, "clip_norm": 0.0},
        {"lr": 0.02, "dropout": 0.2, "warmup_tokens": 40, "bn_momentum": 0.3},
    )

    @pytest.fixture
    def trainable(self):
        return Vision(
            **RESNET, preactivation=True, norm="ghost", ghost_size=4, optimizer="nesterov", schedule_unit="tokens"
        )


class TestContractOfTransformers(TestContract):
    """A vision transformer, in micro-batches, twice as wide as its base."""

    SAMPLES = tuple({k: v for k, v in sample.items() if k != "bn_momentum"} for sample in TestContract.SAMPLES)
    CHANGES: ClassVar = {k: change for k, change in TestContract.CHANGES.items() if k != "bn_momentum"}
    # A bias that all keys share cancels in the softmax: its gradient is rounding, which AdamW divides by its own size.
    ROUNDING = "attention.qkv.bias"

    @pytest.fixture
    def trainable(self):
        return Vision(**VIT, accumulate=2, parametrization="mup", base_width=4, base_heads=2)


# --- an independent reference


@pytest.mark.parametrize(
    "options",
    [RESNET, {**RESNET, "norm": "ghost", "ghost_size": 4, "preactivation": True}, VIT | {"positions": "learned"}],
    ids=["resnet", "resnet-ghost", "vit"],
)
def test_follows_an_independent_model(options):
    """Two members have the losses and weights of plain torch.nn models under torch.optim.AdamW, 100 steps (1e-9)."""
    trainable = Vision(**options)
    stack = trainable.build(trainable.bucket({}), 2, Place(dtype="float64", compile="never"))
    hparams = (
        {"lr": 3e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "clip_norm": 1.0, "label_smoothing": 0.1},
        {"lr": 1e-2, "weight_decay": 0.0, "beta1": 0.8, "beta2": 0.99, "clip_norm": 0.0, "shift": 1},
    )
    for slot, values in enumerate(hparams):
        stack.admit(slot, values, seed=slot)
    models, references = zip(*(_reference(trainable, stack.state(i), hparams[i]) for i in range(2)), strict=True)
    losses = np.array([stack.run([step + 1] * 2)["loss"] for step in range(100)])
    np.testing.assert_allclose(losses, np.array(references).T, rtol=1e-9)
    for slot, model in enumerate(models):
        theirs = model.state_dict()
        for shard in stack.state(slot).shards:
            kind, _, name = shard.name.partition(".")
            if kind in ("params", "buffers"):
                other = theirs[names_of(model, name)]
                torch.testing.assert_close(shard.tensor.view_as(other), other, rtol=1e-7, atol=1e-10)
    scores = stack.evaluate("test", [0, 1])
    known = images.load(None)
    pixels = torch.from_numpy(known.images["test"]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(known.labels["test"])
    for slot, model in enumerate(models):
        with torch.no_grad():
            logits = model.eval()(_normalised(pixels))
        assert scores["accuracy"][slot] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
        assert scores["loss"][slot] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-8)


def _normalised(pixels):
    known = images.load(None)
    return (pixels.double() - known.mean[0]) / known.std[0]


def _reference(trainable, state, hparams):
    """A plain model trained 100 steps on the batches that the member sees, and its losses."""
    program = trainable._program(images.load(None), torch.device("cpu"))
    values = {s.name.partition(".")[2]: s.tensor for s in state.shards if s.name.startswith(("params.", "buffers."))}
    model = plain(program.model.network, values)
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and n != "positions"]
    rest = [p for n, p in model.named_parameters() if p.ndim == 1 or n == "positions"]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": rest, "weight_decay": 0.0}],
        lr=hparams["lr"],
        betas=(hparams["beta1"], hparams["beta2"]),
        weight_decay=hparams["weight_decay"],
    )
    losses = []
    for step in range(100):
        draws = Draws(torch.tensor([state.seed]), torch.tensor([step]))
        strength = {"shift": torch.tensor([hparams.get("shift", 0)]).double()}
        pixels, labels = (t[0] for t in program.feed.batch(draws, strength))
        loss = F.cross_entropy(model(_normalised(pixels)), labels, label_smoothing=hparams.get("label_smoothing", 0.0))
        optimizer.zero_grad()
        loss.backward()
        if hparams["clip_norm"]:
            nn.utils.clip_grad_norm_(model.parameters(), hparams["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    return model, losses


# --- compiled


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
@pytest.mark.parametrize("options", [RESNET | {"stages": 1}, VIT], ids=["resnet", "vit"])
def test_compiled_equals_eager(options):
    """Without a graph break, as the eager step (float64, 1e-9); changes of hyperparameters do not recompile."""
    trainable = Vision(**options)
    states = []
    for how in ("never", "always"):
        stack = trainable.build(trainable.bucket({}), 2, Place(dtype="float64", compile=how))
        stack.admit(0, {"dropout": 0.0, "shift": 1}, seed=1)
        stack.admit(1, {"dropout": 0.3, "warmup_steps": 2, "flip": 0.5, "cutout": 3, "label_smoothing": 0.1}, seed=2)
        stack.run([3, 3])
        torch._dynamo.utils.counters.clear()
        stack.set_hparams([0, 1], lr=[1e-3, 2e-3], dropout=[0.1, 0.0], shift=[0, 2])
        stack.run([6, 6])
        assert not torch._dynamo.utils.counters["stats"]
        states.append([stack.state(slot) for slot in range(2)])
    for eager, compiled in zip(*states, strict=True):
        assert_close(eager, compiled, 1e-9)


# --- what it learns and says


@pytest.mark.parametrize(
    ("options", "steps", "reached"),
    [
        # Measured on seeds 0 to 7: 0.912 to 0.983, and 0.890 to 0.923.
        ({"width": 8, "batch": 32}, 200, 0.85),
        ({"architecture": "vit", "width": 16, "batch": 32}, 300, 0.8),
    ],
    ids=["resnet", "vit"],
)
def test_learns(options, steps, reached):
    """A few hundred steps read most digits that were never seen, starting from a uniform guess."""
    trainable = Vision(**options)
    stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
    stack.admit(0, {"lr": 1e-2}, seed=0)
    assert stack.evaluate("test", [0])["loss"][0] == pytest.approx(np.log(10))
    stack.run([steps])
    scores = stack.evaluate("test", [0])
    assert scores["accuracy"][0] > reached
    assert scores["error"][0] == pytest.approx(1 - scores["accuracy"][0])


@pytest.mark.parametrize("options", [RESNET, VIT | {"patch": 2}], ids=["resnet", "vit"])
def test_learns_images_of_your_own(tmp_path, options):
    """Oblong, in colour, told apart by the channel that is brightest: size, channels and classes are found."""
    draw = np.random.default_rng(0)
    labels = np.arange(90) % 3
    pixels = draw.integers(0, 200, (90, 6, 10, 3))
    pixels[np.arange(90), :, :, labels] += 40
    np.savez(tmp_path / "mine.npz", images=pixels, labels=np.array(["red", "green", "blue"])[labels])
    trainable = Vision(**options, data=tmp_path / "mine.npz")
    described = trainable.describe().data
    assert [described[k] for k in ("height", "width", "channels", "num_classes")] == [6, 10, 3, 3]
    stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
    stack.admit(0, {"lr": 1e-2}, seed=0)
    stack.run([150])
    assert stack.evaluate("test", [0])["accuracy"][0] == 1.0


def test_running_statistics_follow_a_copy():
    """They belong to the weights: a receiver evaluates as its donor does, and a frozen member's stay."""
    trainable = Vision(**RESNET)
    stack = trainable.build(trainable.bucket({}), 2, Place(compile="never"))
    for slot in range(2):
        stack.admit(slot, {}, seed=slot)
    stack.run([10, 3])
    stack.copy([0], [1])
    for values in stack.evaluate("validation", [0, 1]).values():
        assert values[0] == values[1]
    before = stack.state(0)
    stack.run([10, 6])
    assert_same(before, stack.state(0))
    names = {shard.name for shard in before.shards}
    assert {"buffers.stem.norm.mean", "buffers.stages.1.0.shortcut.norm.var"} < names


def test_micro_batches_of_ghosts_train_alike():
    """With one ghost batch in each micro-batch, statistics are theirs: the first is that of a step of its own."""
    trainable = Vision(**RESNET, norm="ghost", ghost_size=4, accumulate=2)
    stack = trainable.build(trainable.bucket({}), 1, Place(dtype="float64", compile="never"))
    stack.admit(0, {"bn_momentum": 1.0}, seed=3)
    state = stack.state(0)
    stack.run([1])
    program = trainable._program(images.load(None), torch.device("cpu"))
    pixels, _ = program.feed.batch(Draws(torch.tensor([3]), torch.tensor([0])))
    stem = next(s.tensor for s in state.shards if s.name == "params.stem.conv")
    last = F.conv2d(_normalised(pixels[0, 4:]), stem, padding=1)
    found = {s.name: s.tensor for s in stack.state(0).shards}
    torch.testing.assert_close(found["buffers.stem.norm.mean"], last.mean((0, 2, 3)))
    torch.testing.assert_close(found["buffers.stem.norm.var"], last.transpose(0, 1).flatten(1).var(1))


def test_a_plan_splits_only_what_it_does_not_change():
    """Splitting a batch to save memory must not change the training: batch and ghost norm refuse it."""
    plan = Plan(chunk=1, compiled=False, accumulate=2)
    for norm in ({"norm": "batch"}, {"norm": "ghost", "ghost_size": 4}):
        trainable = Vision(**RESNET, **norm)
        with pytest.raises(TrainableError, match="give a smaller batch, or norm group"):
            trainable.build(trainable.bucket({}), 1, Place(compile="never", plan=plan))
    trainable = Vision(**RESNET, norm="group", norm_groups=2)
    states = []
    for how in (None, plan):
        stack = trainable.build(trainable.bucket({}), 1, Place(compile="never", dtype="float64", plan=how))
        stack.admit(0, {"dropout": 0.2, "shift": 1}, seed=0)
        stack.run([10])
        states.append(stack.state(0))
    assert_close(*states, 1e-9)


def test_describes_its_data_and_objective():
    """The data's hash and sizes, the images of a step and the direction of the metrics are there before a build."""
    described = Vision(**RESNET).describe()
    assert {name: spec.mode for name, spec in described.metrics.items()} == {
        "accuracy": "max",
        "error": "min",
        "loss": "min",
    }
    assert described.tokens_per_step == 8
    assert described.progress_unit == "step"
    assert described.data["num_classes"] == 10
    assert len(described.data["sha256"]) == 64
    assert described.rng == "splitmix64 v1"


@pytest.mark.parametrize("options", [RESNET, VIT], ids=["resnet", "vit"])
def test_bfloat16_trains_near_float32(options):
    """Twenty steps lose as much, to 2 %; parameters and running statistics stay in float32."""
    losses = []
    for precision in ("fp32", "bf16"):
        trainable = Vision(**options)
        stack = trainable.build(trainable.bucket({}), 1, Place(compile="never", precision=precision))
        stack.admit(0, {"lr": 1e-3}, seed=0)
        losses.append(stack.run([20])["loss"][0])
        assert np.isfinite(stack.evaluate("validation", [0])["loss"][0])
        kinds = ("params.", "buffers.")
        assert {s.tensor.dtype for s in stack.state(0).shards if s.name.startswith(kinds)} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize(
    ("options", "forward"),
    [
        # Digits are 8 x 8. Stem, two blocks, shortcut, head.
        (RESNET, 64 * 9 * 4 + 2 * 64 * 9 * 16 + 16 * 9 * (4 * 8 + 8 * 8) + 16 * 4 * 8 + 8 * 10),
        # 4 patches of 16 pixels.
        (VIT, 4 * 16 * 8 + 4 * 12 * 64 + 2 * 16 * 8 + 8 * 10),
    ],
    ids=["resnet", "vit"],
)
def test_flops_by_hand(options, forward):
    """Twice the multiplications of the forward pass, three times that with the backward pass but for the images."""
    first = 64 * 9 * 4 if options is RESNET else 4 * 16 * 8
    assert Vision(**options).describe().flops_per_step == 8 * 2 * (3 * forward - first)


def test_hparams_are_those_that_act():
    """`bn_momentum` is there where running statistics are."""
    assert Vision(**RESNET).describe().hparams["bn_momentum"].default == 0.1
    for options in (VIT, RESNET | {"norm": "group", "norm_groups": 2}):
        assert "bn_momentum" not in Vision(**options).describe().hparams


def test_is_shipped_to_workers_as_its_options():
    """A pickled `Vision` is small and equal: workers load the data themselves."""
    trainable = Vision(**RESNET)
    trainable.describe()
    assert pickle.loads(pickle.dumps(trainable)) == trainable  # noqa: S301
    assert len(pickle.dumps(trainable)) < 1500


def test_buckets_name_what_is_not_the_default(tmp_path):
    """Members stack only if they share every shape and the program; data and evaluation are the sweep's."""
    plain_ = Vision(**RESNET)
    assert plain_.bucket({}) == "vision-architectureresnet-width4-depth1-batch8"
    assert Vision(**RESNET, data=tmp_path, eval_examples=9).bucket({}) == plain_.bucket({})
    others = [{"stages": 3}, {"norm": "group", "norm_groups": 2}, {"optimizer": "sgd"}, {"schedule": "wsd"}]
    names = {Vision(**RESNET | other).bucket({}) for other in others} | {plain_.bucket({}), Vision(**VIT).bucket({})}
    assert len(names) == 6
    with pytest.raises(TrainableError, match="width8"):
        plain_.build(Vision(**RESNET | {"width": 8}).bucket({}), 1, Place())


@pytest.mark.parametrize("options", [RESNET, VIT], ids=["resnet", "vit"])
def test_the_ready_space_fits(options):
    """Every hyperparameter of the space `vision` is one of either architecture, and within its bounds."""
    trainable = Vision(**options)
    stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
    for seed in range(20):
        stack.admit(0, searchspaces.load("vision").sample(np.random.default_rng(seed)), seed=seed)


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    """Workers start in other folders than the driver: a relative path means the driver's."""
    monkeypatch.chdir(tmp_path)
    assert Vision(data="mine.npz") == Vision(data=tmp_path / "mine.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"depth": 1.5}, "depth is 1.5"),
        ({"batch": True}, "batch is True"),
        ({"architecture": "resnets"}, r"architecture is 'resnets'; did you mean 'resnet'\?"),
        ({"norm": "layer"}, "norm is 'layer'; known: batch, ghost, group"),
        ({"norm": None}, "norm is None; known"),
        ({"preactivation": "no"}, "preactivation is 'no'; give true or false"),
        ({"positions": "fix"}, r"positions is 'fix'; did you mean 'fixed'\?"),
        ({"norm": "group", "width": 12}, r"width is 12; give a multiple of 8 \(norm_groups\)"),
        ({"norm": "ghost", "ghost_size": 24}, "ghost_size is 24; give a divisor of batch / accumulate, 64"),
        ({"norm": "ghost", "ghost_size": 1}, "ghost_size is 1; give at least 2"),
        ({"batch": 1}, "batch is 1; give at least 2"),
        ({"accumulate": 3}, "accumulate is 3; give a divisor of batch, 64"),
        ({"accumulate": 2}, "accumulate is 2 with norm 'batch'.*ghost with ghost_size 32"),
        ({"architecture": "vit", "heads": 3}, r"width is 16; give a multiple of 3 \(heads\)"),
        ({"architecture": "vit", "base_heads": 3}, r"base_width is 16; give a multiple of 3 \(base_heads\)"),
        ({"architecture": "vit", "width": 18, "positions": "fixed"}, r"width is 18; give a multiple of 4 \(sine"),
        ({"parametrization": "completep"}, "'completep', which has no rules for resnet; give mup"),
        ({"parametrization": "mup", "optimizer": "lamb"}, "'mup' has no rule for optimizer 'lamb'"),
        ({"optimizer": "adam"}, r"optimizer is 'adam'; did you mean"),
        ({"schedule": "cosin"}, r"schedule 'cosin' is unknown; did you mean 'cosine'\?"),
        ({"noise_decay": 1.0}, r"noise_decay is 1\.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    """Each message names the option, the value and the mend, in one line."""
    with pytest.raises(TrainableError, match=message) as caught:
        Vision(**options)
    assert "\n" not in str(caught.value)


def test_patches_must_tile_the_images():
    """Known only once the images are."""
    with pytest.raises(TrainableError, match="patch is 3; give a divisor of 8 and 8"):
        Vision(**VIT | {"patch": 3}).describe()


def test_eval_examples_bounds_an_evaluation():
    """A smaller evaluation is another number, of the same images each time."""
    whole, part = (Vision(**RESNET, eval_examples=n) for n in (10_000, 50))
    scores = []
    for trainable in (whole, part, part):
        stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
        stack.admit(0, {}, seed=0)
        stack.run([20])
        scores.append(stack.evaluate("train", [0])["accuracy"][0])
    assert scores[1] == scores[2] != scores[0]
    assert (scores[1] * 50) == pytest.approx(round(scores[1] * 50))


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, {"heads": 4, "patch": 4, "positions": "fixed", "ghost_size": 8, "norm_groups": 4, "schedule_knots": 3}),
        ({"norm": "ghost"}, {"norm_groups": 4, "noise_decay": 0.5, "base_width": 8}),
        ({"norm": "group"}, {"ghost_size": 8, "base_depth": 2}),
        ({"architecture": "vit"}, {"norm": "group", "stages": 1, "preactivation": True, "base_heads": 1}),
    ],
    ids=["batch", "ghost", "group", "vit"],
)
def test_options_without_effect_are_not_in_the_bucket(given, changed):
    """Members that compute the same share a bucket, and those that do not have others."""
    usual = Vision(**given)
    for name, value in changed.items():
        assert Vision(**given, **{name: value}).bucket({}) == usual.bucket({})
    effective = {"vit": {"heads": 4}}.get(usual.architecture, {"stages": 1})
    sizes = {"ghost": {"ghost_size": 8}, "group": {"norm_groups": 4}}.get(usual.norm, {})
    for name, value in (effective | sizes | {"optimizer": "lamb"}).items():
        assert Vision(**given, **{name: value}).bucket({}) != usual.bucket({})


def test_a_batch_beyond_the_examples_is_refused():
    """No epoch of it comes to an end."""
    with pytest.raises(TrainableError, match=r"vision batch is 100000; give at most \d+, as there are to train on"):
        Vision(batch=100_000).describe()
