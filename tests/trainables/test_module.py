"""Somebody's own torch.nn module, whose members train stacked where that can be."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from tests.contracts.stack_contract import Change, StackContract
from tests.contracts.states import assert_same
from tests.trainables import nets
from tests.trainables.changes import ADAM, ADAM_SAMPLES, REST
from trainables import Place, TrainableError, adapt, load
from trainables.base import Plan
from trainables.core.rng import Draws
from trainables.core.stack import CoreStack
from trainables.core.step import compiler
from trainables.own.tensors import TensorFeed

NET = "tests.trainables.nets:"
EXACT = Place(dtype="float64", compile="never")


def module(model: str = "Plain", loss: str = "smoothed", data: str = "rows", **options: Any) -> Any:
    """One of `nets`."""
    return adapt.from_module(NET + model, NET + loss, NET + data, **{"batch": 8, **options})


def stack(trainable: Any, capacity: int = 2, place: Place = EXACT) -> CoreStack:
    """With fresh members, of equal hyperparameters."""
    made = trainable.build(trainable.bucket({}), capacity, place)
    for slot in range(capacity):
        made.admit(slot, {}, seed=slot)
    return made


class TestContract(StackContract):
    """Stacked, with batch norm, dropout, and a hyperparameter of the loss."""

    SAMPLES = tuple({**sample, "smoothing": 0.05 * i} for i, sample in enumerate(ADAM_SAMPLES))
    CHANGES: ClassVar = {**ADAM, **REST, "bn_momentum": Change(to=0.5), "smoothing": Change(to=0.5)}

    @pytest.fixture
    def trainable(self):
        return module(metrics={"accuracy": (adapt.accuracy, "max")})


@pytest.mark.full
class TestContractUnderVmap(StackContract):
    """With a frozen part, masks, random buffers and a mean that the forward assigns."""

    SAMPLES = ADAM_SAMPLES
    CHANGES: ClassVar = {**ADAM, **REST}
    # A bias that all keys share cancels in the softmax: its gradient is rounding, which AdamW divides by its own size.
    ROUNDING = "in_proj_bias"

    @pytest.fixture
    def trainable(self):
        return adapt.from_module(nets.Attentive, F.cross_entropy, nets.series, batch=8, accumulate=2)


@pytest.mark.full
class TestContractInTurns(StackContract):
    """An LSTM, which neither has a stacked form nor runs under vmap, and a loss that looks at its value."""

    SAMPLES = ADAM_SAMPLES
    CHANGES: ClassVar = {**ADAM, **REST}

    @pytest.fixture
    def trainable(self):
        return module("Recurrent", "choosy", "series")


# --- what is trained


@pytest.mark.parametrize(
    ("model", "data", "way"),
    [("Plain", "rows", "stacked"), ("Attentive", "series", "vmap"), ("Recurrent", "series", "turns")],
)
def test_follows_plain_torch(model, data, way):
    """Losses and weights are those of the module under torch's AdamW on the same batches, 60 steps (float64, 1e-9)."""
    trainable = adapt.from_module(NET + model, F.cross_entropy, NET + data, batch=8)
    made = stack(trainable)
    hparams = {"lr": 3e-3, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.99, "dropout": 0.0, "clip_norm": 0.5}
    made.set_hparams([0, 1], **{name: [value] * 2 for name, value in hparams.items()})
    assert made.program.model.stacked.way == way
    if way == "turns":
        nets.F = _NothingDropped  # its own dropout draws from torch's generator
    try:
        losses = np.array([made.run([step + 1] * 2)["loss"] for step in range(60)])
        for slot in range(2):
            theirs, expected = _plainly_trained(trainable, slot, hparams)
            np.testing.assert_allclose(losses[:, slot], expected, rtol=1e-9)
            _assert_is(theirs, made, slot)
    finally:
        nets.F = F


class _NothingDropped:
    cross_entropy = F.cross_entropy

    @staticmethod
    def dropout(x, p, training):
        return x


