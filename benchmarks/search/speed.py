"""How long a suggestion takes once much has been seen: on one core, in processor seconds."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.search.functions import power_laws
from benchmarks.search.methods import METHODS
from benchmarks.search.world import play
from pbt.search.policy import Book

#: Suggestions that are timed; a value comes in between any two.
_NUMBER = 20


def suggestion_times(name: str, observations: int = 300) -> list[float]:
    """Of so many suggestions in a row by a method that was told of what halving had seen.

    The first is left out: whoever was there from the beginning has found most parameters before.
    """
    import torch

    torch.set_num_threads(1)
    table = power_laws(0.5)
    played = play(table, lambda snap: METHODS["asha"](table.space, snap, table.ladder(), 0), seed=0, workers=1, runs=60)
    later = played.book.values[observations : observations + _NUMBER + 1]
    begun = max(value.run for value in later) + 1
    book = Book(played.book.ladder, played.book.budget, played.book.runs[:begun], played.book.values[:observations])
    policy = METHODS[name](table.space, lambda hparams: table.nearest(hparams, ())[1], table.ladder(), 0)
    taken = []
    for seed, value in enumerate(later):
        began = time.process_time()
        policy.choose(book, seed)
        taken.append(time.process_time() - began)
        book.values.append(value)
    return taken[1:]


def median_times(names: list[str], observations: int = 300) -> dict[str, float]:
    """Of each method."""
    return {name: float(np.median(suggestion_times(name, observations))) for name in names}
