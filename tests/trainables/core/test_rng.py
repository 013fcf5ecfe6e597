"""The hash's statistics are deterministic: these tests cannot flake, and their bounds are five standard errors."""

import itertools

import pytest
import torch

from trainables.core.rng import Draws, below, bits, keep, mix, normal, seed_word, site, uniform

N = 200_000


def _key(seed=0, consumed=0, where=0):
    return Draws(torch.tensor([seed]), torch.tensor([consumed])).key(where)


def test_mix_is_splitmix64():
    """The first outputs from state 1234567 are those of the published generator."""
    gamma = 0x9E3779B97F4A7C15
    states = torch.tensor([seed_word(1234567 + gamma * i) for i in range(1, 4)])
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [word % 2**64 for word in mix(states).tolist()] == published


@pytest.mark.parametrize("key", [(0, 0, 0), (1, 0, 0), (-5, 10**6, 3), (2**62, 7, 2**40)])
def test_uniform(key):
    """Mean 1/2, variance 1/12, and a chi-square over 100 bins within five standard errors, for any key."""
    draws = uniform(_key(*key), N)[0]
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert abs(draws.mean() - 0.5) < 5 * (1 / 12 / N) ** 0.5
    assert abs(draws.var() - 1 / 12) < 5 * (1 / 180 / N) ** 0.5
    counts = torch.histc(draws, bins=100, min=0, max=1)
    chi_square = ((counts - N / 100) ** 2 / (N / 100)).sum()
    assert abs(chi_square - 99) < 5 * (2 * 99) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 64])
def test_elements_are_independent(lag):
    """No correlation between an element and those after it."""
    draws = uniform(_key(), N)[0]
    assert abs(_correlation(draws[:-lag], draws[lag:])) < 5 / N**0.5


def test_keys_are_independent():
    """No correlation between streams whose seed, counter or site are neighbours, not even exchanged."""
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2, 1, 0), (1, 2, 0), (-1, 0, 0)]
    streams = [uniform(_key(*key), N)[0] for key in keys]
    for a, b in itertools.combinations(streams, 2):
        assert abs(_correlation(a, b)) < 5 / N**0.5


def test_every_bit_is_fair():
    """Each of the 64 bits is set half of the time."""
    words = bits(_key(), N)[0]
    for shift in range(64):
        share = ((words >> shift) & 1).double().mean()
        assert abs(share - 0.5) < 5 * 0.5 / N**0.5


def test_consecutive_steps_make_no_pattern():
    """The first draw of 20,000 consecutive steps is as uniform as the draws of one step."""
    draws = Draws(torch.zeros(20_000, dtype=torch.int64), torch.arange(20_000))
    firsts = uniform(draws.key(site("x")), 1)[:, 0]
    assert abs(firsts.mean() - 0.5) < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(_correlation(firsts[:-1], firsts[1:])) < 5 / 20_000**0.5


def test_a_draw_depends_on_its_member_alone():
    """A member draws the same numbers wherever it sits and whoever sits beside it."""
    seeds, consumed = torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3])
    together = Draws(seeds, consumed).key(9)
    for i in range(3):
        alone = Draws(seeds[i : i + 1], consumed[i : i + 1]).key(9)
        assert torch.equal(bits(together, 33)[i], bits(alone, 33)[0])


def test_more_draws_begin_with_the_fewer():
    """Element i does not depend on how many are drawn."""
    assert torch.equal(bits(_key(), 100)[:, :10], bits(_key(), 10))


@pytest.mark.parametrize("high", [1, 7, 1000, 2**31])
def test_below(high):
    """Integers in [0, high), with the right mean."""
    draws = below(_key(), N, high)[0]
    assert draws.min() >= 0
    assert draws.max() < high
    assert abs(draws.double().mean() - (high - 1) / 2) <= 5 * high / (12 * N) ** 0.5


def test_normal():
    """Moments of the standard normal distribution, and its share beyond two sigma."""
    draws = normal(_key(), N)[0]
    assert abs(draws.mean()) < 5 / N**0.5
    assert abs(draws.var() - 1) < 5 * (2 / N) ** 0.5
    assert abs((draws.abs() > 2).double().mean() - 0.0455) < 5 * (0.0455 / N) ** 0.5


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.1, 0.5, 0.95])
def test_keep(p):
    """An element is dropped with each member's own probability; none at 0."""
    kept = keep(_key().expand(2), N, torch.tensor([p, 0.25], dtype=torch.float64))
    for share, wanted in zip(kept.double().mean(1).tolist(), (1 - p, 0.75), strict=True):
        assert abs(share - wanted) <= 5 * (wanted * (1 - wanted) / N) ** 0.5


def test_any_integer_is_a_seed():
    """Seeds beyond 64 bits wrap; those within are distinct."""
    assert seed_word(2**64 + 3) == seed_word(3)
    assert len({seed_word(s) for s in (0, 1, -1, 2**63, 2**63 - 1)}) == 5


def _correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1]
