"""Batches of labelled images."""

import pytest
import torch

from trainables.core import augment
from trainables.core.image_feed import ImageFeed
from trainables.core.rng import Draws
from trainables.core.step import COMPILER_OPTIONS, compiler

SPLITS = ("train", "validation", "test")
NUM, HEIGHT, WIDTH, CHANNELS = 20, 4, 6, 3
FILL = torch.tensor([7, 8, 9], dtype=torch.uint8)


def _images(num=NUM):
    """Every pixel tells its image, row, column and channel."""
    return torch.arange(num * HEIGHT * WIDTH * CHANNELS).remainder(251).view(num, HEIGHT, WIDTH, CHANNELS).byte()


def _feed(**changes):
    options = {
        "images": dict.fromkeys(SPLITS, _images()),
        "labels": dict.fromkeys(SPLITS, torch.arange(NUM) // 5),
        "fill": FILL,
        "batch_size": 4,
        "evaluation_examples": 100,
        **changes,
    }
    return ImageFeed(**options)


def _draws(seeds, consumed):
    return Draws(torch.tensor(seeds), torch.tensor(consumed))


def _strength(**values):
    return {name: torch.tensor([values.get(name, 0)] * 2).double() for name in augment.HPARAMS}


def _found(images):
    """Which examples a batch holds, `[C, H, W]` each."""
    known = _images().permute(0, 3, 1, 2)
    return [next(i for i in range(NUM) if torch.equal(known[i], image)) for image in images]


def test_every_example_comes_once_in_an_epoch():
    """With its own label, for each member in another order; what is said nothing of is not augmented."""
    feed = _feed()
    seen = [[], []]
    for step in range(NUM // 4):
        images, labels = feed.batch(_draws([1, 2], [step, step]))
        assert images.shape == (2, 4, CHANNELS, HEIGHT, WIDTH)
        assert images.dtype == torch.uint8
        for k in range(2):
            numbers = _found(images[k])
            assert labels[k].tolist() == [number // 5 for number in numbers]
            seen[k] += numbers
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(NUM))
    assert seen[0] != seen[1]


def test_a_batch_is_a_function_of_seed_and_consumed():
    """The same pair gives the same batch beside anyone, augmented too; another counter gives another."""
    feed, strength = _feed(), _strength(shift=2, flip=0.5, cutout=3)
    alone = feed.batch(_draws([7], [3]), {name: value[:1] for name, value in strength.items()})
    beside = feed.batch(_draws([1, 7], [3, 3]), strength)
    later = feed.batch(_draws([1, 7], [3, 4]), strength)
    assert all(torch.equal(one[0], both[1]) for one, both in zip(alone, beside, strict=True))
    assert not torch.equal(beside[0][1], later[0][1])


def test_augmented_images_are_gathered_pixel_by_pixel():
    """Each pixel is that of the row and column that `augment` names, or the fill where it covers."""
    feed, strength, draws = _feed(), _strength(shift=3, flip=0.5, cutout=3), _draws([1, 2], [0, 5])
    plain, _ = feed.batch(draws)
    found, _ = feed.batch(draws, strength)
    rows, columns = augment.pixels(draws, strength, 4, HEIGHT, WIDTH)
    hidden = augment.covered(draws, strength["cutout"], 4, HEIGHT, WIDTH)
    assert hidden.any()
    for k in range(2):
        for i in range(4):
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    own = FILL if hidden[k, i, y, x] else plain[k, i, :, rows[k, i, y], columns[k, i, x]]
                    assert torch.equal(own, found[k, i, :, y, x])


def test_evaluation_reads_each_example_once():
    """As it is, in batches weighed by their size."""
    feed = _feed(images=dict.fromkeys(SPLITS, _images(300)), labels=dict.fromkeys(SPLITS, torch.arange(300)))
    chunks = list(_feed(images=feed.images, labels=feed.labels, evaluation_examples=300).evaluation("test"))
    assert [len(labels) for (_, labels), _ in chunks] == [weight for _, weight in chunks]
    assert torch.equal(torch.arange(300), torch.cat([labels for (_, labels), _ in chunks]))
    images = torch.cat([images for (images, _), _ in chunks])
    assert torch.equal(_images(300).permute(0, 3, 1, 2), images)


def test_a_smaller_evaluation_is_spread_evenly():
    """Of examples ordered by class, each class keeps its share."""
    ((_, labels), weight), *rest = _feed(evaluation_examples=8).evaluation("validation")
    assert not rest
    assert weight == 8
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager_bit_for_bit():
    """Order, augmentation and labels."""
    feed, strength, draws = _feed(), _strength(shift=3, flip=0.5, cutout=3), _draws([1, 2], [0, 5])
    compiled = torch.compile(feed.batch, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS)
    for eager, found in zip(feed.batch(draws, strength), compiled(draws, strength), strict=True):
        assert torch.equal(eager, found)
