"""Every example once in an epoch, in an order of each member's own that depends on nothing else."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.core.order import Sizes, examples, permute
from trainables.core.rng import Draws, mix, site

HERE = site("test.order")


def keys(num):
    return mix(torch.arange(num) + 10**7)[:, None]


@given(size=st.integers(1, 700), key=st.integers(-(2**63), 2**63 - 1))
def test_it_is_one_to_one(size, key):
    """For any size and any key."""
    found = permute(torch.arange(size), torch.tensor(key), size)
    assert torch.equal(torch.arange(size), found.sort().values)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1_000_003])
def test_it_is_one_to_one_when_large(size):
    """Around a power of two, and far from one."""
    found = permute(torch.arange(size), torch.tensor(42), size)
    assert torch.equal(torch.arange(size), found.sort().values)


@given(size=st.integers(1, 2**61), data=st.data())
def test_no_place_is_too_large(size, data):
    """Places stay in range, up to the largest sizes."""
    place = data.draw(st.integers(0, size - 1))
    assert 0 <= permute(torch.tensor([place]), torch.tensor(7), size).item() < size


def test_sets_of_many_sizes_at_once():
    """Each place is where it would be in a set by itself."""
    sizes = [1, 2, 3, 7, 8, 9, 1000, 65_536, 2**40 + 3]
    place, index = torch.tensor([0, 1, 1, 6, 0, 8, 999, 65_535, 2**40]), torch.arange(9)
    for key in (torch.tensor(-5), keys(9)[:, 0]):
        alone = [permute(place[i], key.expand(9)[i], size).item() for i, size in enumerate(sizes)]
        together = permute(place, key, Sizes.of(sizes, torch.device("cpu")).at(index))
        assert together.tolist() == alone


def deviation(counts, expected):
    """Pearson's chi-square in standard deviations from its mean."""
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum().item() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_orders_are_equally_frequent(size):
    """Over 40,000 keys."""
    found = permute(torch.arange(size)[None], keys(40_000), size)
    places = {order: number for number, order in enumerate(itertools.permutations(range(size)))}
    numbers = torch.tensor([places[tuple(order)] for order in found.tolist()])
    counts = torch.bincount(numbers, minlength=len(places)).double()
    assert abs(deviation(counts, 40_000 / len(places))) < 4


@pytest.mark.parametrize("size", [1024, 60_000, 3_200_000])
def test_neighbours_are_strangers(size):
    """Where a place goes, and how far from it its neighbour, is uniform: 32 classes, 20,000 keys."""
    found = permute(torch.tensor([[0, 1]]), keys(20_000), size)
    distance = (found[:, 1] - found[:, 0]) % size - 1
    for values, num in ((found[:, 0], size), (distance, size - 1)):
        edges = [-(-share * num // 32) for share in range(33)]
        counts = torch.bincount(torch.bucketize(values.contiguous(), torch.tensor(edges[1:]), right=True), minlength=32)
        expected = torch.tensor([20_000 * (high - low) / num for low, high in itertools.pairwise(edges)]).double()
        assert abs(deviation(counts.double(), expected)) < 4


def draws(seeds, consumed):
    return Draws(torch.tensor(seeds), torch.tensor(consumed))


@pytest.mark.parametrize(("size", "count"), [(10, 1), (10, 5), (10, 3), (7, 4), (3, 8), (1, 2)])
def test_every_example_comes_once_in_an_epoch(size, count):
    """Also where a batch ends one epoch and begins the next, or holds several."""
    steps = 4 * size
    seen = torch.cat([examples(draws([5], [step]), HERE, count, size)[0] for step in range(steps)])
    epochs = seen[: len(seen) // size * size].view(-1, size)
    assert torch.equal(epochs.sort(1).values, torch.arange(size).expand(len(epochs), size))


def test_epochs_members_and_data_sets_are_in_orders_of_their_own():
    """Of 100 examples no two orders are the same, nor alike."""
    cases = itertools.product((1, 2), (0, 1), (HERE, 3))
    orders = [examples(draws([seed], [epoch]), where, 100, 100)[0] for seed, epoch, where in cases]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).sum() < 8  # one on average


def test_only_seed_and_consumed_count():
    """The same in any slot, among any others."""
    alone = examples(draws([9], [4]), HERE, 6, 50)
    among = examples(draws([1, 2, 9], [0, 7, 4]), HERE, 6, 50)
    assert torch.equal(alone[0], among[2])
    assert not torch.equal(among[0], among[1])


def test_golden():
    """Recorded runs depend on these numbers."""
    assert examples(draws([0], [0]), HERE, 10, 10)[0].tolist() == [9, 8, 3, 2, 4, 5, 0, 6, 7, 1]
