"""One member in plain torch, as one trains it without us: step by step with torch.optim, or as one compiled graph.

Nothing here knows of members or of `trainables`. Both ways do the same work in a step: gather a batch from data on the
device by indices drawn beforehand, loss and gradient, clipping by the norm, AdamW with decay on matrices only, the
learning rate of a cosine with warm-up, and the sum of the losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

#: One configuration for all: nothing in it is 0 where that would save time.
HPARAMS: Mapping[str, float] = {
    "lr": 1e-3,
    "weight_decay": 0.01,
    "beta1": 0.9,
    "beta2": 0.95,
    "clip_norm": 1.0,
    "warmup_steps": 100,
    "decay_steps": 100_000,
    "final_lr_ratio": 0.1,
}
_EPS = 1e-8

#: Steps whose indices a compiled member keeps on the device.
_BLOCK = 1024
#: Steps before a CUDA graph is recorded, in which libraries allocate and choose kernels.
_WARM_UP = 3


class Source(Protocol):
    """Training data on the device.

    Attributes:
        num: Examples (or windows) to draw from.
        batch_size: Of one step.
    """

    @property
    def num(self) -> int: ...
    @property
    def batch_size(self) -> int: ...

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs, and targets for the rows of the logits, of the examples drawn, `(B,)` int64."""


@dataclass(frozen=True)
class Images:
    """Images `[num, *shape]` and labels `(num,)`; a `Source`."""

    images: Tensor
    labels: Tensor
    batch_size: int

    @property
    def num(self) -> int:
        """Images to draw from."""
        return len(self.images)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Those drawn."""
        return self.images[index], self.labels[index]


@dataclass(frozen=True)
class Text:
    """Windows of a text `(length,)` uint8, and the same windows one byte on; a `Source`."""

    text: Tensor
    context: int
    batch_size: int

    @property
    def num(self) -> int:
        """Places where a window may begin."""
        return len(self.text) - self.context

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs `[B, context]` and targets `(B * context,)`, int64."""
        within = torch.arange(self.context + 1, device=self.text.device)
        windows = self.text[index[:, None] + within].long()
        return windows[:, :-1], windows[:, 1:].flatten()


def lr_at(age: int) -> float:
    """The learning rate of the step that begins at `age`."""
    warmup, decay, ratio = (HPARAMS[name] for name in ("warmup_steps", "decay_steps", "final_lr_ratio"))
    progress = min(1.0, max(0.0, age - warmup) / decay)
    falling = ratio + (1.0 - ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return HPARAMS["lr"] * min(1.0, (age + 1) / warmup) * falling


def decayed(module: nn.Module) -> list[Tensor]:
    """The parameters that weight decay acts on: matrices and kernels, not biases, gains or embeddings."""
    return [part.weight for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]


class Member(Protocol):
    """One member being trained."""

    def train(self, order: Tensor) -> Tensor:
        """Train a step for each row of `order`, `[steps, B]` int64 on the device; returns the mean loss."""


class Eager:
    """Step by step: a module, `torch.optim.AdamW`, `clip_grad_norm_`.

    Args:
        module: On its device and in its dtype.
        source: On the same device.
        precision: As in `trainables.Place`.
        fused: Whether AdamW is fused, its fastest, for which torch must be asked; otherwise it is what torch takes.
    """

    def __init__(self, module: nn.Module, source: Source, precision: str = "fp32", fused: bool | None = None) -> None:
        self._module, self._source, self._precision = module, source, precision
        self._parameters = list(module.parameters())
        decaying = decayed(module)
        known = {id(parameter) for parameter in decaying}
        groups = [
            {"params": decaying, "weight_decay": HPARAMS["weight_decay"]},
            {"params": [p for p in self._parameters if id(p) not in known], "weight_decay": 0.0},
        ]
        betas = (HPARAMS["beta1"], HPARAMS["beta2"])
        self._optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=betas, eps=_EPS, fused=fused)
        self._age = 0

    def train(self, order: Tensor) -> Tensor:
        """See `Member`."""
        total = torch.zeros((), dtype=self._parameters[0].dtype, device=order.device)
        for index in order:
            total += self._step(index)
        return total / len(order)

    def _step(self, index: Tensor) -> Tensor:
        loss = _loss(self._module, self._source, index, self._precision)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, HPARAMS["clip_norm"])
        for group in self._optimizer.param_groups:
            group["lr"] = lr_at(self._age)
        self._optimizer.step()
        self._age += 1
        return loss.detach()


