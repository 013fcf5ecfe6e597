"""Augmentation against loops over pixels, and its distribution."""

import pytest
import torch

from trainables.core import augment
from trainables.core.rng import Draws
from trainables.core.step import COMPILER_OPTIONS, compiler

HEIGHT, WIDTH, COUNT = 5, 7, 64


def _draws(num_members=3):
    return Draws(torch.arange(num_members) + 7, torch.arange(num_members) * 2)


def _hparams(shift=(0, 2, 9), flip=(0.0, 0.5, 1.0)):
    return {"shift": torch.tensor(shift).double(), "flip": torch.tensor(flip).double()}


def test_nothing_is_changed_at_zero():
    """Every pixel shows itself, and none is covered."""
    rows, columns = augment.pixels(_draws(), _hparams((0, 0, 0), (0, 0, 0)), COUNT, HEIGHT, WIDTH)
    assert torch.equal(rows, torch.arange(HEIGHT).expand(3, COUNT, HEIGHT))
    assert torch.equal(columns, torch.arange(WIDTH).expand(3, COUNT, WIDTH))
    assert not augment.covered(_draws(), torch.zeros(3).double(), COUNT, HEIGHT, WIDTH).any()


def test_images_are_shifted_then_mirrored():
    """Each image is the original at some shift within the bound, its edge repeated outwards, perhaps mirrored."""
    hparams = _hparams()
    rows, columns = augment.pixels(_draws(), hparams, COUNT, HEIGHT, WIDTH)
    for k, bound in enumerate(hparams["shift"].int().tolist()):
        seen = set()
        for i in range(COUNT):
            for down in range(-bound, bound + 1):
                if rows[k, i].tolist() == [min(max(r + down, 0), HEIGHT - 1) for r in range(HEIGHT)]:
                    break
            else:
                pytest.fail("no shift of rows")
            for across in range(-bound, bound + 1):
                straight = [min(max(c + across, 0), WIDTH - 1) for c in range(WIDTH)]
                mirrored = [min(max(c + across, 0), WIDTH - 1) for c in range(WIDTH)]
                mirrored = [WIDTH - 1 - c for c in mirrored]
                if columns[k, i].tolist() in (straight, mirrored):
                    break
            else:
                pytest.fail("no shift of columns")
            seen.add((down, across))
        assert len(seen) > 1 or bound == 0


def test_shifts_are_uniform_and_independent():
    """Over 30,000 images all 25 pairs of shifts by up to 2 pixels are equally frequent (chi-square, 4 deviations)."""
    rows, columns = augment.pixels(_draws(1), _hparams((2,), (0.0,)), 30_000, 9, 9)
    down, across = rows[0, :, 4] - 4, columns[0, :, 4] - 4
    counts = torch.bincount((down + 2) * 5 + across + 2, minlength=25).double()
    deviation = (((counts - 1200) ** 2 / 1200).sum() - 24) / 48**0.5
    assert abs(deviation) < 4


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_mirroring_has_its_probability(p):
    """Over 30,000 images, to four standard deviations."""
    _, columns = augment.pixels(_draws(1), _hparams((0,), (p,)), 30_000, 2, 3)
    share = (columns[0, :, 0] == 2).double().mean().item()
    assert abs(share - p) < 4 * (p * (1 - p) / 30_000) ** 0.5


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_a_square_is_covered(side):
    """As many rows and columns as the side, around a pixel of the image, as far as they lie inside."""
    mask = augment.covered(_draws(1), torch.tensor([side]).double(), 2000, HEIGHT, WIDTH)[0]
    wanted = {}
    for y in range(HEIGHT):
        for x in range(WIDTH):
            square = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
            for r in range(y - side // 2, y - side // 2 + side):
                for c in range(x - side // 2, x - side // 2 + side):
                    if 0 <= r < HEIGHT and 0 <= c < WIDTH:
                        square[r, c] = True
            wanted.setdefault(tuple(square.flatten().tolist()), []).append((y, x))
    assert {tuple(m.flatten().tolist()) for m in mask} == set(wanted)


def test_members_draw_for_themselves():
    """The same in any slot; other seeds, steps and images draw otherwise."""
    hparams = _hparams((3, 3, 3), (0.5, 0.5, 0.5))
    together = augment.pixels(_draws(), hparams, COUNT, HEIGHT, WIDTH)
    alone = augment.pixels(
        Draws(_draws().seed[2:], _draws().consumed[2:]), {k: t[2:] for k, t in hparams.items()}, COUNT, HEIGHT, WIDTH
    )
    for both, one in zip(together, alone, strict=True):
        assert torch.equal(both[2], one[0])
        assert not torch.equal(both[0], both[1])
        assert len(both[0].unique(dim=0)) > 1


def test_a_bound_changes_nothing_but_itself():
    """Each hyperparameter draws at a site of its own: changing one leaves what the others do as it is."""
    still, moved = (
        augment.pixels(_draws(1), _hparams((s,), (0.5,)), COUNT, HEIGHT, WIDTH)[1][0, :, 0] > 3 for s in (0, 1)
    )
    assert torch.equal(still, moved)


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager_bit_for_bit():
    """Rows, columns and masks."""

    def draw(draws, hparams, side):
        return *augment.pixels(draws, hparams, COUNT, HEIGHT, WIDTH), augment.covered(draws, side, COUNT, HEIGHT, WIDTH)

    given = _draws(), _hparams(), torch.tensor([0, 2, 3]).double()
    compiled = torch.compile(draw, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS)
    for eager, found in zip(draw(*given), compiled(*given), strict=True):
        assert torch.equal(eager, found)