def _plainly_trained(trainable, seed, hparams):
    """What a script of the user's would have trained, and its losses."""
    made = stack(trainable, 1)
    made.admit(0, {}, seed=seed)
    plain = made.program.model.source.fresh(seed).double()
    for part in plain.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    weights = [p for p in plain.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": hparams["weight_decay"]},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=hparams["lr"], betas=(hparams["beta1"], hparams["beta2"]))
    losses = []
    for step in range(60):
        clocks = torch.tensor([seed]), torch.tensor([step])
        x, target = (column[0] for column in made.program.feed.batch(Draws(*clocks)))
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(x.double()), target)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, hparams["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    return plain, losses


def _assert_is(plain, made, slot):
    theirs = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    for shard in made.state(slot).shards:
        kind, _, name = shard.name.partition(".")
        if kind in ("params", "buffers", "counters"):
            torch.testing.assert_close(shard.tensor.double(), theirs[name].detach().double(), rtol=1e-8, atol=1e-9)


def test_a_member_begins_as_the_users_code_makes_it():
    """Weights and buffers are what the function makes under the member's seed, whatever layers have entries."""
    made = stack(module(), 3)
    heads = [made.params["head.weight"][slot] for slot in range(3)]
    assert not torch.equal(heads[0], heads[1])
    assert all(head.std() < 0.03 for head in heads)
    assert (made.params["head.bias"] == 0.5).all()
    random = stack(module("Attentive", "choosy", "series")).buffers["random"]
    assert not torch.equal(random[0], random[1])


def test_arguments_go_to_the_model():
    """`arguments` are what it is called with; another size is another bucket."""
    wide = module(arguments={"width": 12})
    assert stack(wide).params["head.weight"].shape == (2, nets.CLASSES, 12)
    assert wide.bucket({}) != module().bucket({})


def test_what_does_not_ask_for_gradients_is_left_alone():
    """Frozen parameters, and those that the loss does not depend on, stay as they were, and belong to the member."""
    made = stack(module("Attentive", "choosy", "series"))
    before = {name: t.clone() for name, t in made.buffers.items()}
    made.set_hparams([0, 1], weight_decay=[0.5, 0.5])
    made.run([5, 5])
    for name in ("inputs.weight", "unused.weight", "unused.bias", "random"):
        assert torch.equal(before[name], made.buffers[name])
    assert not torch.equal(before["mean"], made.buffers["mean"])
    assert {"inputs.bias", "layer.self_attn.in_proj_weight"} <= set(made.params)


@pytest.mark.parametrize(("model", "data"), [("Plain", "rows"), ("Attentive", "series"), ("Recurrent", "series")])
def test_a_state_is_the_modules_own(model, data):
    """Its parameters and buffers are what `load_state_dict` takes, and evaluate to the recorded score."""
    trainable = adapt.from_module(NET + model, F.cross_entropy, NET + data, batch=8)
    made = stack(trainable)
    made.run([9, 9])
    kinds = ("params.", "buffers.", "counters.")
    own = {s.name.partition(".")[2]: s.tensor for s in made.state(1).shards if s.name.startswith(kinds)}
    plain = getattr(nets, model)().double().eval()
    plain.load_state_dict(own)
    x, target = (
        column for column in TensorFeed.of(trainable._tables(), torch.device("cpu"), 8, 99).columns["validation"]
    )
    with torch.no_grad():
        expected = F.cross_entropy(plain(x.double()), target)
    assert made.evaluate("validation", [1])["loss"][1] == pytest.approx(expected.item(), rel=1e-12)


def test_two_inputs_and_two_targets():
    """The module takes the inputs, the loss its outputs and the targets; floating targets go along in float32."""
    trainable = module("Two", "of_two", "pairs", batch=10)
    made = stack(trainable)
    x, kind, labels, weight = (
        column[0] for column in made.program.feed.batch(Draws(torch.zeros(1).long(), torch.zeros(1).long()))
    )
    plain = made.program.model.source.fresh(0).double()
    expected = nets.of_two(plain(x.double(), kind), labels, weight)
    assert made.run([1, 0])["loss"][0] == pytest.approx(expected.item(), rel=1e-12)


def test_a_loss_that_takes_floats_only_gets_floats():
    """Torch's label smoothing is none for tensors: members' losses are computed in turns, and are the same."""
    losses = []
    for name in ("smoothed", "by_torch"):
        trainable = module("Plain", name)
        assert set(trainable._network().keywords) == {"smoothing"}
        made = stack(trainable)
        made.set_hparams([0, 1], smoothing=[0.0, 0.3])
        losses.append(made.run([5, 5])["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-12)
    assert made.program.model.in_turns == {"loss"}


def test_a_shared_weight_is_one():
    """It is trained once, and kept once."""
    made = stack(adapt.from_module(nets.Tied, F.cross_entropy, nets.rows, batch=8))
    made.run([3, 3])
    assert set(made.params) == {"into.weight"}
    hparams = {name: made.hparams(1)[name] for name in ("lr", "weight_decay", "beta1", "beta2")}
    trainable = adapt.from_module(nets.Tied, F.cross_entropy, nets.rows, batch=8)
    _, losses = _plainly_trained(trainable, 1, {**hparams, "clip_norm": math.inf})
    again = stack(trainable)
    found = [again.run([step + 1] * 2)["loss"][1] for step in range(60)]
    np.testing.assert_allclose(found, losses, rtol=1e-9)


def test_layers_that_differ_have_hyperparameters_of_their_own():
    """Two dropouts of 0.1 are one `dropout`; one of 0.1 and one of 0.5 have a name each."""
    assert {"dropout", "bn_momentum"} <= set(module().describe().hparams)
    specs = adapt.from_module(f"{__name__}:Unequal", F.cross_entropy, nets.rows, batch=8).describe().hparams
    assert "dropout" not in specs
    assert (specs["1.p"].default, specs["3.p"].default) == (0.1, 0.5)


def Unequal() -> nn.Module:
    """Two dropouts."""
    return nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.1), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3))


