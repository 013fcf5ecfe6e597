"""The coordinate check, and by it the parametrizations: what stays the same with width and depth, and what does not."""

import numpy as np
import pytest

from tests.contracts.states import assert_same
from trainables import Language, Place, Quadratic, TrainableError
from trainables.core.coordinates import coordinates

WIDTHS, DEPTHS = (32, 64, 256), (2, 8)
SHAPE = {"width": 32, "depth": 2, "heads": 2, "context": 16, "batch": 8, "eval_bytes": 256}
BASE = {"base_width": 32, "base_depth": 2}
FLOAT32 = Place(compile="never")
#: Clipping would couple the tensors' gradients, which SGD's steps follow.
SGD = {"lr": 0.3, "clip_norm": 0.0}


def _changes(axis, sizes, text, name, hparams, **options):
    """Change of the activations after four steps by layer, `(sizes,)`; the last block is called `last`."""
    trainables = {
        size: Language(**{**SHAPE, axis: size}, **BASE, data=text, parametrization=name, **options) for size in sizes
    }
    found = coordinates(trainables, hparams, steps=4, seeds=(0, 1), place=FLOAT32)
    rows = []
    for size, layers in found.items():
        depth = size if axis == "depth" else SHAPE["depth"]
        rows.append({"last": layers[f"blocks.{depth - 1}"].change[-1]})
        rows[-1] |= {layer: c.change[-1] for layer, c in layers.items() if axis == "width" or layer == "head"}
    return {layer: np.array([row[layer] for row in rows]) for layer in rows[0]}


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.01), ("nadamw", 0.01)])
def test_mup_moves_alike_at_all_widths(text, optimizer, lr):
    """From 32 to 256, the change of every layer after a few steps differs by under 20 % from the base's."""
    for layer, change in _changes("width", WIDTHS, text, "mup", {"lr": lr}, optimizer=optimizer).items():
        assert change == pytest.approx(change[0], rel=0.2), layer


def test_standard_moves_more_when_wider(text):
    """The same check sees what is wrong: branches and logits move at least twice as much at eight times the width."""
    changes = _changes("width", WIDTHS, text, "standard", {"lr": 0.01})
    for layer in changes.keys() - {"embedding"}:
        assert changes[layer][-1] > 2.0 * changes[layer][0], layer


def test_mup_moves_alike_under_sgd(text):
    """What the rates of SGD are for: embedding and logits, which standard moves by other amounts at other widths."""
    mup, standard = (_changes("width", WIDTHS, text, name, SGD, optimizer="sgd") for name in ("mup", "standard"))
    for layer in ("embedding", "head", "last"):
        assert mup[layer] == pytest.approx(mup[layer][0], rel=0.2), layer
    assert standard["embedding"][-1] < 0.5 * standard["embedding"][0]
    assert standard["head"][-1] > 1.5 * standard["head"][0]


def test_completep_moves_alike_at_all_depths(text):
    """Of the last block and the logits, under 20 % over four times the depth; without it they grow."""
    for change in _changes("depth", DEPTHS, text, "completep", {"lr": 3e-3}).values():
        assert change == pytest.approx(change[0], rel=0.2)
    growing = _changes("depth", DEPTHS, text, "mup", {"lr": 3e-3})
    assert growing["last"][-1] > 2.0 * growing["last"][0]


def test_completep_is_mup_in_width(text):
    """At the base's depth they are the same model."""
    states = []
    for name in ("mup", "completep"):
        trainable = Language(**{**SHAPE, "width": 64}, **BASE, data=text, parametrization=name)
        stack = trainable.build(trainable.bucket({}), 1, FLOAT32)
        stack.admit(0, {}, seed=1)
        stack.run([3])
        states.append(stack.state(0))
    assert_same(*states)


def test_what_is_reported(text):
    """Sizes and changes by step: logits begin at 0, as the head does, so that the first step moves only them."""
    trainable = Language(width=8, depth=1, heads=2, context=8, batch=2, eval_bytes=64, data=text)
    found = coordinates({8: trainable}, {"lr": 1e-2, "weight_decay": 0.0}, steps=2)[8]
    assert list(found) == ["embedding", "blocks.0.attention", "blocks.0.mlp", "blocks.0", "head"]
    for layer in found.values():
        assert layer.size.shape == layer.change.shape == (3,)
        assert layer.change[0] == 0.0
        assert layer.change[2] > 0.0
    assert [name for name, layer in found.items() if layer.change[1] > 0.0] == ["head"]
    assert found["head"].size.tolist() == found["head"].change.tolist()
    # A table of standard normal numbers.
    assert found["embedding"].size[0] == pytest.approx(np.sqrt(2 / np.pi), rel=0.3)


def test_a_model_without_activations_is_refused():
    """The message says what is missing."""
    with pytest.raises(TrainableError, match="Quadratic has no activations to watch"):
        coordinates({1: Quadratic()}, {})
