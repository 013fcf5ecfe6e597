"""Every stacked layer beside its plain torch counterpart, over a table of shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from trainables.core import ops
from trainables.core.rng import Draws, keep

Outputs = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layer at one shape.

    Attributes:
        stacked: The layer under test; takes `[K, ...]` tensors by name.
        plain: What torch computes for one member; takes the same without K.
        leaves: Shapes of one member's differentiable tensors, by name.
        given: What is not differentiated, by name: K to `[K, ...]`.
    """

    stacked: Callable[..., Tensor | Outputs]
    plain: Callable[..., Tensor | Outputs]
    leaves: Mapping[str, tuple[int, ...]]
    given: Mapping[str, Callable[[int], Tensor]] = field(default_factory=dict)

    def tensors(self, num_members: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """`[K, ...]` by name; member k's are the same whatever K."""
        found = {}
        for index, (name, shape) in enumerate(self.leaves.items()):
            draw = torch.Generator().manual_seed(index)
            rows = [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(num_members)]
            found[name] = torch.stack(rows).to(dtype)
        given = {name: make(num_members) for name, make in self.given.items()}
        # Statistics have the dtype of what they are of; shares and probabilities are float64 always.
        return found | {name: t.to(dtype) if name in ("mean", "var") else t for name, t in given.items()}


def linear(rows=(10,), inputs=4, outputs=6, bias=True):
    shapes = {"x": (*rows, inputs), "weight": (outputs, inputs)}
    return Case(stacked=ops.linear, plain=F.linear, leaves=_with(shapes, bias, bias=(outputs,)))


def embedding(rows=(10,), vocabulary=7, width=4, padding=None):
    def tokens(num_members):
        count = torch.Size((num_members, *rows)).numel()
        return (torch.arange(count) * 5 % vocabulary).view(num_members, *rows)

    return Case(
        stacked=lambda weight, tokens: ops.embedding(tokens, weight, padding),
        plain=lambda weight, tokens: F.embedding(tokens, weight, padding),
        leaves={"weight": (vocabulary, width)},
        given={"tokens": tokens},
    )


def conv2d(batch=3, channels=3, outputs=4, size=(6, 5), kernel=(3, 3), groups=1, bias=True, **options):
    shapes = {"x": (batch, channels, *size), "weight": (outputs, channels // groups, *kernel)}
    return Case(
        stacked=lambda **t: ops.conv2d(**t, groups=groups, **options),
        plain=lambda x, **t: F.conv2d(x, **t, groups=groups, **options),
        leaves=_with(shapes, bias, bias=(outputs,)),
    )


def conv1d(batch=3, channels=3, outputs=4, size=9, kernel=3, groups=1, bias=True, **options):
    shapes = {"x": (batch, channels, size), "weight": (outputs, channels // groups, kernel)}
    return Case(
        stacked=lambda **t: ops.conv1d(**t, groups=groups, **options),
        plain=lambda x, **t: F.conv1d(x, **t, groups=groups, **options),
        leaves=_with(shapes, bias, bias=(outputs,)),
    )


def rms_norm(rows=(10,), shape=(8,), affine=True, eps=1e-6):
    return Case(
        stacked=lambda x, weight=None: ops.rms_norm(x, weight, eps, len(shape)),
        plain=lambda x, weight=None: F.rms_norm(x, shape, weight, eps),
        leaves=_with({"x": (*rows, *shape)}, affine, weight=shape),
    )


def layer_norm(rows=(10,), shape=(8,), affine=True, bias=True):
    shapes = _with({"x": (*rows, *shape)}, affine, weight=shape)
    return Case(
        stacked=lambda x, **t: ops.layer_norm(x, **t, dims=len(shape)),
        plain=lambda x, **t: F.layer_norm(x, shape, **t),
        leaves=_with(shapes, bias, bias=shape),
    )


def group_norm(batch=3, channels=6, space=(4,), groups=2, affine=True):
    return Case(
        stacked=lambda x, **t: ops.group_norm(x, groups, **t),
        plain=lambda x, **t: F.group_norm(x, groups, **t),
        leaves=_with({"x": (batch, channels, *space)}, affine, weight=(channels,), bias=(channels,)),
    )


def batch_norm(batch=6, channels=3, space=(), affine=True, tracked=True):
    def stacked(x, momentum, mean=None, var=None, **t):
        y, running = ops.batch_norm(x, ops.Running(mean, var) if tracked else None, momentum, **t)
        return (y, *running) if tracked else y

    def plain(x, momentum, mean=None, var=None, **t):
        mean, var = (None if s is None else s.clone() for s in (mean, var))
        y = F.batch_norm(x, mean, var, **t, training=True, momentum=momentum.item())
        return (y, mean, var) if tracked else y

    return Case(
        stacked=stacked,
        plain=plain,
        leaves=_with({"x": (batch, channels, *space)}, affine, weight=(channels,), bias=(channels,)),
        given={"momentum": _shares, **(_statistics(channels) if tracked else {})},
    )


def ghost_batch_norm(ghosts=2, ghost_size=3, channels=3, space=(), affine=True):
    def stacked(x, momentum, mean, var, **t):
        y, running = ops.ghost_batch_norm(x, ops.Running(mean, var), momentum, ghost_size, **t)
        return y, *running

    def plain(x, momentum, mean, var, **t):
        mean, var = mean.clone(), var.clone()
        parts = [
            F.batch_norm(x[i::ghosts], mean, var, **t, training=True, momentum=momentum.item()) for i in range(ghosts)
        ]
        return torch.stack(parts, 1).flatten(0, 1), mean, var

    return Case(
        stacked=stacked,
        plain=plain,
        leaves=_with({"x": (ghosts * ghost_size, channels, *space)}, affine, weight=(channels,), bias=(channels,)),
        given={"momentum": _shares, **_statistics(channels)},
    )


def batch_norm_inference(batch=6, channels=3, space=(), affine=True):
    return Case(
        stacked=lambda x, mean, var, **t: ops.batch_norm_inference(x, ops.Running(mean, var), **t),
        plain=lambda x, mean, var, **t: F.batch_norm(x, mean, var, **t, training=False),
        leaves=_with({"x": (batch, channels, *space)}, affine, weight=(channels,), bias=(channels,)),
        given=_statistics(channels),
    )


def attention(batch=2, heads=2, queries=5, keys=5, width=4, values=4, causal=False, scale=None):
    return Case(
        stacked=lambda q, k, v: ops.attention(q, k, v, causal, scale),
        plain=lambda q, k, v: _attend(q, k, v, causal, scale),
        leaves={
            "q": (batch, heads, queries, width),
            "k": (batch, heads, keys, width),
            "v": (batch, heads, keys, values),
        },
    )


def _attend(q, k, v, causal, scale):
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1) @ v


def dropout(shape=(4, 5)):
    def plain(x, p, seed, consumed):
        kept = keep(Draws(seed[None], consumed[None]).key(7), x.numel(), p[None])[0]
        return x * kept.view(x.shape) / (1 - p.item())

    return Case(
        stacked=lambda x, p, seed, consumed: ops.dropout(x, p, Draws(seed, consumed), 7),
        plain=plain,
        leaves={"x": shape},
        given={"p": lambda k: _shares(k) - 0.1, "seed": torch.arange, "consumed": lambda k: 3 * torch.arange(k)},
    )


def gated_residual(shape=(4, 5), per_feature=False):
    return Case(
        stacked=ops.gated_residual,
        plain=lambda x, branch, gate: x + gate * branch,
        leaves={"x": shape, "branch": shape, "gate": shape[-1:] if per_feature else ()},
    )


def pool(name="max_pool2d", batch=2, channels=3, space=(7, 6), options=(2,)):
    return Case(
        stacked=lambda x: getattr(ops, name)(x, *options),
        plain=lambda x: getattr(F, name)(x, *options),
        leaves={"x": (batch, channels, *space)},
    )


def cross_entropy(rows=10, classes=9, smoothed=True):
    def targets(num_members):
        return (torch.arange(num_members * rows) * 4 % classes).view(num_members, rows)

    def plain(x, targets, smoothing=None):
        return F.cross_entropy(x, targets, label_smoothing=0.0 if smoothing is None else smoothing.item())

    return Case(
        stacked=lambda x, targets, smoothing=None: ops.cross_entropy(x, targets, smoothing),
        plain=plain,
        leaves={"x": (rows, classes)},
        given={"targets": targets, **({"smoothing": lambda k: _shares(k) - 0.1} if smoothed else {})},
    )


def z_loss(rows=10, classes=9):
    return Case(
        stacked=lambda x: ops.z_loss(x),
        plain=lambda x: x.exp().sum(-1).log().pow(2).mean(),
        leaves={"x": (rows, classes)},
    )


def _with(shapes, wanted, **more):
    return {**shapes, **more} if wanted else shapes


def _shares(num_members):
    """`(K,)` in [0.1, 1), another for each member."""
    return 0.1 + 0.8 * (torch.arange(num_members, dtype=torch.float64) * 0.37 % 1.0)


def _statistics(channels):
    def make(num_members, first):
        return (torch.arange(num_members * channels, dtype=torch.float64) * 0.3 + first).view(num_members, channels)

    return {"mean": lambda k: make(k, -1.0), "var": lambda k: make(k, 0.5)}


#: By name: the builder, shapes to try besides the builder's own, and what else Hypothesis may draw.
LAYERS: dict[str, tuple[Callable[..., Case], list[dict[str, Any]], dict[str, st.SearchStrategy]]] = {}


def _layer(builder, *shapes, name=None, **drawn):
    LAYERS[name or builder.__name__] = (builder, [{}, *shapes], drawn)


_few = st.integers(1, 4)
_more = st.integers(1, 17)
_rows = st.lists(st.integers(0, 4), max_size=3).map(tuple)
_space = st.lists(st.integers(1, 5), max_size=2).map(tuple)

_layer(
    linear,
    {"bias": False},
    {"rows": ()},
    {"rows": (2, 3, 5)},
    {"rows": (0,)},
    {"inputs": 1, "outputs": 1},
    {"inputs": 0},
    {"rows": (33,), "inputs": 17, "outputs": 31},
    rows=_rows,
    inputs=_more,
    outputs=_more,
    bias=st.booleans(),
)
_layer(
    embedding,
    {"rows": ()},
    {"rows": (2, 3)},
    {"rows": (0,)},
    {"vocabulary": 1, "width": 1},
    {"padding": 5},
    rows=_rows,
    vocabulary=_more,
    width=_more,
)
_layer(
    conv2d,
    {"bias": False},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    {"padding": "same", "kernel": (2, 3)},
    {"channels": 4, "groups": 2},
    {"channels": 4, "groups": 4},
    {"batch": 1, "channels": 1, "outputs": 1, "size": (1, 1), "kernel": (1, 1)},
    {"batch": 0},
    {"channels": 16, "outputs": 17, "size": (9, 9)},
    batch=_few,
    channels=_more,
    outputs=_more,
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    bias=st.booleans(),
)
_layer(
    conv1d,
    {"bias": False},
    {"stride": 2, "padding": 1, "dilation": 2},
    {"stride": (2,), "padding": (1,), "dilation": (2,)},
    {"padding": "same", "kernel": 4},
    {"channels": 4, "groups": 2},
    {"batch": 1, "channels": 1, "outputs": 1, "size": 1, "kernel": 1},
    {"batch": 0},
    batch=_few,
    channels=_more,
    outputs=_more,
    size=st.integers(3, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
)
_layer(
    rms_norm,
    {"affine": False},
    {"rows": (2, 3), "shape": (4, 5)},
    {"rows": ()},
    {"rows": (0,)},
    {"shape": (1,)},
    {"shape": (37,), "eps": None},
    rows=_rows,
    shape=st.tuples(_more),
)
_layer(
    layer_norm,
    {"affine": False},
    {"bias": False},
    {"affine": False, "bias": False},
    {"rows": (2, 3), "shape": (4, 5)},
    {"rows": ()},
    {"rows": (0,)},
    {"shape": (37,)},
    rows=_rows,
    # A row of one or two normalises to constants: its gradient is all cancellation.
    shape=st.tuples(st.integers(3, 17)),
)
_layer(
    group_norm,
    {"affine": False},
    {"space": (3, 3)},
    {"groups": 1},
    {"groups": 6, "space": (5,)},
    {"batch": 1},
    {"channels": 6, "groups": 2, "space": ()},
    batch=_few,
    space=st.tuples(st.integers(2, 5), st.integers(1, 5)),
    groups=st.sampled_from([1, 2, 3]),
)
_layer(
    batch_norm,
    {"affine": False},
    {"tracked": False},
    {"space": (5,)},
    {"space": (3, 4), "channels": 17},
    {"batch": 1, "space": (3, 3), "channels": 1},
    batch=st.integers(4, 9),
    channels=_more,
    space=_space,
)
_layer(
    ghost_batch_norm,
    {"affine": False},
    {"ghosts": 1},
    {"channels": 1},
    {"ghosts": 5, "space": (3, 3)},
    {"ghost_size": 1, "space": (4, 3)},
    ghosts=_few,
    ghost_size=st.integers(4, 6),
    channels=_more,
    space=_space,
)
_layer(
    batch_norm_inference,
    {"affine": False},
    {"space": (5,)},
    {"space": (3, 4), "channels": 17},
    {"batch": 0, "space": (2, 2)},
    batch=_few,
    channels=_more,
    space=_space,
)
_layer(
    attention,
    {"causal": True},
    {"scale": 0.3},
    {"queries": 1, "keys": 7},
    {"values": 3, "width": 5},
    {"batch": 1, "heads": 1, "queries": 1, "keys": 1, "width": 1, "values": 1},
    {"batch": 3, "heads": 3, "queries": 33, "keys": 33, "width": 16, "values": 16, "causal": True},
    batch=_few,
    heads=_few,
    queries=_more,
    keys=_more,
    width=_more,
)
_layer(dropout, {"shape": (1,)}, {"shape": (3, 0)}, {"shape": (2, 3, 7)}, shape=_rows.filter(bool))
_layer(gated_residual, {"per_feature": True}, {"shape": (3,)}, {"shape": (0, 3)}, {"shape": (2, 3, 4)})
_layer(cross_entropy, {"smoothed": False}, {"rows": 1, "classes": 1}, {"classes": 256}, rows=_more, classes=_more)
_layer(z_loss, {"rows": 1, "classes": 1}, {"classes": 256}, rows=_more, classes=_more)
for _name, _options in {
    "max_pool2d": [(2,), (3, 2, 1), ((2, 3), (1, 2), 0, 2, True)],
    "avg_pool2d": [(2,), (3, 2, 1), (3, 2, 1, True, False), (2, 2, 0, False, True, 3)],
    "adaptive_avg_pool2d": [(1,), ((3, 2),), ((None, 2),)],
}.items():
    _layer(pool, *({"name": _name, "options": o} for o in _options), name=_name, batch=_few, channels=_more)
for _name, _options in {
    "max_pool1d": [(2,), (3, 2, 1, 2, True)],
    "avg_pool1d": [(2,), (3, 2, 1, True, False)],
    "adaptive_avg_pool1d": [(1,), (3,)],
}.items():
    _layer(pool, *({"name": _name, "space": (7,), "options": o} for o in _options), name=_name)


def cases():
    """`(id, case)` of every layer at every shape of the table."""
    return {
        f"{name}-{i}": builder(**shape)
        for name, (builder, shapes, _) in LAYERS.items()
        for i, shape in enumerate(shapes)
    }


def drawn_cases():
    """A Hypothesis strategy of cases."""
    options = [
        st.fixed_dictionaries({}, optional=drawn).map(lambda shape, builder=builder: builder(**shape))
        for name, (builder, _, drawn) in LAYERS.items()
        if drawn and "pool" not in name
    ]
    return st.one_of(options)
