"""Plain modules run as members side by side: by registered layers, and under vmap."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from trainables import TrainableError
from trainables.core.layers import LAYERS
from trainables.core.model import initial_values
from trainables.core.modules import stack_module
from trainables.core.rng import Draws
from trainables.core.step import compiler

K = 3
DRAWS = Draws(torch.tensor([5, 6, 7]), torch.tensor([0, 10, 20]))


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _initial(stacked, seeds=(1, 2, 3)):
    params, buffers = stacked.initial(seeds, torch.float64)
    # Away from zeros and ones, which hide mistakes.
    for index, value in enumerate(params.values()):
        value += 0.1 * _randn(*value.shape, seed=index)
    return {name: t.requires_grad_() for name, t in params.items()}, buffers


def _results(stacked, params, x, buffers, **options):
    """Output, gradients by name and new buffers."""
    y, new = stacked(params, x, buffers=buffers, **options)
    leaves = [t for t in (x, *params.values()) if t.requires_grad]
    grads = torch.autograd.grad((y * _randn(*y.shape, seed=9)).sum(), leaves) if leaves else ()
    return y.detach(), grads, new


def _assert_close(expected, actual, tolerance=1e-12):
    assert expected.shape == actual.shape
    assert (expected - actual).norm() <= tolerance * max(1.0, expected.double().norm())


# --- the registry


ROW = (4, 6)
IMAGE = (4, 6, 8, 8)
SIGNAL = (4, 6, 9)
SAMPLES = {
    nn.Linear: (nn.Linear(6, 5), ROW),
    nn.Embedding: (nn.Embedding(7, 5, padding_idx=2), (4, 3)),
    nn.Conv1d: (nn.Conv1d(6, 4, 3, stride=2, padding=1, groups=2), SIGNAL),
    nn.Conv2d: (nn.Conv2d(6, 4, 3, padding="same", bias=False), IMAGE),
    nn.LayerNorm: (nn.LayerNorm((8, 8)), IMAGE),
    nn.RMSNorm: (nn.RMSNorm(6), ROW),
    nn.GroupNorm: (nn.GroupNorm(3, 6), IMAGE),
    nn.BatchNorm1d: (nn.BatchNorm1d(6, momentum=0.3), SIGNAL),
    nn.BatchNorm2d: (nn.BatchNorm2d(6, momentum=None), IMAGE),
    nn.Dropout: (nn.Dropout(0.0), ROW),
    nn.MaxPool1d: (nn.MaxPool1d(2), SIGNAL),
    nn.MaxPool2d: (nn.MaxPool2d(3, 2, 1), IMAGE),
    nn.AvgPool1d: (nn.AvgPool1d(2), SIGNAL),
    nn.AvgPool2d: (nn.AvgPool2d(3, 2, 1), IMAGE),
    nn.AdaptiveAvgPool1d: (nn.AdaptiveAvgPool1d(2), SIGNAL),
    nn.AdaptiveAvgPool2d: (nn.AdaptiveAvgPool2d((2, None)), IMAGE),
    nn.Flatten: (nn.Flatten(1, -2), IMAGE),
    nn.Unflatten: (nn.Unflatten(1, (2, 3)), IMAGE),
    nn.Softmax: (nn.Softmax(1), IMAGE),
    nn.LogSoftmax: (nn.LogSoftmax(-1), ROW),
}
SAMPLES |= {kind: (kind(), ROW) for kind in LAYERS if kind not in SAMPLES}


def test_every_registered_type_has_a_sample():
    """A sample is a module with options, or an elementwise module without."""
    assert set(SAMPLES) == set(LAYERS)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_a_registered_module_is_itself_member_by_member(kind, training):
    """Values, gradients and buffers are those of torch's module with each member's weights (float64, 1e-12)."""
    template, shape = SAMPLES[kind]
    stacked = stack_module(template)
    assert (stacked.way, stacked.why) == ("stacked", "")
    params, buffers = _initial(stacked)
    x = _randn(K, *shape).requires_grad_()
    if kind is nn.Embedding:
        x = (torch.arange(K * 12) % 7).view(K, *shape)
    values, grads, new = _results(stacked, params, x, buffers, training=training)
    single = copy.deepcopy(template).double().train(training)
    for member in range(K):
        own = {name: t[member].detach().requires_grad_() for name, t in params.items()}
        kept = {name: t[member].clone() for name, t in buffers.items()}
        inputs = x[member].detach().requires_grad_(x.requires_grad)
        y = functional_call(single, (own, kept), inputs)
        leaves = [t for t in (inputs, *own.values()) if t.requires_grad]
        cotangent = _randn(K, *y.shape, seed=9)[member]
        _assert_close(y.detach(), values[member])
        for expected, actual in zip(torch.autograd.grad((y * cotangent).sum(), leaves), grads, strict=True):
            _assert_close(expected, actual[member])
        for name, buffer in kept.items():
            _assert_close(buffer.double(), new[name][member].double())


# --- both ways


class Block(nn.Module):
    """A residual block with a gate, a skip, broadcasting, in-place addition and a shared layer."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, momentum=0.2)
        self.gate = nn.Parameter(torch.tensor(0.5))
        self.shift = nn.Parameter(torch.linspace(-1, 1, channels)[:, None, None])

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x)))
        y = torch.tanh(self.norm(self.conv(y)) + self.shift)
        y = y * self.gate
        y += x
        return torch.cat([y, 1 - x], 1)


