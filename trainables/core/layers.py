"""The registry: which stacked function runs a plain torch.nn module, and what its parameters start from.

A new layer is one entry of `LAYERS`. Initial distributions are torch's defaults, with fans of one member's shapes:

* Linear, Conv1d, Conv2d: weight and bias uniform in +-1 / sqrt(fan_in), fan_in the inputs of one output. This is what
  `kaiming_uniform_(a=sqrt(5))` in their `reset_parameters` comes to.
* Embedding: normal(0, 1), the padding row 0.
* Norms: gain 1, bias 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.core import ops
from trainables.core.model import Parameter
from trainables.core.rng import Draws, normal, site
from trainables.errors import TrainableError

Parameters: TypeAlias = Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a stacked network: what its layers read, and the buffers they renew.

    Attributes:
        params: `[K, *shape]` by full name.
        buffers: The same; a layer puts a new tensor in place of an old one.
        live: `(K,)` by full name, such as `blocks.0.dropout.p`.
        names: Full name as the module tree gives it -> the name it is stored under: shared ones have several.
        draws: Source of every random number, or None where nothing is drawn.
        training: Whether layers act as in training.
        visits: How often each layer has been called in this call.
    """

    params: Mapping[str, Tensor]
    buffers: dict[str, Tensor]
    live: Mapping[str, Tensor]
    names: Mapping[str, str]
    draws: Draws | None
    training: bool
    visits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class At:
    """A layer's own view of a call: everything by its plain attribute names."""

    call: Call
    path: str

    @property
    def training(self) -> bool:
        """Whether to act as in training."""
        return self.call.training

    def param(self, name: str) -> Tensor | None:
        """The stacked parameter, `[K, *shape]`, or None where the module has none (`bias=False`)."""
        known = self.call.names.get(self._full(name))
        return None if known is None else self.call.params[known]

    def weight(self) -> Tensor:
        """The parameter `weight`, which is always there."""
        return self.call.params[self.call.names[self._full("weight")]]

    def buffer(self, name: str) -> Tensor:
        """The stacked buffer, `[K, *shape]`."""
        return self.call.buffers[self.call.names[self._full(name)]]

    def renew(self, name: str, value: Tensor) -> None:
        """Put a new buffer in the old one's place, for the caller to find."""
        self.call.buffers[self.call.names[self._full(name)]] = value

    def live(self, name: str, default: float, like: Tensor) -> Tensor:
        """The live value, `(K,)` float64, or the template's for all members of `like`, `[K, ...]`."""
        given = self.call.live.get(self._full(name))
        return like.new_full((len(like),), default, dtype=torch.float64) if given is None else given

    def is_live(self, name: str) -> bool:
        """Whether the caller gave the live value."""
        return self._full(name) in self.call.live

    def draws(self) -> tuple[Draws, int]:
        """The call's draws and a site of this layer's own, another one at each visit.

        Raises:
            TrainableError: The caller gave none.
        """
        if self.call.draws is None:
            raise TrainableError(f"module {self.path!r} draws random numbers in training; give draws")
        visit = self.call.visits.get(self.path, 0)
        self.call.visits[self.path] = visit + 1
        return self.call.draws, site(f"{self.path}#{visit}" if visit else self.path)

    def _full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """How one type of module runs stacked.

    Attributes:
        run: The stacked forward: module (for its options only), where, and inputs `[K, ...]`.
        initial: What its own parameters start from, by attribute name, in one member's shapes.
        live: Attributes that a caller may give as `(K,)` tensors.
        refuses: Why a module with these options cannot run stacked, or an empty string.
    """

    run: Callable[[Any, At, Tensor], Tensor]
    initial: Callable[[Any], Parameters] = lambda module: {}
    live: tuple[str, ...] = ()
    refuses: Callable[[Any], str] = lambda module: ""


def shifted(dim: int) -> int:
    """The stacked number of one member's dimension: those counted from the end stay."""
    return dim + 1 if dim >= 0 else dim


# --- what they start from


