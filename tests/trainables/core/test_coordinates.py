"""The coordinate check, and by it the parametrizations: what stays the same with width and depth, and what does not."""

import numpy as np
import pytest

from tests.contracts.states import assert_same
from trainables import Language, Place, Quadratic, TrainableError, Vision
from trainables.core.coordinates import Coordinates, coordinates, final_changes, growth

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


def test_clipping_couples_sgd_to_the_width(text):
    """Why the guide advises against it: gradients fall with width, so an active bound shortens them less."""
    clipped = _changes("width", WIDTHS, text, "mup", {**SGD, "clip_norm": 0.1}, optimizer="sgd")
    for layer in ("embedding", "head", "last"):
        assert clipped[layer][-1] > 2.0 * clipped[layer][0], layer


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


IMAGES = {"batch": 16, "eval_examples": 64}
RESNET = {**IMAGES, "depth": 1, "stages": 2}
VIT = {**IMAGES, "architecture": "vit", "depth": 2}


@pytest.mark.parametrize(
    ("widths", "options", "hparams"),
    [
        ((16, 32, 64), {**RESNET, "optimizer": "adamw"}, {"lr": 0.01}),
        pytest.param(
            (16, 32, 64), {**RESNET, "optimizer": "sgd", "preactivation": True}, {"lr": 0.1}, marks=pytest.mark.full
        ),
        pytest.param((32, 64, 128), {**VIT, "optimizer": "adamw"}, {"lr": 3e-3}, marks=pytest.mark.full),
        ((32, 64, 128), {**VIT, "optimizer": "sgd"}, {"lr": 0.3}),
    ],
    ids=["resnet-adamw", "resnet-sgd", "vit-adamw", "vit-sgd"],
)
def test_mup_holds_for_images(widths, options, hparams):
    """Over four times the width every block and the logits move alike, to 30 %; under standard they do not."""
    found = {}
    for name in ("mup", "standard"):
        trainables = {w: Vision(width=w, base_width=widths[0], parametrization=name, **options) for w in widths}
        layers = coordinates(trainables, {**hparams, "clip_norm": 0.0}, seeds=(0, 1, 2, 3), place=FLOAT32)
        found[name] = {k: np.array([layers[w][k].change[-1] for w in widths]) for k in layers[widths[0]]}
    blocks = [layer for layer in found["mup"] if layer.startswith(("blocks.", "stages.")) and "." in layer]
    watched = [layer for layer in blocks if not layer.endswith(("attention", "mlp"))]
    for layer in (*watched, "head"):
        assert found["mup"][layer] == pytest.approx(found["mup"][layer][0], rel=0.3), layer
    assert found["standard"][watched[-1]][-1] > 1.4 * found["standard"][watched[-1]][0]
    assert found["standard"]["head"][-1] > 1.4 * found["standard"]["head"][0]


def test_completep_holds_for_images():
    """Over four times the depth of a vision transformer, to 30 %; without it the last block moves twice as much."""
    changes = {}
    for name in ("completep", "mup"):
        trainables = {
            d: Vision(**{**VIT, "depth": d}, width=32, base_width=32, base_depth=2, parametrization=name)
            for d in DEPTHS
        }
        layers = coordinates(trainables, {"lr": 3e-3, "clip_norm": 0.0}, seeds=(0, 1, 2, 3), place=FLOAT32)
        changes[name] = [layers[d][f"blocks.{d - 1}"].change[-1] for d in DEPTHS]
    assert changes["completep"][1] == pytest.approx(changes["completep"][0], rel=0.3)
    assert changes["mup"][1] > 2.0 * changes["mup"][0]


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


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0])
def test_growth_is_that_of_a_power_law(power):
    """Changes of `c size^a` grow by `2^a` with each doubling, whatever c and whichever sizes."""
    for sizes in ((64, 128), (48, 100, 512), (2, 3, 5, 8)):
        assert growth(sizes, 0.3 * np.array(sizes) ** power) == pytest.approx(2.0**power, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_what_does_not_move_has_no_growth(value):
    """Nor what diverges."""
    assert np.isnan(growth([8, 16], np.array([0.1, value])))


def _moved(*changes):
    return Coordinates(size=np.zeros(2), change=np.array([0.0, *changes]))


def test_final_changes_are_those_of_the_layers_all_sizes_have():
    """After the last step, in the order of the first size."""
    found = {8: {"a": _moved(1.0, 2.0), "b.0": _moved(3.0)}, 16: {"b.0": _moved(4.0), "a": _moved(5.0, 6.0)}}
    changes = final_changes(found)
    assert {name: values.tolist() for name, values in changes.items()} == {"a": [2.0, 6.0], "b.0": [3.0, 4.0]}


def test_layers_of_other_depths_are_aligned_at_the_end():
    """The last stage's last block stands for all, whatever their numbers."""
    small = {"in": 1, "stages.0.blocks.0.mlp": 2, "stages.1.blocks.0.mlp": 3, "stages.1.blocks.1.mlp": 4, "out": 5}
    large = {**small, "stages.2.blocks.0.mlp": 6, "stages.2.blocks.1.mlp": 7, "out": 8}
    found = {
        size: {name: _moved(float(change)) for name, change in layers.items()}
        for size, layers in ((2, small), (3, large))
    }
    changes = {name: values.tolist() for name, values in final_changes(found).items()}
    assert changes == {"in": [1.0, 1.0], "stages.last.blocks.last.mlp": [4.0, 7.0], "out": [5.0, 8.0]}