class Network(nn.Module):
    """Convolution, norms, pooling, dropout and a head."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False),
            nn.GroupNorm(2, 4),
            nn.GELU(),
            Block(4),
            nn.MaxPool2d(2),
            nn.Dropout(0.3),
        )
        self.head = nn.Sequential(nn.Linear(8, 5), nn.LayerNorm(5), nn.Linear(5, 3))

    def forward(self, x):
        return self.head(self.net(x).mean((2, 3)))


class Opaque(Network):
    """The same, but its forward looks at the data's shape, which torch.fx cannot follow."""

    def forward(self, x):
        return super().forward(x) if len(x) > 0 else None


LIVE = {
    "net.5.p": torch.tensor([0.0, 0.3, 0.6], dtype=torch.float64),
    "net.3.norm.momentum": torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64),
}
IMAGES = (K, 3, 2, 8, 8)


@pytest.fixture
def pair():
    """A network that runs stacked and one under vmap, with the same parameters."""
    return stack_module(Network()), stack_module(Opaque())


def test_says_which_way_it_runs_and_why(pair):
    """The first module that kept it from being stacked is named."""
    assert [stacked.way for stacked in pair] == ["stacked", "vmap"]
    assert pair[0].why == ""
    assert "the module itself (Opaque) is not registered" in pair[1].why
    assert "torch.fx cannot trace it" in pair[1].why


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("live", [{}, LIVE], ids=["fixed", "live"])
def test_the_fallback_equals_the_stacked_way(pair, training, live):
    """Values, gradients and buffers agree (float64, 1e-12), random draws and live values included."""
    found = []
    for stacked in pair:
        params, buffers = _initial(stacked)
        x = _randn(*IMAGES).requires_grad_()
        found.append(_results(stacked, params, x, buffers, live=live, draws=DRAWS, training=training))
    (y, grads, new), (other, other_grads, other_new) = found
    _assert_close(y, other)
    for a, b in zip(grads, other_grads, strict=True):
        _assert_close(a, b)
    assert list(new) == list(other_new)
    for name, buffer in new.items():
        _assert_close(buffer.double(), other_new[name].double())


@pytest.mark.parametrize("which", [0, 1], ids=["stacked", "vmap"])
def test_equals_vmap_of_grad(pair, which):
    """The oracle: per-member gradients by `vmap(grad)` are the gradients of the summed loss."""
    stacked = pair[which]
    params, buffers = _initial(stacked)
    x, targets = _randn(*IMAGES), torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1]])
    logits, _ = stacked(params, x, buffers=buffers, training=False)
    losses = torch.stack([F.cross_entropy(*member) for member in zip(logits, targets, strict=True)])
    grads = torch.autograd.grad(losses.sum(), list(params.values()))
    template = Network().double().eval()

    def loss(own, kept, inputs, labels):
        return F.cross_entropy(functional_call(template, (own, kept), inputs), labels)

    oracle = torch.vmap(torch.func.grad(loss))({n: t.detach() for n, t in params.items()}, buffers, x, targets)
    for name, grad in zip(params, grads, strict=True):
        _assert_close(oracle[name], grad)