def test_flops_are_counted_by_the_example():
    """A linear layer takes 2 x inputs x outputs forward, as much for its weights, and again for what is below."""
    described = module().describe()
    first, head = 2 * nets.WIDTH * 8, 2 * 8 * nets.CLASSES
    assert described.flops_per_step == 8 * (2 * first + 3 * head)
    assert module("Recurrent", "choosy", "series").describe().flops_per_step is None


def test_side_by_side_is_checked_against_one_alone(caplog):
    """A module that vmap would get wrong trains in turns, and says so."""
    with caplog.at_level(logging.WARNING):
        made = stack(adapt.from_module(f"{__name__}:Sneaky", F.cross_entropy, nets.rows, batch=8))
    assert made.program.model.stacked.way == "turns"
    assert "its members train one after the other" in caplog.text
    assert "other values than each by itself" in caplog.text


class Sneaky(nn.Module):
    """Asks for a dimension that another has in company."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(nets.WIDTH, nets.CLASSES)

    def forward(self, x):
        scale = 2.0 if torch._C._functorch.maybe_current_level() is not None else 1.0
        return scale * torch.special.erfcx(self.linear(x))


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.full
def test_a_stacked_module_compiles():
    """The step is one graph, and trains as the eager one does (float64, 1e-9)."""
    trainable = module()
    eager = stack(trainable)
    compiled = stack(trainable, place=Place(dtype="float64", compile="always"))
    assert compiled.plan.compiled
    for made in (eager, compiled):
        made.run([20, 20])
    for name, tensor in eager.params.items():
        torch.testing.assert_close(tensor, compiled.params[name], rtol=1e-9, atol=1e-9)


def test_what_cannot_be_compiled_says_so(caplog):
    """Under vmap or in turns the step is eager, with one notice."""
    trainable = module("Attentive", "smoothed", "series")
    with caplog.at_level(logging.WARNING):
        made = stack(trainable, place=Place(compile="always"))
    assert not made.plan.compiled
    assert "nets:Attentive' trains eagerly: " in caplog.text


@pytest.mark.parametrize(("model", "data"), [("Attentive", "series"), ("Recurrent", "series")], ids=["vmap", "turns"])
def test_stacks_of_two_threads_do_not_meet(model, data):
    """As hosts in one process have them: each is what it is alone."""
    trainable = module(model, "smoothed", data)
    alone = stack(trainable)
    alone.run([25, 25])
    together = [stack(trainable) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda it: it.run([25, 25]), together))
    for other in together:
        assert_same(alone.state(1), other.state(1))


# --- data


class Squares(Dataset):
    """A map-style data set."""

    def __init__(self, num):
        self.num = num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        if index >= self.num:
            raise IndexError
        return np.full(6, float(index), np.float32), index % 3


def squares():
    """In two parts."""
    return {"train": Squares(12), "validation": Squares(5)}


def test_a_data_set_is_read_once():
    """What is no tensor data set is read item by item; without a test split there is none."""
    trainable = adapt.from_module(NET + "Plain", F.cross_entropy, squares, batch=4)
    described = trainable.describe()
    assert described.splits == ("train", "validation")
    assert described.data["examples_train"] == 12
    columns = trainable._tables().columns
    assert torch.equal(columns["train"][0][:, 0], torch.arange(12.0))
    assert torch.equal(columns["validation"][1], torch.arange(5) % 3)


def test_provenance_changes_with_the_data():
    """The hash is of values, shapes and splits."""
    assert module().describe().data["sha256"] != module("Two", "of_two", "pairs").describe().data["sha256"]
    assert module().describe().data["source"] == f"{NET}rows"


# --- what is refused


def _function(value):
    return lambda: value


X, Y = np.zeros((9, 6), np.float32), np.zeros(9, np.int64)
bad_data = {
    "not_a_mapping": [1],
    "no_validation": {"train": (X, Y)},
    "misspelt": {"train": (X, Y), "valdiation": (X, Y)},
    "one_value": {"train": X, "validation": (X, Y)},
    "three_values": {"train": (X, Y, Y), "validation": (X, Y)},
    "unequal": {"train": (X, Y[:8]), "validation": (X, Y)},
    "other_shape": {"train": (X, Y), "validation": (X[:, :5], Y)},
    "words": {"train": (np.array(["a"] * 9), Y), "validation": (X, Y)},
    "empty": {"train": (X[:0], Y[:0]), "validation": (X, Y)},
}


def __getattr__(name):
    """Data of `bad_data`, by name."""
    if name in bad_data:
        return lambda: bad_data[name]
    raise AttributeError(name)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("not_a_mapping", "which gave a list; give {'train'"),
        ("no_validation", "which gave no 'validation'; give {'train'"),
        ("misspelt", "which gave 'valdiation'; did you mean 'validation'"),
        ("one_value", "whose 'train' is a ndarray, not"),
        ("three_values", "whose 'train' is 3 values, not"),
        ("unequal", "whose 'train' has 8 and 9 examples; give equally many"),
        ("other_shape", r"whose examples of 'validation' look like .*\[5\].* those of 'train' like"),
        ("words", "whose 'train' has an array of <U1; give"),
        ("empty", "whose 'train' has 0 examples"),
    ],
)
def test_what_is_no_data_is_refused(name, problem):
    """With the split, and what it should be."""
    with pytest.raises(TrainableError, match=f"module data is '{__name__}:{name}', {problem}"):
        adapt.from_module(NET + "Plain", F.cross_entropy, f"{__name__}:{name}", batch=4).describe()


def raises(*_):
    """A mistake of the user's."""
    raise ValueError("no such file")


