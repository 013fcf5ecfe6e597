"""Batches mixed from domains: how many windows of each, which, and that nothing else counts."""

import itertools
import math

import pytest
import torch

from trainables.core.data import TokenFeed
from trainables.core.mixture import MixtureFeed
from trainables.core.order import epoch_key, permute
from trainables.core.rng import Draws, below, site
from trainables.core.step import COMPILER_OPTIONS, compiler
from trainables.errors import DataError

# Every token tells its own place, so a window's first token is its start.
TOKENS = {split: torch.arange(400) for split in ("train", "validation", "test")}
SPANS = {"code": (0, 131), "prose": (131, 171), "tests": (171, 400)}
WINDOW = 9
STRIDE = WINDOW - 1
#: Windows of an epoch of each domain.
SIZES = [15, 4, 27]
#: Places where the first window of an epoch may begin.
ROOMS = [11, 8, 13]


def feed(batch_size=8, **changes):
    text = TokenFeed(tokens=TOKENS, window=WINDOW, batch_size=batch_size, evaluation_windows=5)
    return MixtureFeed(**{"text": text, "spans": SPANS, **changes})


def draws(seeds, consumed):
    return Draws(torch.tensor(seeds), torch.tensor(consumed))


def batch(of, seeds, consumed, weights, cursor=None):
    """The batches of some members, and their cursors after them."""
    buffers = {"cursor": torch.zeros(len(seeds), len(SPANS), dtype=torch.int64) if cursor is None else cursor}
    rows = {"mixture": torch.tensor(weights, dtype=torch.float64)}
    return of.batch(draws(seeds, consumed), rows, buffers), buffers["cursor"]


def weights_of(step):
    """Other weights at each step, now and then none of one domain."""
    raw = [1.0 + math.sin(step), max(0.0, math.cos(0.7 * step)), 0.3 + (step % 3)]
    return [weight / sum(raw) for weight in raw]


def domains_of(starts):
    """In which domain windows begin."""
    return torch.bucketize(starts.contiguous(), torch.tensor([131, 171]), right=True)


def test_windows_are_consecutive_tokens_of_one_domain():
    """A batch is `[K, batch, window]`, and no window reaches from one domain into another."""
    for step in range(100):
        found, _ = batch(feed(), [1, 2], [step, step], [weights_of(step), weights_of(step + 1)])
        assert (found.shape, found.dtype) == ((2, 8, WINDOW), torch.int64)
        assert (found.diff(dim=-1) == 1).all()
        assert torch.equal(domains_of(found[..., 0]), domains_of(found[..., -1]))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("weights", [[0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3], [0.013, 0.98, 0.007]])
def test_every_domain_has_its_share(batch_size, weights):
    """In each step the share rounded up or down, on average over 4,000 members exactly the share."""
    number = 4_000
    _, taken = batch(feed(batch_size), list(range(number)), [0] * number, [weights] * number)
    assert (taken.sum(1) == batch_size).all()
    for count, weight in zip(taken.T, weights, strict=True):
        due = batch_size * weight
        assert set(count.tolist()) <= {math.floor(due + 1e-9), math.ceil(due - 1e-9)}
        rest = due - math.floor(due)
        assert abs(count.double().mean().item() - due) <= 4 * math.sqrt(rest * (1 - rest) / number) + 1e-9


def test_the_cursor_counts_the_windows_taken():
    """Of each domain, exactly those in the batch."""
    cursor = torch.tensor([[3, 1, 20], [0, 0, 0]])
    found, after = batch(feed(), [5, 6], [2, 9], [[0.5, 0.25, 0.25], [0.0, 0.9, 0.1]], cursor)
    for member in range(2):
        taken = torch.bincount(domains_of(found[member, :, 0]), minlength=3)
        assert torch.equal(after[member] - cursor[member], taken)


@pytest.mark.parametrize("weights", list(itertools.product([0.0, 1.0], repeat=3))[1:])
@pytest.mark.parametrize("miss", [0.0, -9e-10, 9e-10])
def test_no_weight_no_window(weights, miss):
    """A domain of weight 0 is never drawn from, wherever it stands, also where the sum is 1 only to rounding."""
    shares = [weight * (1.0 + miss) / sum(weights) for weight in weights]
    number = 2_000
    _, taken = batch(feed(), list(range(number)), [1] * number, [shares] * number)
    assert (taken.sum(0) > 0).tolist() == [weight > 0 for weight in weights]