@pytest.mark.parametrize("poison", ["inputs", "weights", "live"])
@pytest.mark.parametrize("which", [0, 1], ids=["stacked", "vmap"])
def test_nan_stays_with_its_member(pair, which, poison):
    """One member's inputs or weights NaN, or its dropout changed: the others are bit for bit as without."""
    stacked = pair[which]
    found = []
    for wild in (False, True):
        params, buffers = _initial(stacked)
        x, live = _randn(*IMAGES), {name: value.clone() for name, value in LIVE.items()}
        with torch.no_grad():
            if wild and poison == "inputs":
                x[1] = torch.nan
            for value in params.values() if wild and poison == "weights" else ():
                value[1] = torch.inf
            for value in live.values() if wild and poison == "live" else ():
                value[1] = 0.9
        y, grads, new = _results(stacked, params, x.requires_grad_(), buffers, live=live, draws=DRAWS)
        found.append([t[[0, 2]] for t in (y, *grads, *new.values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("which", [0, 1], ids=["stacked", "vmap"])
def test_a_live_value_changes_its_own_member(pair, which):
    """Dropout and momentum are in effect for the member they are given for."""
    stacked = pair[which]
    params, buffers = _initial(stacked)
    assert stacked.live == {"net.5.p": 0.3, "net.3.norm.momentum": 0.2}
    plain, plain_new = stacked(params, _randn(*IMAGES), buffers=buffers, draws=DRAWS)
    changed = {name: torch.full((K,), value, dtype=torch.float64) for name, value in stacked.live.items()}
    for value in changed.values():
        value[1] = 0.7
    y, new = stacked(params, _randn(*IMAGES), buffers=buffers, live=changed, draws=DRAWS)
    for a, b in ((plain, y), (plain_new["net.3.norm.running_mean"], new["net.3.norm.running_mean"])):
        assert [torch.equal(a[i], b[i]) for i in range(K)] == [True, False, True]


@pytest.mark.parametrize("which", [0, 1], ids=["stacked", "vmap"])
def test_what_is_given_stays_as_it_is(pair, which):
    """Buffers are returned, not changed in place; nor is torch's generator touched."""
    stacked = pair[which]
    before = torch.get_rng_state()
    params, buffers = _initial(stacked)
    kept = {name: t.clone() for name, t in buffers.items()}
    _, new = stacked(params, _randn(*IMAGES), buffers=buffers, draws=DRAWS)
    assert all(torch.equal(kept[name], t) for name, t in buffers.items())
    # A layer that is used twice has seen two batches.
    assert new["net.3.norm.num_batches_tracked"].tolist() == [2] * K
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_a_stacked_module_is_one_graph(pair):
    """It is traced without a break, and computes the same."""
    stacked, _ = pair
    params, buffers = _initial(stacked)

    def run(params, x, buffers, draws):
        return stacked(params, x, buffers=buffers, draws=draws)

    given = (params, _randn(*IMAGES), buffers, DRAWS)
    (y, new), (other, other_new) = run(*given), torch.compile(run, fullgraph=True, backend="aot_eager")(*given)
    _assert_close(y.detach(), other.detach())
    for name, buffer in new.items():
        _assert_close(buffer.double(), other_new[name].double())


def test_a_layer_visited_twice_draws_twice():
    """Two calls of one dropout have masks of their own."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(x) - self.drop(x)

    stacked = stack_module(Twice())
    assert stacked.way == "stacked"
    assert stacked({}, torch.ones(K, 100), draws=DRAWS)[0].abs().sum(1).min() > 0


@pytest.mark.parametrize("which", [0, 1], ids=["stacked", "vmap"])
def test_bad_calls_are_refused(pair, which):
    """Missing draws and unknown live names are told apart from the template's own errors."""
    stacked = pair[which]
    params, buffers = _initial(stacked)
    with pytest.raises(TrainableError, match=r"module 'net.5' draws random numbers in training; give draws"):
        stacked(params, _randn(*IMAGES), buffers=buffers)
    with pytest.raises(TrainableError, match=r"live 'net.5.q' is unknown.*net.5.p"):
        stacked(params, _randn(*IMAGES), buffers=buffers, live={"net.5.q": DRAWS.seed})


# --- what cannot be stacked


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


class Own(nn.Linear):
    """A subclass may compute anything."""


def _hooked():
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda module, args, output: 2 * output)
    return module


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.PReLU()), "module '1' (PReLU) is not registered"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh(), nn.PReLU())), "module '1.1' (PReLU) is not registered"),
        (nn.Sequential(nn.ReLU(), Fourier()), "module '1' (Fourier) is not registered and calls 'fft_fft'"),
        (nn.Sequential(_hooked()), "module '0' (Linear) has hooks"),
        (nn.Softmin(0), "the module itself (Softmin) is not registered"),
        (nn.Conv1d(4, 4, 1, padding_mode="circular"), "the module itself (Conv1d): padding_mode is not zeros"),
    ],
)
def test_the_first_part_without_a_stacked_form_is_named(module, why):
    """And the module runs nonetheless, as each member's own would."""
    stacked = stack_module(module)
    assert stacked.way == "vmap"
    assert stacked.why.startswith(why)
    params, _ = _initial(stacked)
    x = _randn(K, 4, 4)
    y, _ = stacked(params, x)
    for member in range(K):
        single = functional_call(module.double(), {name: t[member] for name, t in params.items()}, x[member])
        _assert_close(single, y[member])


