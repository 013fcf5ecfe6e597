"""A byte-level language model: a small decoder-only transformer on text that every machine has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import corpus
from trainables.base import (
    Capabilities,
    Hparams,
    HparamSpec,
    MetricSpec,
    Place,
    Stack,
    TrainableError,
)
from trainables.core import batch_size, ops, options, schedules
from trainables.core.batch_size import BATCH_SIZE
from trainables.core.data import TokenFeed
from trainables.core.mixture import MixtureFeed
from trainables.core.model import Batch, Buffers, Parameter, Program
from trainables.core.optim import CLIP_NORM, ready
from trainables.core.parametrization import STANDARD, Multipliers, Scaling
from trainables.core.rng import Draws, site
from trainables.core.stack import CoreStack

_VOCABULARY = 256
_Z_LOSS = HparamSpec(kind="live", default=0.0, low=0.0, doc="coefficient of the mean of log^2 Z of the softmax")
_DROPOUT = HparamSpec(kind="live", default=0.0, low=0.0, high=0.95, doc="of both residual branches of each block")


@dataclass(frozen=True, kw_only=True)
class Language:
    """A byte-level transformer: RMSNorm before each branch, rotary positions, causal attention, GELU.

    Attributes:
        width: Width of the residual stream; a multiple of twice the heads.
        depth: Blocks of attention and MLP.
        heads: Attention heads.
        context: Bytes the model sees.
        batch: Windows per member and step; a step consumes `batch * context` bytes. It is the default of the
            hyperparameter `batch_size`, which decides the bucket: see `trainables.core.batch_size`.
        data: Path of the text, or None for the standard library's; see `trainables.corpus`.
        domains: Domains of the corpus to use; None uses all.
        eval_bytes: Bytes of a split that an evaluation reads.
        schedule: Learning rate over the age of the weights: `constant`, `linear`, `cosine`, `inverse_sqrt`, `wsd` (with
            a 1-sqrt decay), `wsd_linear`, `wsd_exponential`, `wsd_cosine`, `power`, `piecewise`, `piecewise_linear` or
            `rewarmed_cosine`; see `trainables.core.schedules`. It decides which hyperparameters there are beside the
            optimizer's, all live.
        schedule_unit: `steps`, or `tokens` (bytes) for durations such as `warmup_tokens` instead of `warmup_steps`.
        schedule_knots: Knots of the piecewise schedules.
        optimizer: Name of the optimizer, one of `trainables.core.optim.REGISTERED`: `adamw`, `nadamw`, `lamb`, `lars`,
            `sgd` (heavy ball), `nesterov`, `sgdw` (heavy ball, decoupled decay), or, eager only, `torch.rmsprop`. It
            decides which hyperparameters there are beside the schedule's, `dropout` and `clip_norm`.
        parametrization: How initial weights and the effect of hyperparameters follow the size: `standard`; `mup` (Yang
            et al. 2022), in width, for `adamw`, `nadamw` and those of SGD; or `completep` (Dey et al. 2025), in width
            and depth, for `adamw` and `nadamw`. Under the latter two, hyperparameters mean those of a base model, tuned
            at its size and used at others; at the base's own size all three are the same, bit for bit. See
            `trainables.core.parametrization`.
        base_width: Width of the base model; of no effect under `standard`.
        base_depth: Depth of the base model; of effect under `completep` only.
        base_heads: Heads of the base model, which give the head size at which attention has its usual scale; of no
            effect under `standard`.
        accumulate: Micro-batches that the windows of a step are split into, to save memory; it divides `batch`, which
            stays what a step consumes. The step is the same to rounding. From 2 on the training metrics have the
            gradient noise scale: `noise_scale`, in windows; see `trainables.core.noise`.
        noise_decay: Decay of the noise scale's moving averages by one step.
        qk_norm: Whether the queries and keys of each head are normalised (RMSNorm with learned gains, before rotary
            positions), which keeps attention scores from growing at high learning rates.
        z_loss: None, or a number >= 0: then there is a live hyperparameter `z_loss` with this default, the coefficient
            of a penalty on the mean of log^2 Z, where Z is what softmax divides by; 1e-4 is usual. It acts on gradients
            only: `loss` stays the cross entropy, in training too.
        mixture: Whether training batches are mixed from the corpus's domains by the live hyperparameter `mixture`, a
            weight for each, which by default is its share of the text; of your own text each folder is then a domain.
            In an epoch of a domain every window of it comes once; see `trainables.core.mixture`. Otherwise windows
            begin anywhere in the training text. Evaluation is the same either way.
    """

    width: int = 64
    depth: int = 2
    heads: int = 2
    context: int = 64
    batch: int = 8
    data: str | None = None
    domains: tuple[str, ...] | None = None
    eval_bytes: int = 16_384
    schedule: str = "cosine"
    schedule_unit: str = "steps"
    schedule_knots: int = 8
    optimizer: str = "adamw"
    parametrization: str = "standard"
    base_width: int = 64
    base_depth: int = 2
    base_heads: int = 2
    accumulate: int = 1
    noise_decay: float = 0.99
    qk_norm: bool = False
    z_loss: float | None = None
    mixture: bool = False

    def __post_init__(self) -> None:
        """Refuse options that make no model; a list of domains becomes a tuple."""
        options.check_counts("language", self, _COUNTS)
        options.check_multiple("language", self, "width", 2 * self.heads, "2 * heads")
        options.check_multiple("language", self, "base_width", 2 * self.base_heads, "2 * base_heads")
        options.check_divides("language", self, "accumulate", "batch")
        for name in ("qk_norm", "mixture"):
            options.check_flag("language", self, name)
        self._scaling()
        object.__setattr__(self, "z_loss", _coefficient("z_loss", self.z_loss))
        object.__setattr__(self, "data", options.absolute(self.data))
        object.__setattr__(self, "domains", _names(self.domains))
        self._program(_NO_TOKENS)

    def describe(self) -> Capabilities:
        """`bits_per_byte`, `loss` and `accuracy`; every hyperparameter live, but for `batch_size`."""
        found = self._corpus()
        return Capabilities(
            metrics={
                "bits_per_byte": MetricSpec(mode="min", unit="bit/byte", doc="loss / ln 2"),
                "loss": MetricSpec(mode="min", unit="nat/byte", doc="mean cross entropy"),
                "accuracy": MetricSpec(mode="max", doc="share of bytes predicted first"),
            },
            hparams={
                **self._program(_NO_TOKENS, spans=found.spans["train"]).hparams,
                BATCH_SIZE: batch_size.described(self.batch),
            },
            tokens_per_step=self.batch * self.context,
            per_example=BATCH_SIZE,
            flops_per_step=self._flops_per_step(),
            rng="splitmix64 v1",
            data=found.provenance(),
        )

    def bucket(self, hparams: Hparams) -> str:
        """Members of one `Language` share a bucket if their batch sizes round up to the same power of two.

        Raises:
            TrainableError: The batch size is no whole number, or its bucket cannot be split into micro-batches.
        """
        rows = batch_size.num_rows(hparams.get(BATCH_SIZE, self.batch), self.batch)
        if rows % self.accumulate:
            raise TrainableError(
                f"hparam {BATCH_SIZE!r} is {hparams[BATCH_SIZE]}, in batches of {rows} windows; "
                f"give language an accumulate that divides {rows}, not {self.accumulate}"
            )
        # Bucket names are on record: options that came later are named only where they are not the default, and never
        # where they change nothing.
        later = _LATER_FIELDS - options.without_effect(self)
        return options.bucket("language", self, _SHAPE_FIELDS, later, batch=rows)

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        named = re.search(r"-batch(\d+)", bucket)
        rows = int(named[1]) if named else 0
        if rows == 0 or bucket != self.bucket({BATCH_SIZE: rows}):
            raise TrainableError(f"bucket {bucket!r} is none of this language model's, such as {self.bucket({})!r}")
        device = torch.device(place.device)
        found = self._corpus()
        tokens = {s: torch.from_numpy(t).to(device) for s, t in found.splits.items()}
        return CoreStack(self._program(tokens, rows, found.spans["train"]), capacity, place)

    def _corpus(self) -> corpus.Corpus:
        return corpus.load(self.data, self.domains, self.context + 1, by_folder=self.mixture)

    def _flops_per_step(self) -> float:
        """Forward and backward pass of one member, matrix products only; backward is twice forward.

        Two operations for each matrix element and token, and for each pair of positions two products (scores and
        mixture) over the width. Looking up the embedding is free; norms, rotary positions, softmax, GELU, dropout and
        the optimizer are not counted. All pairs count, though the causal half of them would do, and scores count
        once, though fused kernels compute them again going backward: the convention of model FLOPs.

        Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1 and table 1, except that attention is counted in
        full as in Hoffmann et al. 2022 (arXiv 2203.15556), appendix F, whose embedding and softmax are left out.
        """
        matrices = self.depth * 12 * self.width**2 + _VOCABULARY * self.width
        pairs = self.depth * self.batch * self.context**2
        return 3.0 * (2 * self.batch * self.context * matrices + 4 * pairs * self.width)

    def _program(
        self, tokens: Mapping[Any, Tensor], rows: int | None = None, spans: Mapping[str, tuple[int, int]] | None = None
    ) -> Program:
        rows = rows or self.batch
        text = TokenFeed(
            tokens=tokens,
            window=self.context + 1,
            batch_size=rows,
            evaluation_windows=max(1, self.eval_bytes // self.context),
        )
        mixed = MixtureFeed(text, spans) if self.mixture and spans is not None else None
        return Program(
            model=Transformer(
                width=self.width,
                depth=self.depth,
                heads=self.heads,
                scaling=self._scaling(),
                base_head_dim=self.base_width // self.base_heads,
                qk_norm=self.qk_norm,
            ),
            feed=mixed or text,
            optimizer=ready(self.optimizer),
            schedule=self._schedule(),
            extra_hparams={**self._extra_hparams(rows), **(mixed.hparams if mixed else {})},
            accumulate=self.accumulate,
            noise_decay=self.noise_decay,
        )

    def _extra_hparams(self, rows: int) -> dict[str, HparamSpec]:
        # A sweep is resumed with the hyperparameters on record: one that came later is there only where asked for.
        later = {} if self.z_loss is None else {"z_loss": replace(_Z_LOSS, default=self.z_loss)}
        own = {BATCH_SIZE: batch_size.admitted(self.batch, rows)}
        return {"dropout": _DROPOUT, "clip_norm": replace(CLIP_NORM, default=1.0), **later, **own}

    def _scaling(self) -> Scaling:
        return options.scaling(self)

    def _schedule(self) -> schedules.Schedule:
        return options.schedule(self, self.batch * self.context)


_NO_TOKENS: Mapping[Any, Tensor] = {}
#: Gains of the norms of queries and keys.
_QK_NORMS = ("q_norm", "k_norm")
_Drop: TypeAlias = Callable[[Tensor, str], Tensor]
_SHAPE_FIELDS = {"width", "depth", "heads", "context", "batch"}
_BASE_FIELDS = {"base_width", "base_depth", "base_heads"}
_CORE_FIELDS = {"schedule", "schedule_unit", "schedule_knots", "optimizer", "accumulate", "noise_decay"}
_LATER_FIELDS = _CORE_FIELDS | _BASE_FIELDS | {"parametrization", "qk_norm", "z_loss", "mixture"}
_COUNTS = (
    *("width", "depth", "heads", "context", "batch", "eval_bytes", "schedule_knots", "accumulate"),
    *sorted(_BASE_FIELDS),
)


def _coefficient(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < math.inf:
        raise TrainableError(f"language {name} is {value!r}; give a number >= 0, or nothing")
    return float(value)


def _names(domains: object) -> tuple[str, ...] | None:
    if domains is None:
        return None
    if isinstance(domains, str) or not isinstance(domains, list | tuple) or not domains:
        raise TrainableError(f"language domains is {domains!r}; give a list of names, or nothing")
    return tuple(map(str, domains))


@dataclass(frozen=True)
class Transformer:
    """The stacked network over bytes; a `trainables.core.model.Model`.

    Source: Vaswani et al. 2017 (decoder), with the changes of GPT-2 (norm first, branches initialised smaller with
    depth), RMSNorm and rotary positions.

    Attributes:
        width: Width of the residual stream.
        depth: Blocks.
        heads: Attention heads.
        scaling: The parametrization at this size.
        base_head_dim: Head size at which attention has its usual scale.
        qk_norm: Whether queries and keys are normalised; see `trainables.core.ops.causal_attention`.
    """

    width: int
    depth: int
    heads: int
    scaling: Scaling = STANDARD
    base_head_dim: int = 32
    qk_norm: bool = False

    def parameters(self) -> Mapping[str, Parameter]:
        """Weight decay acts on the matrices of the blocks and the head, not on norms or the embedding."""
        width, inner, scaling = self.width, 4 * self.width, self.scaling
        embedding, output = scaling.tensor("embedding"), scaling.tensor("output")
        gain, hidden = scaling.tensor("gain", branch=True), scaling.tensor("hidden", branch=True)
        found = {"embedding": Parameter(shape=(_VOCABULARY, width), std=embedding.std, scale=embedding.scale)}
        # Where the residual multiplier takes care of further depth, branches begin as they do at the base depth.
        branch = 1.0 / math.sqrt(2 * self.depth * scaling.residual)
        for i in range(self.depth):
            block = f"blocks.{i}"
            found[f"{block}.attention.norm"] = _norm(width, gain)
            found[f"{block}.attention.qkv"] = _matrix(3 * width, width, hidden)
            if self.qk_norm:
                for name in _QK_NORMS:
                    found[f"{block}.attention.{name}"] = _norm(width // self.heads, gain)
            found[f"{block}.attention.out"] = _matrix(width, width, hidden, branch)
            found[f"{block}.mlp.norm"] = _norm(width, gain)
            found[f"{block}.mlp.up"] = _matrix(inner, width, hidden)
            found[f"{block}.mlp.down"] = _matrix(width, inner, hidden, branch)
        found["norm"] = _norm(width, scaling.tensor("gain"))
        # Zero: the first prediction is uniform, whatever the width.
        found["head"] = _matrix(_VOCABULARY, width, output, 0.0)
        return found

    def buffers(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def loss(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        hparams: Mapping[str, Tensor],
        draws: Draws,
        off: Collection[str] = (),
        buffers: Buffers | None = None,
    ) -> Tensor:
        """Mean cross entropy in nats per byte, `(K,)`, of windows `[K, B, context + 1]`.

        The z-loss is in its gradient and not in its value, as weight decay is.
        """

        def drop(x: Tensor, where: str) -> Tensor:
            if "dropout" in off:
                return x
            return ops.dropout(x, hparams["dropout"], draws, site(where))

        logits = self._logits(params, batch[:, :, :-1], drop)
        _, rows, length = batch.shape
        counted = None
        if BATCH_SIZE in hparams and BATCH_SIZE not in off:
            counted = batch_size.counted(hparams[BATCH_SIZE], rows, length - 1)
        loss = ops.cross_entropy(logits, batch[:, :, 1:].flatten(1), counted=counted)
        if "z_loss" not in hparams or "z_loss" in off:
            return loss
        return ops.penalized(loss, ops.z_loss(logits, counted), hparams["z_loss"])

    def evaluate(self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None) -> dict[str, Tensor]:
        """Metrics of windows `[B, context + 1]`, without dropout."""
        num_members = len(params["embedding"])
        windows = batch.expand(num_members, *batch.shape)
        targets = windows[:, :, 1:].flatten(1)
        logits = self._logits(params, windows[:, :, :-1], lambda x, where: x)
        loss = ops.cross_entropy(logits, targets)
        hits = (logits.argmax(-1) == targets).to(loss.dtype).mean(1)
        return {"bits_per_byte": loss / math.log(2.0), "loss": loss, "accuracy": hits}

    def activations(
        self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None
    ) -> dict[str, Tensor]:
        """What the residual stream holds after the embedding and each block, what each branch gives, and the logits."""
        seen: dict[str, Tensor] = {}
        windows = batch.expand(len(params["embedding"]), *batch.shape)
        seen["head"] = self._logits(params, windows[:, :, :-1], lambda x, where: seen.setdefault(where, x), seen)
        return seen

    def _logits(
        self, params: Mapping[str, Tensor], tokens: Tensor, drop: _Drop, seen: dict[str, Tensor] | None = None
    ) -> Tensor:
        """`[K, B * T, 256]` for tokens `[K, B, T]`; `seen` takes the residual stream as it grows."""
        length = tokens.shape[-1]
        x = ops.embedding(tokens.flatten(1), params["embedding"])
        if seen is not None:
            seen["embedding"] = x
        for i in range(self.depth):
            block = f"blocks.{i}"
            branch = drop(self._attention(params, f"{block}.attention", x, length), f"{block}.attention")
            x = x + _times(branch, self.scaling.residual)
            x = x + _times(drop(self._mlp(params, f"{block}.mlp", x), f"{block}.mlp"), self.scaling.residual)
            if seen is not None:
                seen[block] = x
        logits = ops.linear(ops.rms_norm(x, params["norm"]), params["head"])
        return _times(logits, self.scaling.tensor("output").forward)

    def _attention(self, params: Mapping[str, Tensor], at: str, x: Tensor, length: int) -> Tensor:
        qkv = ops.linear(ops.rms_norm(x, params[f"{at}.norm"]), params[f"{at}.qkv"])
        scale = self.scaling.attention(self.width // self.heads, self.base_head_dim)
        gains = torch.stack([params[f"{at}.{name}"] for name in _QK_NORMS], 1) if self.qk_norm else None
        return ops.linear(ops.causal_attention(qkv, length, self.heads, scale, gains), params[f"{at}.out"])

    def _mlp(self, params: Mapping[str, Tensor], at: str, x: Tensor) -> Tensor:
        up = ops.linear(ops.rms_norm(x, params[f"{at}.norm"]), params[f"{at}.up"])
        return ops.linear(F.gelu(up), params[f"{at}.down"])


def _times(x: Tensor, factor: float) -> Tensor:
    """The product; at 1 nothing is computed, so that `standard` costs nothing."""
    return x if factor == 1.0 else x * factor


def _norm(width: int, own: Multipliers) -> Parameter:
    return Parameter(shape=(width,), mean=1.0, scale=own.scale)


def _matrix(rows: int, columns: int, own: Multipliers, gain: float = 1.0) -> Parameter:
    return Parameter(shape=(rows, columns), std=gain / math.sqrt(columns) * own.std, decay=True, scale=own.scale)