@pytest.mark.parametrize("batch_size", [1, 8, 50])
def test_every_token_is_predicted_once_in_an_epoch(batch_size):
    """Whatever the weights do: after each step every token inside a domain was predicted as often as the domain has
    ended epochs, or once more.
    """
    mixed, cursor, counts = feed(batch_size), None, torch.zeros(400, dtype=torch.int64)
    for step in range(600 // batch_size):
        found, cursor = batch(mixed, [3], [step], [weights_of(step)], cursor)
        counts += torch.bincount(found[0, :, 1:].flatten(), minlength=400)
        for number, (first, last) in enumerate(SPANS.values()):
            epochs = cursor[0, number].item() // SIZES[number]
            inside = counts[first + ROOMS[number] : first + SIZES[number] * STRIDE + 1]
            assert counts[first:last].sum() == STRIDE * cursor[0, number]
            assert counts[first:last].max() <= epochs + 1
            assert inside.min() >= epochs
    assert all(count > 5 * size for count, size in zip(cursor[0].tolist(), SIZES, strict=True))


def test_windows_begin_elsewhere_in_every_epoch():
    """No token stays at a window's edge, and none at the end of a domain is left out for good."""
    mixed, cursor, predicted, starts = feed(32), None, set(), set()
    for step in range(200):
        found, cursor = batch(mixed, [4], [step], [[0.3, 0.3, 0.4]], cursor)
        predicted |= set(found[0, :, 1:].flatten().tolist())
        starts |= set(found[0, :, 0].tolist())
    firsts = {first for first, _ in SPANS.values()}
    assert predicted == set(range(400)) - firsts
    assert starts == {place for first, last in SPANS.values() for place in range(first, last - STRIDE)}


def test_follows_its_definition():
    """One window after another in plain Python: the same windows, in the same rows."""
    seed, step, size = 11, 4, 8
    cursor, weights = [13, 2, 26], [0.3, 0.35, 0.35]
    one = draws([seed], [step])
    moved = below(one.key(site("data.mixture.shares")), 1, 2**31).item() / 2**31
    starts = []
    for number in range(size):
        domain = sum(number + moved >= size * end for end in itertools.accumulate(weights))
        epoch, place = divmod(cursor[domain], SIZES[domain])
        cursor[domain] += 1
        name, (first, _) = list(SPANS.items())[domain]
        key = epoch_key(torch.tensor([seed]), site(f"data.domain.{name}"), torch.tensor([epoch]))
        window = permute(torch.tensor([place]), key, SIZES[domain]).item()
        starts.append(first + below(key, 1, ROOMS[domain]).item() + STRIDE * window)
    rows = permute(torch.arange(size), one.key(site("data.mixture.rows")), size)
    found, after = batch(feed(size), [seed], [step], [weights], torch.tensor([[13, 2, 26]]))
    assert after.tolist() == [cursor]
    assert found[0, :, 0].tolist() == [starts[row] for row in rows]


def test_only_what_is_a_members_own_counts():
    """Seed, `consumed`, weights and cursor: the same batch in any slot, among any others."""
    cursor = torch.tensor([[5, 60, 7]])
    alone, moved = batch(feed(), [9], [4], [[0.2, 0.5, 0.3]], cursor)
    others = torch.tensor([[0, 1, 2], [9, 9, 9]])
    weights = [[1.0, 0.0, 0.0], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]]
    among, cursors = batch(feed(), [1, 2, 9], [0, 7, 4], weights, torch.cat([others, cursor]))
    assert torch.equal(alone[0], among[2])
    assert torch.equal(moved[0], cursors[2])


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_smaller_batch_is_the_beginning_of_a_larger(size):
    """A member that trains on some rows sees in them what it would see in a batch of just these."""
    weights, cursor = [[0.5, 0.3, 0.2]], torch.tensor([[14, 3, 5]])
    wanted, after = batch(feed(size), [2], [6], weights, cursor)
    hparams = {"mixture": torch.tensor(weights * 2).double(), "batch_size": torch.tensor([8.0, size]).double()}
    buffers = {"cursor": cursor.repeat(2, 1)}
    found = feed().batch(draws([2, 2], [6, 6]), hparams, buffers)
    assert torch.equal(found[1, :size], wanted[0])
    assert torch.equal(buffers["cursor"][1], after[0])
    assert torch.equal(found[0], batch(feed(), [2], [6], weights, cursor)[0][0])


