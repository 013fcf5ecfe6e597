"""Residual networks for small images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.core import ops
from trainables.core.model import Parameter
from trainables.core.parametrization import STANDARD, Multipliers, Scaling
from trainables.networks.base import Pass, times
from trainables.networks.norm import BATCH_NORM, Norm


@dataclass(frozen=True, slots=True)
class _Block:
    """Where a basic block stands, and its shape."""

    name: str
    inputs: int
    channels: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether the shortcut changes the shape, and so is a convolution."""
        return self.stride != 1 or self.inputs != self.channels


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """A 3 x 3 convolution, stages of basic blocks, the mean over space and a linear head.

    From stage to stage the channels double, and height and width halve, rounded up. A basic block is two 3 x 3
    convolutions with norms and ReLU, in the order of the first paper or, with `preactivation`, of the second; shortcuts
    that change the shape are 1 x 1 convolutions. Dropout stands before the second convolution of each block. The head
    begins at zero: the first prediction is uniform, whatever the width.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2 and option B of section 4.1; He et al. 2016 (arXiv
    1603.05027), figure 4 (e); Zagoruyko and Komodakis 2016 (arXiv 1605.07146), section 2.4 (dropout). Initial weights:
    He et al. 2015 (arXiv 1502.01852), equation 10.

    Attributes:
        shape: Height, width and channels of an image.
        classes: Classes to tell apart.
        width: Channels of the first stage.
        depth: Blocks in each stage.
        stages: Stages.
        preactivation: Whether norm and ReLU come before each convolution instead of after.
        norm: Kind of norm.
        scaling: The parametrization at this size; in width only.
    """

    shape: tuple[int, int, int]
    classes: int
    width: int
    depth: int
    stages: int
    preactivation: bool = False
    norm: Norm = BATCH_NORM
    scaling: Scaling = STANDARD

    def parameters(self) -> Mapping[str, Parameter]:
        """Weight decay acts on convolutions and the head, not on norms and biases."""
        own = self.scaling.tensor
        hidden, gain, bias = own("hidden"), own("gain"), own("bias")
        # Its inputs are images, not the output of a ReLU: gain 1.
        found = {"stem.conv": _convolution(self.width, self.shape[2], 3, own("embedding"), 1.0)}
        for block in self._blocks():
            found[f"{block.name}.conv1"] = _convolution(block.channels, block.inputs, 3, hidden)
            found[f"{block.name}.conv2"] = _convolution(block.channels, block.channels, 3, hidden)
            if block.projects:
                found[f"{block.name}.shortcut"] = _convolution(block.channels, block.inputs, 1, hidden)
        for name, channels in self._norms().items():
            found |= self.norm.parameters(name, channels, gain, bias)
        output = own("output")
        found["head.weight"] = Parameter(shape=(self.classes, self._features), decay=True, scale=output.scale)
        found["head.bias"] = Parameter(shape=(self.classes,))
        return found

    def buffers(self) -> Mapping[str, Tensor]:
        """Running statistics of all norms."""
        return {k: t for name, channels in self._norms().items() for k, t in self.norm.buffers(name, channels).items()}

    def logits(self, params: Mapping[str, Tensor], x: Tensor, this: Pass) -> Tensor:
        """`[K, B, classes]` of normalised images `[K, B, C, H, W]`."""
        x = ops.conv2d(x, params["stem.conv"], padding=1)
        if not self.preactivation:
            x = self._activated(x, params, "stem.norm", this)
        this.show("stem", x)
        for block in self._blocks():
            run = self._preactivated if self.preactivation else self._postactivated
            x = this.show(block.name, run(params, block, x, this))
        if self.preactivation:
            x = self._activated(x, params, "norm", this)
        features = x.mean((3, 4))
        scores = times(ops.linear(features, params["head.weight"]), self.scaling.tensor("output").forward)
        return this.show("head", scores + params["head.bias"][:, None])

    def flops(self) -> float:
        """Forward and backward pass for one image: convolutions and the head.

        Two operations for each weight and each place it is applied to. Backward is twice forward, except that nobody
        asks for the gradient of the images. Norms, ReLU, shortcuts without a convolution and pooling are not counted.

        Source: the convention of Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, for convolutions.
        """
        height, width, channels = self.shape
        area = height * width
        total = 2.0 * 2 * area * 9 * channels * self.width
        for block in self._blocks():
            height, width = (-(-side // block.stride) for side in (height, width))
            weights = 9 * (block.inputs + block.channels) + (block.inputs if block.projects else 0)
            total += 3.0 * 2 * height * width * block.channels * weights
        return total + 3.0 * 2 * self._features * self.classes

    @property
    def _features(self) -> int:
        return self.width * 2 ** (self.stages - 1)

    def _blocks(self) -> Iterator[_Block]:
        inputs = self.width
        for stage in range(self.stages):
            channels = self.width * 2**stage
            for index in range(self.depth):
                yield _Block(f"stages.{stage}.{index}", inputs, channels, 2 if stage and not index else 1)
                inputs = channels

    def _norms(self) -> dict[str, int]:
        """Channels of every norm, by name."""
        found = {} if self.preactivation else {"stem.norm": self.width}
        for block in self._blocks():
            found[f"{block.name}.norm1"] = block.inputs if self.preactivation else block.channels
            found[f"{block.name}.norm2"] = block.channels
            if block.projects and not self.preactivation:
                found[f"{block.name}.shortcut.norm"] = block.channels
        return found | ({"norm": self._features} if self.preactivation else {})

    def _activated(self, x: Tensor, params: Mapping[str, Tensor], name: str, this: Pass) -> Tensor:
        return F.relu(self.norm(x, params, name, this))

    def _postactivated(self, params: Mapping[str, Tensor], block: _Block, x: Tensor, this: Pass) -> Tensor:
        """`relu(x + norm(conv(relu(norm(conv(x))))))`."""
        y = ops.conv2d(x, params[f"{block.name}.conv1"], stride=block.stride, padding=1)
        y = this.drop(self._activated(y, params, f"{block.name}.norm1", this), block.name)
        y = ops.conv2d(y, params[f"{block.name}.conv2"], padding=1)
        y = self.norm(y, params, f"{block.name}.norm2", this)
        if block.projects:
            x = ops.conv2d(x, params[f"{block.name}.shortcut"], stride=block.stride)
            x = self.norm(x, params, f"{block.name}.shortcut.norm", this)
        return F.relu(x + y)

    def _preactivated(self, params: Mapping[str, Tensor], block: _Block, x: Tensor, this: Pass) -> Tensor:
        """`x + conv(relu(norm(conv(relu(norm(x))))))`; a shortcut with a convolution begins after the first ReLU."""
        y = self._activated(x, params, f"{block.name}.norm1", this)
        if block.projects:
            x = ops.conv2d(y, params[f"{block.name}.shortcut"], stride=block.stride)
        y = ops.conv2d(y, params[f"{block.name}.conv1"], stride=block.stride, padding=1)
        y = this.drop(self._activated(y, params, f"{block.name}.norm2", this), block.name)
        return x + ops.conv2d(y, params[f"{block.name}.conv2"], padding=1)


def _convolution(outputs: int, inputs: int, side: int, own: Multipliers, gain: float = math.sqrt(2.0)) -> Parameter:
    fan_in = inputs * side**2
    return Parameter(
        shape=(outputs, inputs, side, side), std=gain / math.sqrt(fan_in) * own.std, decay=True, scale=own.scale
    )
