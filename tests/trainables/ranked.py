"""A small network and its data, for members that several ranks share; and a life of one of these ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from trainables import Place, State
from trainables.base import Split
from trainables.core.model import NO_HPARAMS, Buffers
from trainables.core.order import examples
from trainables.core.rng import Draws, site
from trainables.gang import Gang

_WHERE = site("test.points")
BATCH = 12


class Network(nn.Module):
    """Blocks in a list, as most networks have them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (nn.Linear(3, 7), nn.Sequential(nn.Tanh(), nn.Linear(7, 5), nn.Tanh()))
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(5, 1)

    def forward(self, points: Tensor) -> Tensor:
        for block in self.blocks:
            points = block(points)
        found: Tensor = self.head(points)
        return found


def make() -> nn.Module:
    """Sizes that two ranks cannot share evenly."""
    return Network()


def loss(module: nn.Module, batch: Any) -> Tensor:
    """The mean square."""
    dtype = next(module.parameters()).dtype
    points, values = (part.to(dtype) for part in batch)
    return functional.mse_loss(module(points), values)


class Points:
    """A hundred points in space, and the values of a function there."""

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(1)
        self._points = torch.randn(100, 3, generator=generator, dtype=torch.float64).to(device)
        self._values = self._points.sin().sum(1, keepdim=True)

    def buffers(self) -> Mapping[str, Tensor]:
        return {}

    def batch(self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None) -> Any:
        chosen = examples(draws, _WHERE, BATCH, len(self._points))
        return self._points[chosen], self._values[chosen]

    def evaluation(self, split: Split) -> Iterator[tuple[Any, int]]:
        for half in (slice(0, 60), slice(60, 100)):
            yield (self._points[half], self._values[half]), 50


def module(parallel: Any = "ddp") -> Gang:
    """What is trained."""
    return Gang(*(f"{__name__}:{function}" for function in ("make", "loss", "Points")), parallel)


#: What a stack is told: the name of a method, and its arguments.
Calls = Sequence[tuple[Any, ...]]


def live(calls: Calls, place: Place, parallel: str, meeting: str) -> list[Any]:
    """Build a stack, do what is said, and return what came of it."""
    torch.set_num_threads(1)
    if place.world_size > 1:
        dist.init_process_group("gloo", f"file://{meeting}", rank=place.rank, world_size=place.world_size)
    stack = module(parallel).build("module", 1, place)
    found = [getattr(stack, name)(*arguments) for name, *arguments in calls]
    if place.world_size > 1:
        dist.destroy_process_group()
    return found


def together(calls: Calls, folder: Path, ranks: int, parallel: str) -> list[list[Any]]:
    """Lives of all ranks of a gang, in processes of their own, at the same time."""
    place = Place(dtype="float64", world_size=ranks)
    if ranks == 1:
        return [live(calls, place, parallel, "")]
    meeting = folder / f"meeting-{len(list(folder.iterdir()))}"
    with ProcessPoolExecutor(ranks, mp_context=get_context("spawn")) as pool:
        lives = [pool.submit(live, calls, replace(place, rank=r), parallel, str(meeting)) for r in range(ranks)]
        return [life.result(timeout=300) for life in lives]


def merged(states: Sequence[State]) -> State:
    """What all ranks gave."""
    return replace(states[0], shards=tuple(shard for state in states for shard in state.shards))
