"""The networks as plain torch.nn modules, written apart from the stacked ones, for one member."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Ghosts(nn.Module):
    """Torch's batch norm on one ghost batch after the other: i, i + G, i + 2 G, ..."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.inner = nn.BatchNorm2d(channels)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.inner(x)
        ghosts = len(x) // self.size
        y = torch.empty_like(x)
        for i in range(ghosts):
            y[i::ghosts] = self.inner(x[i::ghosts])
        return y


def _norm(channels: int, network) -> nn.Module:
    if network.norm.kind == "group":
        return nn.GroupNorm(network.norm.groups, channels)
    return Ghosts(channels, network.norm.ghost_size) if network.norm.kind == "ghost" else nn.BatchNorm2d(channels)


class Basic(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int, network) -> None:
        super().__init__()
        self.pre = network.preactivation
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm1 = _norm(inputs if self.pre else channels, network)
        self.norm2 = _norm(channels, network)
        changes = stride != 1 or inputs != channels
        self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False) if changes else None
        self.shortcut_norm = _norm(channels, network) if changes and not self.pre else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            ready = F.relu(self.norm1(x))
            branch = self.conv2(F.relu(self.norm2(self.conv1(ready))))
            return branch + (x if self.shortcut is None else self.shortcut(ready))
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(branch + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))))


class PlainResNet(nn.Module):
    def __init__(self, network) -> None:
        super().__init__()
        width = network.width
        self.stem = nn.Conv2d(network.shape[2], width, 3, padding=1, bias=False)
        self.stem_norm = None if network.preactivation else _norm(width, network)
        stages, inputs = [], width
        for stage in range(network.stages):
            blocks = []
            for index in range(network.depth):
                blocks.append(Basic(inputs, width * 2**stage, 2 if stage > 0 and index == 0 else 1, network))
                inputs = width * 2**stage
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.norm = _norm(inputs, network) if network.preactivation else None
        self.head = nn.Linear(inputs, network.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x if self.stem_norm is None else F.relu(self.stem_norm(x))
        x = self.stages(x)
        x = x if self.norm is None else F.relu(self.norm(x))
        return self.head(x.mean((2, 3)))


class PlainViT(nn.Module):
    """Blocks are torch's own encoder layers, patches those of a convolution."""

    def __init__(self, network) -> None:
        super().__init__()
        height, width, channels = network.shape
        self.patches = nn.Conv2d(channels, network.width, network.patch, network.patch)
        count = (height // network.patch) * (width // network.patch)
        self.positions = nn.Parameter(torch.zeros(count, network.width))
        layers = [
            nn.TransformerEncoderLayer(
                network.width,
                network.heads,
                4 * network.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(network.depth)
        ]
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(network.width)
        self.head = nn.Linear(network.width, network.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


_RESNET_NAMES = (
    ("stem.norm", "stem_norm"),
    ("stem.conv", "stem.weight"),
    ("shortcut.norm", "shortcut_norm"),
    (".mean", ".running_mean"),
    (".var", ".running_var"),
)
_VIT_NAMES = (
    ("embedding", "patches"),
    ("attention.qkv.", "self_attn.in_proj_"),
    ("attention.out", "self_attn.out_proj"),
    ("attention.norm", "norm1"),
    ("mlp.norm", "norm2"),
    ("mlp.up", "linear1"),
    ("mlp.down", "linear2"),
)


def names_of(plain: nn.Module, ours: str) -> str:
    """What a parameter or buffer of ours is called in a reference."""
    name = ours
    for old, new in _RESNET_NAMES if isinstance(plain, PlainResNet) else _VIT_NAMES:
        name = name.replace(old, new)
    if name.endswith((".conv1", ".conv2", ".shortcut")):
        name += ".weight"
    modules = dict(plain.named_modules())
    parent, _, leaf = name.rpartition(".")
    return f"{parent}.inner.{leaf}" if isinstance(modules.get(parent), Ghosts) else name


def plain(network, values: Mapping[str, Tensor]) -> nn.Module:
    """A reference with one member's parameters and buffers, float64."""
    module = (PlainResNet if hasattr(network, "stages") else PlainViT)(network).double()
    state = {names_of(module, name): value for name, value in values.items()}
    own = module.state_dict()
    if "patches.weight" in state:
        state["patches.weight"] = state["patches.weight"].view_as(own["patches.weight"])
    left_out = set(own) - set(state)
    assert all(name.endswith("num_batches_tracked") for name in left_out), left_out
    assert not set(state) - set(own)
    module.load_state_dict(state, strict=False)
    return module
