"""Batch sizes as buckets: members whose batch sizes round up to the same power of two share a stack.

A stack's batches have as many rows as its bucket says, for every member. A member with fewer examples of its own, 24
in a bucket of 32, trains on the first 24 rows of its batch. The others weigh nothing in loss, gradient and noise scale,
so no batch size is rounded, but they are computed all the same: up to just under half of the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.errors import TrainableError

#: The hyperparameter's name. A program that has it lets every member have its own.
BATCH_SIZE = "batch_size"

_DOC = "examples of one member in a step"


def described(default: int) -> HparamSpec:
    """The hyperparameter, as a trainable describes it."""
    return HparamSpec(kind="bucket", default=default, low=1, doc=_DOC)


def admitted(default: int, rows: int) -> HparamSpec:
    """The hyperparameter, as a stack with batches of `rows` rows admits it."""
    return HparamSpec(kind="bucket", default=default, low=rows // 2 + 1, high=rows, doc=_DOC)


def num_rows(size: object, default: int) -> int:
    """Rows of the batches in which a member of this batch size trains.

    The trainable's own batch size has a bucket of just its size, so that who varies nothing computes nothing in vain.

    Args:
        size: The member's batch size.
        default: The trainable's.

    Raises:
        TrainableError: It is no whole number of at least 1.
    """
    number = float(size) if isinstance(size, Real) and not isinstance(size, bool) else math.nan
    if not number.is_integer() or number < 1:
        raise TrainableError(f"hparam {BATCH_SIZE!r} is {size!r}; give a whole number >= 1")
    return default if number == default else 1 << (int(number) - 1).bit_length()


def counted(size: Tensor, rows: int, per_row: int = 1) -> Tensor:
    """Which values count, `(K, rows * per_row)` bool: those of each member's first `size[k]` rows.

    Args:
        size: `(K,)`, numbers of rows.
        rows: Rows of the batch.
        per_row: Values of each row.
    """
    return torch.arange(rows * per_row, device=size.device) < size[:, None] * per_row


def of_part(hparams: Mapping[str, Tensor], number: int, num_parts: int, rows: int) -> tuple[dict[str, Tensor], Tensor]:
    """What a micro-batch is to be told, and what its loss weighs against the mean over micro-batches.

    Args:
        hparams: `(K,)` float64 by name, the batch size of the whole batch among them.
        number: Which micro-batch, from 0.
        num_parts: How many there are.
        rows: Rows of each.

    Returns:
        The hyperparameters, with the number of the micro-batch's rows that count for a batch size; and the weights,
        `(K,)` float64: 1 where they all count, 0 where none does.
    """
    size = hparams[BATCH_SIZE]
    own = (size - number * rows).clamp(0, rows)
    return {**hparams, BATCH_SIZE: own}, own * num_parts / size