class Compiled:
    """The whole step as one graph of torch.compile, and on CUDA as one CUDA graph.

    Nothing is passed into the graph: it finds its batch's indices and AdamW's scalars in tables on the device, at a
    counter that it advances. AdamW is written out, which inductor compiles to a faster graph than torch.optim's own
    functions (measured on a CPU); the scalars are computed outside, so that no power is taken for each element. Guards
    are left out (`skip_all_guards_unsafe`), as nothing ever changes but values.

    Args:
        module: On its device and in its dtype.
        source: On the same device.
        precision: As in `trainables.Place`.
    """

    def __init__(self, module: nn.Module, source: Source, precision: str = "fp32") -> None:
        # Seen without autograd, which else keeps account of every change to them, at twice the cost of a small step.
        parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        first = next(iter(parameters.values()))
        known = {id(parameter) for parameter in decayed(module)}
        decaying = {name for name, parameter in module.named_parameters() if id(parameter) in known}
        self._age = 0
        self._order = torch.zeros(_BLOCK, source.batch_size, dtype=torch.int64, device=first.device)
        self._scalars = torch.zeros(_BLOCK, 3, dtype=first.dtype, device=first.device)
        self._row = torch.zeros(1, dtype=torch.int64, device=first.device)
        # Not 0-dimensional: what a graph of torch 2.13 writes into a float64 number on the CPU is lost.
        self._total = torch.zeros(1, dtype=first.dtype, device=first.device)
        order, scalars, row, total = self._order, self._scalars, self._row, self._total
        moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}

        def step() -> None:
            index, now = order.index_select(0, row)[0], scalars.index_select(0, row)[0]
            leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            loss = _loss(partial(functional_call, module, leaves), source, index, precision)
            grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            with torch.no_grad():
                _update(parameters, grads, moments, decaying, now)
                total.add_(loss.detach())
                row.add_(1)

        self._step = _one_graph(step)
        if first.device.type == "cuda":
            self._step = _Recorded(self._step)

    def train(self, order: Tensor) -> Tensor:
        """See `Member`."""
        self._total.zero_()
        for block in order.split(_BLOCK):
            now = [_scalars(self._age + i) for i in range(len(block))]
            self._order[: len(block)] = block
            self._scalars[: len(block)] = torch.tensor(now, dtype=torch.float64)
            self._row.zero_()
            for _ in range(len(block)):
                self._step()
            self._age += len(block)
        return self._total[0] / len(order)


def _scalars(age: int) -> tuple[float, float, float]:
    """What AdamW multiplies by and adds at an age, its corrections taken in: decay's factor, the step's size, eps."""
    lr = lr_at(age)
    correction1 = 1.0 - HPARAMS["beta1"] ** (age + 1)
    correction2 = math.sqrt(1.0 - HPARAMS["beta2"] ** (age + 1))
    return 1.0 - lr * HPARAMS["weight_decay"], lr * correction2 / correction1, _EPS * correction2


def _loss(module: Callable[[Tensor], Tensor], source: Source, index: Tensor, precision: str) -> Tensor:
    inputs, targets = source.batch(index)
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return F.cross_entropy(module(inputs), targets)


def _update(
    parameters: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    moments: Mapping[str, tuple[Tensor, Tensor]],
    decaying: Collection[str],
    now: Tensor,
) -> None:
    """Clip by the norm, and AdamW; `now` holds `_scalars`."""
    shrink, size, eps = now.unbind()
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads.values()]))
    factor = (HPARAMS["clip_norm"] / (norm + 1e-6)).clamp(max=1.0)
    for name, parameter in parameters.items():
        (first, second), clipped = moments[name], grads[name] * factor
        first.lerp_(clipped, 1.0 - HPARAMS["beta1"])
        second.lerp_(clipped * clipped, 1.0 - HPARAMS["beta2"])
        if name in decaying:
            parameter.mul_(shrink)
        parameter.sub_(size * first / (second.sqrt() + eps))


def _one_graph(step: Callable[[], None]) -> Callable[[], None]:
    from torch._dynamo import config

    options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    # Isolated: without guards, torch would take the graph of another member for this one's.
    compiled = torch.compile(  # type: ignore[call-overload]
        step, fullgraph=True, dynamic=False, isolate_recompiles=True, options=options
    )
    is_traced = False

    def run() -> None:
        nonlocal is_traced
        if is_traced:
            compiled()
            return
        # torch 2.13 traces torch.autograd.grad only when this is set; it is read while tracing.
        with config.patch(trace_autograd_ops=True):
            compiled()
        is_traced = True

    return run


class _Recorded:
    """A step as a CUDA graph, recorded after some steps."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step, self._steps = step, 0
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is None and self._steps == _WARM_UP:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._step()
        if self._graph is not None:
            self._graph.replay()
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step()
        torch.cuda.current_stream().wait_stream(self._stream)
        self._steps += 1


# ---------------------------------------------------------------------------------------------------------- networks


def mlp() -> nn.Module:
    """64-128-128-10 with ReLU."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def conv(channels: int, *widths: int) -> nn.Module:
    """3x3 convolutions with ReLU, each but the first halving the sides, the mean over space, and a linear layer."""
    layers: list[nn.Module] = []
    for stride, width in zip((1, *[2] * len(widths)), widths, strict=False):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Decoder(nn.Module):
    """The decoder of `trainables.language`: bytes `[B, T]` to logits `[B * T, 256]`."""

    def __init__(self, width: int, depth: int, heads: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(Block(width, heads, context) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the byte that follows each."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).flatten(0, 1)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, context)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, width]` to the same."""
        x = x + self.attention(x)
        return x + self.mlp(x)


class Attention(nn.Module):
    """Causal attention with rotary positions, whose tables are made once."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        size = width // heads
        frequency = torch.exp(-math.log(10_000.0) * torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.arange(context, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cosine", torch.cat([angle.cos(), angle.cos()], -1), persistent=False)
        self.register_buffer("sine", torch.cat([angle.sin(), angle.sin()], -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, width]` to the same."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self._turn(q), self._turn(k), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    def _turn(self, x: Tensor) -> Tensor:
        """Turn pairs (i, i + D/2) of `[B, H, T, D]` by their position's angle."""
        first, second = x.chunk(2, dim=-1)
        return (x * self.cosine + torch.cat([-second, first], dim=-1) * self.sine).to(x.dtype)


class MLP(nn.Module):
    """GELU between two matrices."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to the same."""
        return self.down(F.gelu(self.up(self.norm(x))))