def of_list(output, target):
    """No tensor."""
    return [1.0]


def by_example(output, target):
    """Not the mean."""
    return F.cross_entropy(output, target, reduction="none")


def of_nothing(output, target):
    """Does not depend on the module."""
    return target.double().mean()


def tuned(output, target, *, lr=1.0):
    """Its hyperparameter has the optimizer's name."""
    return lr * F.cross_entropy(output, target)


def dropping(output, target, *, dropout=1.0):
    """Its hyperparameter has the model's name."""
    return dropout * F.cross_entropy(output, target)


def too_wide():
    """Does not fit the data."""
    return nn.Linear(7, 3)


def one_target(output):
    """Takes no target."""
    return output.mean()


HERE = f"{__name__}:"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"data": f"{HERE}raises"}, "module data is '.*raises', which raised ValueError: no such file; mend it"),
        ({"model": f"{HERE}raises"}, "module model is '.*raises', which raised ValueError: no such file; mend it"),
        ({"model": f"{HERE}squares"}, "module model is '.*squares', which gave a dict; return a torch.nn.Module"),
        ({"model": f"{HERE}too_wide"}, r"which raised RuntimeError: .*shapes.* on torch.float32 \[8, 6\]; mend it, or"),
        ({"arguments": {"depth": 1}}, "module model is '.*Plain', which raised TypeError: .*'depth'; mend it"),
        ({"loss": f"{HERE}of_list"}, "module loss is '.*of_list', which gave a list; give the mean over the examples"),
        ({"loss": f"{HERE}by_example"}, r"which gave \[8\] values; give the mean over the examples"),
        ({"loss": f"{HERE}of_nothing"}, "which does not depend on the model's parameters"),
        ({"loss": f"{HERE}one_target"}, r"which raised TypeError: .*; it is called as measure\(output, target\)"),
        ({"loss": f"{HERE}tuned"}, "module loss is '.*tuned', whose 'lr' is the optimizer's, too; rename it"),
        ({"loss": f"{HERE}dropping"}, "module loss is '.*dropping', whose 'dropout' is the model's, too; rename it"),
        ({"metrics": {"all": (by_example, "max")}}, r"module all is '.*by_example', which gave \[8\] values"),
        ({"batch": 61}, "module batch is 61; give at most 60, as there are to train on"),
    ],
)
def test_what_does_not_work_together_is_refused(changed, problem):
    """By the name of whose mistake it is, before anything is trained."""
    options = {"model": NET + "Plain", "loss": NET + "smoothed", "data": NET + "rows", "batch": 8, **changed}
    with pytest.raises(TrainableError, match=problem):
        adapt.from_module(**options).describe()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"model": "nowhere:Net"}, "module model is 'nowhere:Net', which cannot be imported"),
        ({"model": nn.Linear(2, 2)}, "module model is a Linear; give the function or class that makes it"),
        ({"loss": nn.CrossEntropyLoss()}, "module loss is a CrossEntropyLoss; give a function"),
        ({"loss": lambda output, target: output.mean()}, "is not found by its name; define the function at the top"),
        ({"metrics": {"loss": (adapt.accuracy, "max")}}, "module metrics.'loss'. is measured already"),
        ({"metrics": {"accuracy": (adapt.accuracy, "maximum")}}, "has mode 'maximum'; did you mean 'max'"),
        ({"arguments": {"width": {1, 2}}}, "module arguments is .*; give numbers, words, lists by name"),
        ({"batch": 0}, "module batch is 0; give a whole number >= 1"),
        ({"accumulate": 3}, "module accumulate is 3; give a divisor of batch, 8"),
        ({"noise_decay": 1.0}, "module noise_decay is 1.0"),
        ({"optimizer": "adamm"}, "'adamm'"),
        ({"schedule": "cosin"}, "'cosin'"),
        ({"learning_rate": 1.0}, "from_module: .*'learning_rate'; the options are those of trainables.module.Module"),
    ],
)
def test_options_that_make_no_trainable_are_refused(changed, problem):
    """At once."""
    options = {"model": NET + "Plain", "loss": NET + "smoothed", "data": NET + "rows", "batch": 8, **changed}
    with pytest.raises(TrainableError, match=problem):
        adapt.from_module(**options)


def test_metrics_of_a_file_are_checked():
    """As YAML gives them."""
    options = {"model": NET + "Plain", "loss": NET + "smoothed", "data": NET + "rows"}
    with pytest.raises(TrainableError, match=r"module metrics\['accuracy'\] is 'max'; give {'function'"):
        load("module", {**options, "metrics": {"accuracy": "max"}})


def test_batch_norm_is_not_split():
    """Its batches would be others."""
    with pytest.raises(TrainableError, match="has batch norm, which splitting its batch would change"):
        stack(module(accumulate=2))
    with pytest.raises(TrainableError, match="has batch norm"):
        stack(module(), place=Place(plan=Plan(chunk=1, compiled=False, accumulate=2)))


def test_ranks_are_refused():
    """A gang has a trainable of its own."""
    trainable = module()
    with pytest.raises(TrainableError, match=r"hosts\.ranks is 2, .*give 1, or train with `name: gang`"):
        trainable.build(trainable.bucket({}), 1, Place(world_size=2))


def test_it_is_found_by_its_name():
    """A sweep file says `name: module`."""
    options = {"model": NET + "Plain", "loss": NET + "smoothed", "data": NET + "rows"}
    assert load("module", options) == adapt.from_module(options["model"], options["loss"], options["data"])
