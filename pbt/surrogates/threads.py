"""Arithmetic that comes out the same however many threads others use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import scipy.optimize  # noqa: F401 - so that its BLAS is one of those that are found
import torch
from botorch.exceptions.warnings import OptimizationWarning
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """With one thread of torch and of numpy's and scipy's BLAS, and gradients on; afterwards all is as it was.

    What warnings are shown is also as it was: botorch changes that whenever it fits.

    Sums over several threads differ in the last bits with their number, and decisions are to be repeatable. Problems
    of a few hundred rows are also solved several times faster so, as threads that wait for each other take time.
    """
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _pools().limit(limits=1, user_api="blas"), torch.enable_grad(), warnings.catch_warnings():
            # A search for the maximum that ends early is no failure: the best of several is taken.
            warnings.simplefilter("ignore", OptimizationWarning)
            yield
    finally:
        torch.set_num_threads(number)


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()