def _by_fan_in(module: nn.Linear | nn.Conv1d | nn.Conv2d) -> Parameters:
    """Weight and bias; fan_in is all of the weight's shape but the outputs."""
    shape = tuple(module.weight.shape)
    fan_in = math.prod(shape[1:])
    bound = 1.0 / math.sqrt(fan_in) if fan_in else 0.0
    found = {"weight": Parameter(shape=shape, uniform=bound, decay=True)}
    return found if module.bias is None else {**found, "bias": Parameter(shape=shape[:1], uniform=bound)}


def _rows(module: nn.Embedding) -> Parameters:
    shape, padding = tuple(module.weight.shape), module.padding_idx
    if padding is None:
        return {"weight": Parameter(shape=shape, std=1.0)}

    def draw(key: Tensor) -> Tensor:
        rows = normal(key, math.prod(shape))[0].view(shape)
        rows[padding] = 0.0
        return rows

    return {"weight": Parameter(shape=shape, draw=draw)}


def _gain_and_bias(module: nn.Module) -> Parameters:
    own = dict(module.named_parameters(recurse=False))
    return {name: Parameter(shape=tuple(p.shape), mean=float(name == "weight")) for name, p in own.items()}


# --- how they run


def _linear(module: nn.Linear, at: At, x: Tensor) -> Tensor:
    return ops.linear(x, at.weight(), at.param("bias"))


def _embedding(module: nn.Embedding, at: At, x: Tensor) -> Tensor:
    return ops.embedding(x, at.weight(), module.padding_idx)


def _conv1d(module: nn.Conv1d, at: At, x: Tensor) -> Tensor:
    weight, bias = at.weight(), at.param("bias")
    return ops.conv1d(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)  # type: ignore[arg-type]


def _conv2d(module: nn.Conv2d, at: At, x: Tensor) -> Tensor:
    weight, bias = at.weight(), at.param("bias")
    return ops.conv2d(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)  # type: ignore[arg-type]


def _layer_norm(module: nn.LayerNorm, at: At, x: Tensor) -> Tensor:
    return ops.layer_norm(x, at.param("weight"), at.param("bias"), module.eps, len(module.normalized_shape))


def _rms_norm(module: nn.RMSNorm, at: At, x: Tensor) -> Tensor:
    return ops.rms_norm(x, at.param("weight"), module.eps, len(module.normalized_shape))


def _group_norm(module: nn.GroupNorm, at: At, x: Tensor) -> Tensor:
    return ops.group_norm(x, module.num_groups, at.param("weight"), at.param("bias"), module.eps)


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, at: At, x: Tensor) -> Tensor:
    weight, bias = at.param("weight"), at.param("bias")
    if not module.track_running_stats:
        nothing = x.new_zeros(len(x))
        return ops.batch_norm(x, None, nothing, weight, bias, module.eps)[0]
    running = ops.Running(at.buffer("running_mean"), at.buffer("running_var"))
    if not at.training:
        return ops.batch_norm_inference(x, running, weight, bias, module.eps)
    batches = at.buffer("num_batches_tracked") + 1
    if module.momentum is None and not at.is_live("momentum"):
        momentum = 1.0 / batches.double()  # torch: the plain mean over batches
    else:
        momentum = at.live("momentum", module.momentum or 0.0, x)
    y, new = ops.batch_norm(x, running, momentum, weight, bias, module.eps)
    for name, value in zip(("running_mean", "running_var"), new or running, strict=True):
        at.renew(name, value)
    at.renew("num_batches_tracked", batches)
    return y


def _dropout(module: nn.Dropout, at: At, x: Tensor) -> Tensor:
    if not at.training or not (module.p or at.is_live("p")):
        return x
    draws, where = at.draws()
    return ops.dropout(x, at.live("p", module.p, x), draws, where)


def _as_it_is(module: nn.Module, at: At, x: Tensor) -> Tensor:
    """Elementwise modules know no dimensions."""
    y: Tensor = module(x)
    return y


_PADDING = "padding_mode is not zeros"


def _is_padded(module: nn.Conv1d | nn.Conv2d) -> str:
    return "" if module.padding_mode == "zeros" else _PADDING


