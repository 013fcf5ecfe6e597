"""Vision transformers for small images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.core import ops
from trainables.core.model import Parameter
from trainables.core.parametrization import STANDARD, Multipliers, Scaling
from trainables.networks.base import Pass, times

#: Where patches get their positions from.
POSITIONS = ("learned", "fixed")
# Of a table of positions, as in the paper's code.
_POSITION_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ViT:
    """Patches, embedded with their positions; blocks of attention and MLP; the mean over patches and a linear head.

    LayerNorm stands before each branch and after the last block, GELU in the MLPs; attention sees all patches. Dropout
    acts on both branches of each block.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), section 3.1, without the class token; Beyer et al. 2022 (arXiv
    2205.01580): the mean over patches, fixed two-dimensional positions and a linear head. Branches begin smaller with
    depth, as in GPT-2, and the head at zero.

    Attributes:
        shape: Height, width and channels of an image; patches tile it.
        classes: Classes to tell apart.
        width: Width of the residual stream.
        depth: Blocks.
        heads: Attention heads.
        patch: Side of a patch in pixels.
        positions: One of `POSITIONS`: a table of parameters, or sines and cosines of row and column.
        scaling: The parametrization at this size.
        base_head_dim: Head size at which attention has its usual scale.
    """

    shape: tuple[int, int, int]
    classes: int
    width: int
    depth: int
    heads: int
    patch: int
    positions: str = "learned"
    scaling: Scaling = STANDARD
    base_head_dim: int = 8

    def parameters(self) -> Mapping[str, Parameter]:
        """Weight decay acts on matrices, not on norms, biases and positions."""
        own, width = self.scaling.tensor, self.width
        inputs, bias = own("embedding"), own("bias", branch=True)
        hidden, gain = own("hidden", branch=True), own("gain", branch=True)
        found = {
            "embedding.weight": _matrix(width, self.shape[2] * self.patch**2, inputs),
            "embedding.bias": _bias(width, own("bias")),
        }
        if self.positions == "learned":
            std = _POSITION_STD * inputs.std
            found["positions"] = Parameter(shape=(self._patches, width), std=std, scale=inputs.scale)
        # Where the residual multiplier takes care of further depth, branches begin as they do at the base depth.
        ends = 1.0 / math.sqrt(2 * self.depth * self.scaling.residual)
        sizes = {
            "attention.qkv": (3 * width, width, 1.0),
            "attention.out": (width, width, ends),
            "mlp.up": (4 * width, width, 1.0),
            "mlp.down": (width, 4 * width, ends),
        }
        for i in range(self.depth):
            for branch in ("attention", "mlp"):
                found |= _norm(f"blocks.{i}.{branch}.norm", width, gain, bias)
            for name, (rows, columns, factor) in sizes.items():
                found[f"blocks.{i}.{name}.weight"] = _matrix(rows, columns, hidden, factor)
                found[f"blocks.{i}.{name}.bias"] = _bias(rows, bias)
        found |= _norm("norm", width, own("gain"), own("bias"))
        found["head.weight"] = _matrix(self.classes, width, own("output"), 0.0)
        found["head.bias"] = Parameter(shape=(self.classes,))
        return found

    def buffers(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def logits(self, params: Mapping[str, Tensor], x: Tensor, this: Pass) -> Tensor:
        """`[K, B, classes]` of normalised images `[K, B, C, H, W]`."""
        num_members, batch = x.shape[:2]
        patches = _linear(self._cut(x), params, "embedding").unflatten(1, (batch, self._patches))
        x = (patches + self._positions(params, patches)).flatten(1, 2)
        this.show("embedding", x)
        for i in range(self.depth):
            for name, run in (("attention", self._attention), ("mlp", self._mlp)):
                at = f"blocks.{i}.{name}"
                branch = this.drop(this.show(at, run(params, at, x)), at)
                x = x + times(branch, self.scaling.residual)
            this.show(f"blocks.{i}", x)
        features = _layer_norm(x, params, "norm").view(num_members, batch, self._patches, self.width).mean(2)
        scores = times(ops.linear(features, params["head.weight"]), self.scaling.tensor("output").forward)
        return this.show("head", scores + params["head.bias"][:, None])

    def flops(self) -> float:
        """Forward and backward pass for one image: matrix products only.

        Two operations for each matrix element and patch, and for each pair of patches two products (scores and mixture)
        over the width. Backward is twice forward, except that nobody asks for the gradient of the images. Norms,
        softmax, GELU, dropout, positions and pooling are not counted.

        Source: as for the language model, Kaplan et al. 2020 (arXiv 2001.08361), section 2.1; attention in full as in
        Hoffmann et al. 2022 (arXiv 2203.15556), appendix F.
        """
        patches, width = self._patches, self.width
        embedding = 2.0 * patches * self.shape[2] * self.patch**2 * width
        blocks = self.depth * (2.0 * patches * 12 * width**2 + 4.0 * patches**2 * width)
        return 2.0 * embedding + 3.0 * (blocks + 2.0 * width * self.classes)

    @property
    def _patches(self) -> int:
        return (self.shape[0] // self.patch) * (self.shape[1] // self.patch)

    def _cut(self, x: Tensor) -> Tensor:
        """Patches as rows, `[K, B * patches, C * patch * patch]`, in the order of a convolution's weight."""
        side = self.patch
        grid = x.unflatten(4, (x.shape[4] // side, side)).unflatten(3, (x.shape[3] // side, side))
        return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(x), x.shape[1] * self._patches, -1)

    def _positions(self, params: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """To be added to `[K, B, patches, width]`."""
        if self.positions == "learned":
            return params["positions"][:, None]
        rows, columns = self.shape[0] // self.patch, self.shape[1] // self.patch
        return fixed_positions(rows, columns, self.width, like.device).to(like.dtype)

    def _attention(self, params: Mapping[str, Tensor], at: str, x: Tensor) -> Tensor:
        qkv = _linear(_layer_norm(x, params, f"{at}.norm"), params, f"{at}.qkv")
        split = qkv.view(len(x), -1, self._patches, 3, self.heads, self.width // self.heads)
        q, k, v = split.permute(3, 0, 1, 4, 2, 5).unbind(0)
        scale = self.scaling.attention(self.width // self.heads, self.base_head_dim)
        mixed = ops.attention(q, k, v, scale=scale).transpose(2, 3).reshape(x.shape)
        return _linear(mixed, params, f"{at}.out")

    def _mlp(self, params: Mapping[str, Tensor], at: str, x: Tensor) -> Tensor:
        up = _linear(_layer_norm(x, params, f"{at}.norm"), params, f"{at}.up")
        return _linear(F.gelu(up), params, f"{at}.down")


def fixed_positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of rows, then of columns, `[rows * columns, width]` float64; width is a multiple of 4.

    Source: Vaswani et al. 2017, section 3.5, on each axis with half of the width.
    """
    quarter = width // 4
    frequency = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    down, across = (torch.arange(n, dtype=torch.float64, device=device)[:, None] * frequency for n in (rows, columns))
    down = torch.cat([down.sin(), down.cos()], 1)[:, None].expand(-1, columns, -1)
    across = torch.cat([across.sin(), across.cos()], 1)[None].expand(rows, -1, -1)
    return torch.cat([down, across], 2).flatten(0, 1)


def _linear(x: Tensor, params: Mapping[str, Tensor], name: str) -> Tensor:
    return ops.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def _layer_norm(x: Tensor, params: Mapping[str, Tensor], name: str) -> Tensor:
    return ops.layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"])


def _matrix(rows: int, columns: int, own: Multipliers, gain: float = 1.0) -> Parameter:
    return Parameter(shape=(rows, columns), std=gain / math.sqrt(columns) * own.std, decay=True, scale=own.scale)


def _bias(size: int, own: Multipliers) -> Parameter:
    return Parameter(shape=(size,), scale=own.scale)


def _norm(name: str, width: int, gain: Multipliers, bias: Multipliers) -> dict[str, Parameter]:
    return {
        f"{name}.weight": Parameter(shape=(width,), mean=1.0, scale=gain.scale),
        f"{name}.bias": _bias(width, bias),
    }
