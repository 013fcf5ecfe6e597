"""What a compiled step draws: the same bits as an eager one, or compiled runs could not be repeated or compared."""

import pytest
import torch

from trainables.core.data import TokenFeed
from trainables.core.order import examples
from trainables.core.rng import Draws, below, bits, keep, site, uniform
from trainables.core.step import COMPILER_OPTIONS, compiler

SEEDS = torch.tensor([0, -5, 2**62, 11, 12])
P = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.95], dtype=torch.float64)
TOKENS = TokenFeed(tokens={"train": torch.arange(251, dtype=torch.uint8)}, window=9, batch_size=3, evaluation_windows=1)


def _drawn(seeds, consumed, p):
    """Numbers whose counts leave a remainder after whole vectors, of every kind that a step draws."""
    draws = Draws(seeds, consumed)
    key = draws.key(site("here"))
    masks = keep(key, 97, p), keep(key, 33, p, first=5)
    words = bits(key, 19), bits(key, 3, first=2), uniform(key, 19), below(key, 21, 1000)
    return *masks, *words, examples(draws, site("there"), 7, 1000), TOKENS.batch(draws)


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_draws_are_the_eager_ones():
    """Dropout masks, order of the data, windows of text and raw words: bit for bit, at any seed and counter."""
    compiled = torch.compile(_drawn, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS)
    for consumed in (torch.arange(5), 10**9 + 7 * torch.arange(5)):
        for eager, found in zip(*(drawn(SEEDS, consumed, P) for drawn in (_drawn, compiled)), strict=True):
            assert torch.equal(eager, found)
