import torch

from trainables.core.data import TokenFeed
from trainables.core.rng import Draws

# Every token tells its own place, so a window's first token is its start.
TOKENS = {split: torch.arange(200, dtype=torch.uint8) for split in ("train", "validation", "test")}


def _feed(**changes):
    options = {"tokens": TOKENS, "window": 9, "batch_size": 4, "evaluation_windows": 5, **changes}
    return TokenFeed(**options)


def _draws(seeds, consumed):
    return Draws(torch.tensor(seeds), torch.tensor(consumed))


def test_windows_are_consecutive_tokens():
    """A batch is `[K, batch, window]` of consecutive tokens."""
    batch = _feed().batch(_draws([1, 2], [0, 0]))
    assert batch.shape == (2, 4, 9)
    assert batch.dtype == torch.int64
    assert (batch.diff(dim=-1) == 1).all()


def test_a_batch_is_a_function_of_seed_and_consumed():
    """The same pair gives the same batch beside anyone; another seed or counter gives another."""
    alone = _feed().batch(_draws([7], [3]))[0]
    beside = _feed().batch(_draws([1, 7, 7, 8], [3, 3, 4, 3]))
    assert torch.equal(alone, beside[1])
    assert all(not torch.equal(alone, beside[i]) for i in (0, 2, 3))


def test_every_position_is_reached():
    """Starts reach from the first to the last window of the split."""
    feed = _feed(batch_size=8)
    starts = torch.cat([feed.batch(_draws([1], [i]))[0, :, 0] for i in range(300)])
    assert set(starts.tolist()) == set(range(200 - 9 + 1))


def test_a_split_of_one_window_has_one():
    """The smallest split that is allowed."""
    feed = _feed(tokens={"train": torch.arange(9, dtype=torch.uint8)})
    assert (feed.batch(_draws([1], [0]))[0, :, 0] == 0).all()
    assert [weight for _, weight in feed.evaluation("train")] == [1]


def test_evaluation_windows_are_fixed_and_spread():
    """From the first window to the last, evenly, and the same each time."""
    first, again = ([w.tolist() for w, _ in _feed().evaluation("test")] for _ in range(2))
    assert first == again
    starts = [row[0] for chunk in first for row in chunk]
    assert starts == [0, 47, 95, 143, 191]


def test_evaluation_counts_no_text_twice():
    """A small split has fewer windows, which do not overlap."""
    chunks = list(_feed(evaluation_windows=1000).evaluation("test"))
    windows = torch.cat([chunk for chunk, _ in chunks])
    assert sum(weight for _, weight in chunks) == len(windows) == 200 // 9
    assert len(windows.flatten().unique()) == windows.numel()