def test_a_subclass_of_a_registered_type_is_not_that_type():
    """It may compute something else; torch.fx looks into it."""
    assert "Own" in stack_module(nn.Sequential(Own(4, 4))).why


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (nn.LSTM(4, 5), (3, 2, 4), r"\(LSTM\) is not registered.* torch.vmap cannot run it: Batching rule"),
        (nn.Sequential(nn.AlphaDropout(0.5)), (4,), r"\(AlphaDropout\).*draws from torch's generator"),
    ],
)
def test_what_runs_neither_way_says_so(module, shape, message):
    """The message has both reasons."""
    stacked = stack_module(module)
    params, _ = _initial(stacked)
    with pytest.raises(TrainableError, match=message):
        stacked(params, _randn(K, *shape))


def test_a_mistake_of_the_callers_is_not_blamed_on_vmap(pair):
    """Wrong shapes raise torch's own error."""
    params, buffers = _initial(pair[1])
    with pytest.raises(RuntimeError, match="channels"):
        pair[1](params, _randn(K, 3, 5, 8, 8), buffers=buffers, draws=DRAWS)


def test_torchs_attention_runs_under_vmap():
    """nn.TransformerEncoderLayer: the plain attention kernel, with gradients."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    stacked = stack_module(layer)
    params, _ = _initial(stacked)
    x = _randn(K, 2, 5, 8).requires_grad_()
    values, grads, _ = _results(stacked, params, x, {})
    for member in range(K):
        own = {name: t[member].detach().requires_grad_() for name, t in params.items()}
        y = functional_call(layer.double(), own, x[member].detach())
        _assert_close(y.detach(), values[member])
        expected = torch.autograd.grad((y * _randn(K, *y.shape, seed=9)[member]).sum(), list(own.values()))
        for a, b in zip(expected, grads[1:], strict=True):
            _assert_close(a, b[member])


def test_a_shared_weight_is_one_parameter():
    """Tied embedding and head: one tensor, stored under its first name, with the gradient of both uses."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.rows.weight

        def forward(self, tokens):
            return self.head(self.rows(tokens))

    stacked = stack_module(Tied())
    assert stacked.way == "stacked"
    assert list(stacked.parameters) == ["rows.weight"]
    params, _ = _initial(stacked)
    tokens = (torch.arange(K * 4) % 7).view(K, 4)
    table = params["rows.weight"]
    y, _ = stacked(params, tokens)
    for member in range(K):
        _assert_close(table[member][tokens[member]] @ table[member].T, y[member])


# --- what parameters start from


def test_initial_values_depend_on_the_seed_alone():
    """A member's are the same bits in any slot, at any K, whatever the template's own weights and torch's seed."""
    torch.manual_seed(1)
    stacked = stack_module(Opaque())
    alone, _ = stacked.initial([7])
    torch.manual_seed(2)
    among, _ = stack_module(Opaque()).initial([1, 2, 7, 3])
    for name, value in alone.items():
        assert torch.equal(value[0], among[name][2]), name
    assert not torch.equal(among["head.0.weight"][0], among["head.0.weight"][1])


