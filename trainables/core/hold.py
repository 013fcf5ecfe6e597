"""Values that the compiler must not compute again wherever they are used."""

from __future__ import annotations

import torch
from torch import Tensor


def is_held(x: Tensor) -> bool:
    """Whether `hold` does anything: in a compiled step, on a CPU."""
    return torch.compiler.is_compiling() and x.device.type == "cpu"


def hold(x: Tensor) -> Tensor:
    """The same values, computed once.

    Inductor (torch 2.13) writes the arithmetic behind a `(K,)` tensor into every loop that reads it: powers and roots
    for each handful of a parameter's elements. On a CPU that made a compiled AdamW five times as slow. What comes out
    of an operation that inductor does not know is read from memory. One call takes some 10 us.

    Args:
        x: Of any shape, for which `is_held`.
    """
    held: Tensor = torch.ops.pbt.hold(x)
    return held


def once(x: Tensor) -> Tensor:
    """The same values, held where that does anything."""
    return hold(x) if is_held(x) else x


torch.library.define("pbt::hold", "(Tensor x) -> Tensor")
torch.library.impl("pbt::hold", "CPU")(torch.clone)
torch.library.register_fake("pbt::hold")(torch.empty_like)