def _odd_embedding(module: nn.Embedding) -> str:
    odd = ("max_norm", "scale_grad_by_freq", "sparse")
    return next((f"{name} is set" for name in odd if getattr(module, name) not in (None, False)), "")


def _no_dim(module: nn.Softmax | nn.LogSoftmax) -> str:
    return "dim is None" if module.dim is None else ""


def _indices(module: nn.MaxPool1d | nn.MaxPool2d) -> str:
    return "return_indices is set" if module.return_indices else ""


_NORM = Layer(run=_batch_norm, initial=_gain_and_bias, live=("momentum",))
_ELEMENTWISE = Layer(run=_as_it_is)

#: Module type (exactly: a subclass may compute something else) -> how it runs stacked.
LAYERS: dict[type[nn.Module], Layer] = {
    nn.Linear: Layer(run=_linear, initial=_by_fan_in),
    nn.Embedding: Layer(run=_embedding, initial=_rows, refuses=_odd_embedding),
    nn.Conv1d: Layer(run=_conv1d, initial=_by_fan_in, refuses=_is_padded),
    nn.Conv2d: Layer(run=_conv2d, initial=_by_fan_in, refuses=_is_padded),
    nn.LayerNorm: Layer(run=_layer_norm, initial=_gain_and_bias),
    nn.RMSNorm: Layer(run=_rms_norm, initial=_gain_and_bias),
    nn.GroupNorm: Layer(run=_group_norm, initial=_gain_and_bias),
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
    nn.Dropout: Layer(run=_dropout, live=("p",), refuses=lambda m: "p is 1" if m.p == 1 else ""),
    nn.MaxPool1d: Layer(
        run=lambda m, at, x: ops.max_pool1d(x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode),
        refuses=_indices,
    ),
    nn.MaxPool2d: Layer(
        run=lambda m, at, x: ops.max_pool2d(x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode),
        refuses=_indices,
    ),
    nn.AvgPool1d: Layer(
        run=lambda m, at, x: ops.avg_pool1d(x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad)
    ),
    nn.AvgPool2d: Layer(
        run=lambda m, at, x: ops.avg_pool2d(
            x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
        )
    ),
    nn.AdaptiveAvgPool1d: Layer(run=lambda m, at, x: ops.adaptive_avg_pool1d(x, m.output_size)),
    nn.AdaptiveAvgPool2d: Layer(run=lambda m, at, x: ops.adaptive_avg_pool2d(x, m.output_size)),
    nn.Flatten: Layer(run=lambda m, at, x: x.flatten(shifted(m.start_dim), shifted(m.end_dim))),
    nn.Unflatten: Layer(run=lambda m, at, x: x.unflatten(shifted(m.dim), m.unflattened_size)),
    nn.Softmax: Layer(run=lambda m, at, x: F.softmax(x, shifted(m.dim)), refuses=_no_dim),
    nn.LogSoftmax: Layer(run=lambda m, at, x: F.log_softmax(x, shifted(m.dim)), refuses=_no_dim),
    **dict.fromkeys(
        (
            nn.Identity,
            nn.ReLU,
            nn.ReLU6,
            nn.LeakyReLU,
            nn.ELU,
            nn.SELU,
            nn.CELU,
            nn.GELU,
            nn.SiLU,
            nn.Mish,
            nn.Sigmoid,
            nn.LogSigmoid,
            nn.Tanh,
            nn.Tanhshrink,
            nn.Softplus,
            nn.Softsign,
            nn.Hardtanh,
            nn.Hardsigmoid,
            nn.Hardswish,
        ),
        _ELEMENTWISE,
    ),
}


def refusal(path: str, module: nn.Module) -> str:
    """Why this module cannot run by its entry of `LAYERS`, or an empty string."""
    name = f"module {path!r} ({type(module).__name__})" if path else f"the module itself ({type(module).__name__})"
    layer = LAYERS.get(type(module))
    if layer is None:
        return f"{name} is not registered"
    reason = layer.refuses(module)
    return f"{name}: {reason}" if reason else ""
