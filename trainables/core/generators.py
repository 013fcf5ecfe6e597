"""Random numbers of those who draw without a generator of their own: other people's modules and training loops."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: The generators are one for all threads of a process.
_DRAWING = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's begin at this seed, for one thread at a time; others find theirs as they left it.

    Args:
        seed: In [0, 2**63).
    """
    with _DRAWING:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_rng_state(before[2])
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
