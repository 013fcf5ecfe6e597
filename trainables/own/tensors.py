"""Somebody's own data as tensors: checked, hashed, and fed to members in an order of each one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from trainables.base import Split
from trainables.core.hold import once
from trainables.core.model import NO_HPARAMS, Buffers
from trainables.core.order import examples
from trainables.core.rng import Draws, site
from trainables.errors import TrainableError, nearest

_ORDER = site("data.tensors")
#: Examples of an evaluation batch.
_EVALUATION_BATCH = {"cpu": 64}
_EVALUATION_BATCH_ELSEWHERE = 512
_SPLITS: tuple[Split, ...] = get_args(Split)
_MEND = "give {'train': (inputs, targets), 'validation': ..., 'test': ...}, tensors or arrays with the examples first"


@dataclass(frozen=True, eq=False)
class Tables:
    """Examples of every split, in the CPU's memory.

    Attributes:
        columns: Tensors `[N, ...]` by split: what the module takes, then what only the loss takes.
        num_inputs: How many of them the module takes.
        sha256: Of all values.
    """

    columns: Mapping[Split, tuple[Tensor, ...]]
    num_inputs: int
    sha256: str

    def provenance(self) -> dict[str, str | int]:
        """What a sweep records of its data."""
        sizes = {f"examples_{split}": len(columns[0]) for split, columns in self.columns.items()}
        return {"sha256": self.sha256, **sizes}


@lru_cache(maxsize=2)
def tables(what: str, make: Callable[[], Any]) -> Tables:
    """The data that somebody's function gives; kept in the process.

    Args:
        what: The function, for people.
        make: The function.

    Raises:
        TrainableError: It raises, or what it gives is no data.
    """
    try:
        made = make()
    except Exception as error:  # it is the user's
        raise TrainableError(f"{what}, which raised {type(error).__name__}: {error}; mend it") from error
    if not isinstance(made, Mapping):
        raise TrainableError(f"{what}, which gave a {type(made).__name__}; {_MEND}")
    for split in made:
        if split not in _SPLITS:
            raise TrainableError(f"{what}, which gave {split!r}; {nearest(str(split), _SPLITS)}")
    for split in _SPLITS[:2]:
        if split not in made:
            raise TrainableError(f"{what}, which gave no {split!r}; {_MEND}")
    parts = {split: _part(f"{what}, whose {split!r}", made[split]) for split in _SPLITS if split in made}
    _check_alike(what, parts)
    columns = {split: (*inputs, *targets) for split, (inputs, targets) in parts.items()}
    return Tables(columns, len(parts["train"][0]), _digest(columns))


@lru_cache(maxsize=4)
def _on(data: Tables, device: str) -> Mapping[Split, tuple[Tensor, ...]]:
    """The same on a device: once for all stacks there."""
    return {split: tuple(column.to(device) for column in columns) for split, columns in data.columns.items()}


@dataclass(frozen=True, eq=False)
class TensorFeed:
    """Batches of somebody's own tensors; a `trainables.core.model.Feed`.

    In training every example comes once in an epoch, in an order of each member's own; evaluation reads examples spread
    evenly over their split, the same for every member.

    Attributes:
        columns: Tensors `[N, ...]` by split, on the stack's device.
        batch_size: Examples per member and training step.
        evaluation_examples: Examples per split, at most.
    """

    columns: Mapping[Split, tuple[Tensor, ...]]
    batch_size: int
    evaluation_examples: int

    @classmethod
    def of(cls, data: Tables, device: torch.device, batch_size: int, evaluation_examples: int) -> TensorFeed:
        """Those of some tables, on a device."""
        return cls(_on(data, str(device)), batch_size, evaluation_examples)

    def buffers(self) -> Mapping[str, Tensor]:
        """None: where a member is in its data follows from (seed, consumed)."""
        return {}

    def batch(
        self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None
    ) -> tuple[Tensor, ...]:
        """The members' next examples, `[K, batch_size, ...]` of each column."""
        columns = self.columns["train"]
        chosen = once(examples(draws, _ORDER, self.batch_size, len(columns[0])))
        return tuple(column[chosen] for column in columns)

    def evaluation(self, split: Split) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """Fixed examples `[B, ...]` of each column, each batch with its number of examples."""
        columns = self.columns[split]
        num, device = min(self.evaluation_examples, len(columns[0])), columns[0].device
        # Whole numbers only: of splits in some order, each stretch has its share.
        chosen = torch.arange(num, device=device) * len(columns[0]) // num
        for chunk in chosen.split(_EVALUATION_BATCH.get(device.type, _EVALUATION_BATCH_ELSEWHERE)):
            yield tuple(column[chunk] for column in columns), len(chunk)


def _part(what: str, given: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """One split as (what the module takes, what only the loss takes)."""
    if isinstance(given, TensorDataset):
        given = given.tensors
    elif isinstance(given, Dataset):
        given = _read(what, given)
    if not isinstance(given, Sequence) or len(given) != 2:
        found = f"{len(given)} values" if isinstance(given, Sequence) else f"a {type(given).__name__}"
        raise TrainableError(f"{what} is {found}, not (inputs, targets); {_MEND}")
    inputs, targets = (_columns(what, value) for value in given)
    sizes = sorted({len(column) for column in (*inputs, *targets)})
    if len(sizes) != 1 or not sizes[0]:
        raise TrainableError(
            f"{what} has {' and '.join(map(str, sizes))} examples; give equally many of each, at least 1"
        )
    return inputs, targets


def _read(what: str, given: Any) -> Any:
    """A map-style data set, read once."""
    try:
        return default_collate([given[index] for index in range(len(given))])
    except Exception as error:  # it is the user's
        told = f"{what} is a {type(given).__name__} that cannot be read as a whole ({type(error).__name__}: {error})"
        raise TrainableError(f"{told}; {_MEND}") from error


def _columns(what: str, given: Any) -> tuple[Tensor, ...]:
    return tuple(_column(what, value) for value in (given if isinstance(given, list | tuple) else (given,)))


def _column(what: str, given: Any) -> Tensor:
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        given = torch.from_numpy(np.ascontiguousarray(given))
    if not isinstance(given, Tensor) or not given.ndim:
        found = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise TrainableError(f"{what} has {found}; {_MEND}")
    return given.detach().cpu().contiguous()


def _check_alike(what: str, parts: Mapping[Split, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]) -> None:
    """Every split has what training has."""

    def looks(part: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> list[list[str]]:
        return [[f"{column.dtype} {list(column.shape[1:])}" for column in columns] for columns in part]

    for split, part in parts.items():
        if looks(part) != looks(parts["train"]):
            told = f"whose examples of {split!r} look like {looks(part)}, those of 'train' like {looks(parts['train'])}"
            raise TrainableError(f"{what}, {told}; give the same in all")


def _digest(columns: Mapping[Split, tuple[Tensor, ...]]) -> str:
    found = hashlib.sha256()
    for split, tensors in columns.items():
        for tensor in tensors:
            found.update(f"{split} {tensor.dtype} {list(tensor.shape)}".encode())
            found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
