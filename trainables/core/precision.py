"""In which precision a place computes: one setting for the model's dtype and for the GPU's own rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainables.base import Place


def compute_dtype(place: Place) -> torch.dtype:
    """What the model computes in; parameters and optimizer stay in the place's own dtype."""
    return torch.bfloat16 if place.precision == "bf16" else getattr(torch, place.dtype)


@contextmanager
def arithmetic(place: Place) -> Iterator[None]:
    """Have products of float32 matrices and convolutions on CUDA computed as the place says; elsewhere all is exact.

    The setting is the process's own, so it is put back.
    """
    if torch.device(place.device).type != "cuda":
        yield
        return
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if place.precision == "tf32" else "ieee"
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