DRAWN = [
    (nn.Linear(64, 128), {"weight": 1 / 8, "bias": 1 / 8}),
    (nn.Conv1d(12, 126, 3, groups=3), {"weight": 12**-0.5, "bias": 12**-0.5}),
    (nn.Conv2d(8, 128, 3), {"weight": 72**-0.5, "bias": 72**-0.5}),
]


@pytest.mark.parametrize(("module", "bounds"), DRAWN, ids=["Linear", "Conv1d", "Conv2d"])
def test_uniform_in_torchs_bounds(module, bounds):
    """+-1 / sqrt(fan_in) of one member's shapes, filled to the edge, with torch's quantiles."""
    params, _ = stack_module(module).initial(range(40), torch.float64)
    for name, bound in bounds.items():
        drawn = params[name]
        torch_own = torch.stack([_reset(module, seed).get_parameter(name) for seed in range(40)]).detach()
        assert drawn.shape == torch_own.shape
        assert -bound <= drawn.min() < -0.99 * bound
        assert 0.99 * bound < drawn.max() <= bound
        levels = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
        # Five standard errors of a quantile of 40 * 128 draws or more.
        assert (drawn.flatten().float().quantile(levels) / bound).sub(2 * levels - 1).abs().max() < 0.08
        assert (torch_own.flatten().quantile(levels) / bound).sub(2 * levels - 1).abs().max() < 0.08


def _reset(module, seed):
    torch.manual_seed(seed)
    module.reset_parameters()
    return copy.deepcopy(module)


def test_embeddings_are_normal_with_a_padding_row_of_zeros():
    """As torch.nn.Embedding."""
    params, _ = stack_module(nn.Embedding(100, 50, padding_idx=3)).initial([1, 2])
    rows = params["weight"]
    assert torch.equal(rows[:, 3], torch.zeros(2, 50))
    assert rows.mean().abs() < 0.05
    assert rows[:, 4:].std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d])
def test_norms_start_as_the_identity(kind):
    """Gain 1, bias 0, and buffers as in the template."""
    params, buffers = stack_module(kind(4)).initial([1, 2])
    for name, value in params.items():
        assert torch.equal(value, torch.full((2, 4), float(name == "weight")))
    for name, value in kind(4).named_buffers():
        assert torch.equal(buffers[name], value.expand(2, *value.shape))


def test_an_unregistered_module_resets_itself_by_the_members_seed():
    """As torch's constructor does: MultiheadAttention's bias of 0 after its children, Xavier for its matrix."""
    stacked = stack_module(nn.MultiheadAttention(8, 2))
    params, _ = stacked.initial([1, 2])
    assert torch.equal(params["out_proj.bias"], torch.zeros(2, 8))
    bound = (6 / (8 + 24)) ** 0.5
    assert 0.9 * bound < params["in_proj_weight"].abs().max() <= bound
    assert not torch.equal(*params["in_proj_weight"])
    assert torch.equal(params["in_proj_weight"][1], stacked.initial([2])[0]["in_proj_weight"][0])


def test_a_parameter_of_a_users_own_starts_at_the_templates_value():
    """Nothing says otherwise; such as a gate's."""
    params, _ = stack_module(Network()).initial([1, 2])
    assert params["net.3.gate"].tolist() == [0.5, 0.5]


def test_weight_decay_acts_on_matrices_only():
    """Of Linear and Conv; not on biases, norms, embeddings and gates."""
    decayed = {name for name, p in stack_module(Network()).parameters.items() if p.decay}
    assert decayed == {"net.0.weight", "net.3.conv.weight", "head.0.weight", "head.2.weight"}
    assert not stack_module(nn.Embedding(3, 4)).parameters["weight"].decay


def test_parameters_serve_a_model():
    """A stack initialises them as `initial` does: `Model.parameters` may return them."""
    stacked = stack_module(Network())
    values = initial_values(stacked.parameters, 11)
    params, _ = stacked.initial([11], torch.float64)
    for name, value in values.items():
        assert torch.equal(value.double(), params[name][0])


def test_the_template_is_left_alone():
    """It is copied: its mode and its forward stay."""
    template = Opaque().eval()
    stack_module(template)
    assert not any(part.training for part in template.modules())
    assert not any("forward" in vars(part) for part in template.modules())