def test_a_domain_keeps_its_order_whatever_the_others():
    """Which windows come next is a matter of the domain alone: of its name, not of what stands beside it."""
    fewer = {"prose": SPANS["prose"], "tests": SPANS["tests"]}
    found, _ = batch(feed(), [1], [0], [[0.0, 0.5, 0.5]])
    buffers = {"cursor": torch.zeros(1, 2, dtype=torch.int64)}
    other = feed(spans=fewer).batch(draws([1], [0]), {"mixture": torch.tensor([[0.5, 0.5]]).double()}, buffers)
    assert torch.equal(found, other)


def test_members_have_orders_of_their_own():
    """Two seeds see a domain's windows in orders, and from places, that have nothing to do with each other."""
    seen, _ = batch(feed(15), [1, 2], [0, 0], [[1.0, 0.0, 0.0]] * 2)
    one, other = ((row - row.min()) // STRIDE for row in seen[:, :, 0])
    assert set(one.tolist()) == set(other.tolist()) == set(range(15))
    assert (one == other).sum() < 6  # one on average


def test_every_row_has_every_domain():
    """Micro-batches are rows from the first to the last: in each row a domain is as frequent as it is due."""
    number, weights = 4_000, [0.5, 0.2, 0.3]
    found, _ = batch(feed(4), list(range(number)), [0] * number, [weights] * number)
    domains = domains_of(found[..., 0])
    for row, (domain, weight) in itertools.product(range(4), enumerate(weights)):
        share = (domains[:, row] == domain).double().mean().item()
        assert abs(share - weight) < 4 * math.sqrt(weight * (1 - weight) / number)


def test_evaluation_is_not_mixed():
    """The same windows as without a mixture."""
    mixed = feed()
    pairs = zip(mixed.evaluation("test"), mixed.text.evaluation("test"), strict=True)
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in pairs)


def test_the_default_is_what_the_text_has():
    """Shares of the domains' lengths, in their order."""
    spec = feed().hparams["mixture"]
    assert spec.parts == ("code", "prose", "tests")
    assert spec.default == {"code": 131 / 400, "prose": 40 / 400, "tests": 229 / 400}


def test_golden():
    """Recorded runs depend on these numbers."""
    found, cursor = batch(feed(), [0], [0], [[0.5, 0.25, 0.25]])
    assert found[0, :, 0].tolist() == [332, 162, 146, 16, 8, 372, 48, 88]
    assert cursor.tolist() == [[4, 2, 2]]


@pytest.mark.gpu
def test_another_device_mixes_alike():
    """On CUDA the windows are those of the CPU."""
    there = {split: tokens.cuda() for split, tokens in TOKENS.items()}
    text = TokenFeed(tokens=there, window=WINDOW, batch_size=8, evaluation_windows=5)
    cursor = torch.tensor([[3, 60, 7], [0, 0, 0]])
    weights = [weights_of(1), weights_of(2)]
    found, after = batch(feed(), [1, 2], [4, 5], weights, cursor)
    buffers = {"cursor": cursor.cuda()}
    rows = {"mixture": torch.tensor(weights, dtype=torch.float64).cuda()}
    clocks = Draws(torch.tensor([1, 2]).cuda(), torch.tensor([4, 5]).cuda())
    moved = MixtureFeed(text, SPANS).batch(clocks, rows, buffers)
    assert torch.equal(found, moved.cpu())
    assert torch.equal(after, buffers["cursor"].cpu())


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager():
    """Bit for bit, in a single graph."""
    mixed, seeds = feed(), [1, -2, 3]
    compiled = torch.compile(mixed.batch, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS)
    cursors = [torch.zeros(3, 3, dtype=torch.int64) for _ in range(2)]
    for step in range(100):
        rows = {"mixture": torch.tensor([weights_of(step + slot) for slot in range(3)], dtype=torch.float64)}
        found = []
        for number, mix in enumerate((mixed.batch, compiled)):
            buffers = {"cursor": cursors[number]}
            found.append(mix(draws(seeds, [step] * 3), rows, buffers))
            cursors[number] = buffers["cursor"]
        assert torch.equal(*found)
        assert torch.equal(*cursors)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"code": (0, 400)}, "mixture of code; give text of at least two domains"),
        ({"code": (0, 385), "prose": (385, 400)}, "domain 'prose' has 15 bytes of training text; .* at least 16"),
        ({"code": (0, 400), "prose": (400, 400)}, "domain 'prose' has 0 bytes of training text"),
    ],
)
def test_text_that_cannot_be_mixed_is_refused(spans, message):
    """One domain, or one that has no window in every epoch."""
    with pytest.raises(DataError, match=message):
        feed(spans=spans)
    assert feed(spans={"code": (0, 384), "prose": (384, 400)}).buffers()["cursor"].tolist() == [0, 0]
