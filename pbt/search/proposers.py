"""Configurations to begin that depend on nothing that was seen."""

from __future__ import annotations

import numpy as np

from pbt.member import Hparams, generator
from pbt.search.policy import Book
from pbt.search.promotion import Proposer
from searchspaces import Space


def uniform(space: Space) -> Proposer:
    """Drawn from the space."""

    def propose(book: Book, seed: int, given: Hparams) -> Hparams:
        return space.sample(generator(seed, "configuration"), given)

    return propose


def sobol(space: Space, seed: int) -> Proposer:
    """One after another from a scrambled Sobol sequence: they fill the space more evenly than chance does.

    Args:
        space: What may vary.
        seed: Of the scrambling.

    Source: Owen 1998, "Scrambling Sobol' and Niederreiter-Xing Points", Journal of Complexity 14.
    """

    def propose(book: Book, own_seed: int, given: Hparams) -> Hparams:
        from scipy.stats import qmc  # takes half a second to load

        sequence = qmc.Sobol(max(space.num_dims, 1), scramble=True, rng=np.random.default_rng(seed))
        if book.runs:  # by none it cannot be
            sequence.fast_forward(len(book.runs))
        drawn = space.decode(sequence.random(1)[0][: space.num_dims])
        return with_given(space, drawn, given, generator(own_seed, "configuration"))

    return propose


def with_given(space: Space, hparams: Hparams, given: Hparams, rng: np.random.Generator) -> Hparams:
    """A configuration with the given values instead of its own; what only these make active is drawn."""
    if not given:
        return hparams
    return space.point({**space.sample(rng, given), **hparams, **given})
