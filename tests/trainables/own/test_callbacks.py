"""Fits of Lightning and of Hugging Face's Trainer as members of a population."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.contracts.states import assert_same
from tests.trainables import fits
from trainables import Place, TrainableError, adapt

LIGHTNING, TRAINER, BY_STEPS = "fit", "train_by_epochs", "train_by_steps"
LOSS = {LIGHTNING: "val_loss", TRAINER: "eval_loss", BY_STEPS: "eval_loss"}
#: Of 20 examples, 6 at a time.
STEPS_PER_EPOCH = 4

pytestmark = pytest.mark.filterwarnings("ignore")  # both have much to say about small fits


@pytest.fixture(autouse=True)
def nothing_seen_yet() -> Iterator[None]:
    fits.seen.clear()
    yield
    fits.seen.clear()


def stack(which: str, **hparams: float) -> Any:
    """With one member."""
    trainable = adapt.from_function(
        f"{fits.__name__}:{which}", hparams={"lr": 0.1, "dropout": 0.2}, metrics={LOSS[which]: "min"}
    )
    made = trainable.build(trainable.bucket({}), 1, Place())
    made.admit(0, hparams, seed=5)
    return made


def moved(made: Any, which: str, **hparams: float) -> Any:
    """The member in another stack, with other hyperparameters."""
    state, other = made.evict(0), stack(which)
    other.admit(0, hparams, seed=5, state=state)
    return other


@pytest.mark.parametrize("which", [LIGHTNING, TRAINER])
def test_a_fit_goes_on_where_it_stood(which):
    """Interrupted after two epochs and begun anew, it has the weights, moments and examples it would have had."""
    whole = stack(which)
    whole.run([4])
    seen = list(fits.seen)
    fits.seen.clear()
    parts = stack(which)
    parts.run([2])
    parts = moved(parts, which)
    parts.run([4])
    assert seen == fits.seen
    assert_same(whole.state(0), parts.state(0))
    assert whole.progress(0) == parts.progress(0) == (4, 4)


@pytest.mark.parametrize("which", [LIGHTNING, TRAINER])
def test_an_epoch_is_a_report(which):
    """Each with the metrics of its validation, which training improves."""
    made = stack(which)
    losses = []
    for epoch in range(1, 7):
        told = made.run([epoch])
        losses.append(made.evaluate("validation", [0])[LOSS[which]][0])
        assert len(fits.seen) == epoch * STEPS_PER_EPOCH
        assert math.isfinite(told["train_loss" if which == LIGHTNING else "loss"][0])
    assert len(set(losses)) == 6
    assert losses[-1] < losses[0]


def test_the_clocks_of_evaluations_are_no_metrics():
    """How long they took is not told as training's."""
    assert set(stack(TRAINER).run([1])) == {"loss"}


def test_a_learning_rate_is_in_effect_at_the_place_in_the_schedule():
    """Lightning: changed after two epochs, it is the new one, halved twice; its steps are counted on."""
    made = stack(LIGHTNING, lr=0.1)
    made.run([2])
    made.set_hparams([0], lr=[0.4])
    made.run([3])
    assert [rate for _, rate, _ in fits.seen] == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.1] * 4)
    assert [step for step, _, _ in fits.seen] == list(range(12))


def test_the_learning_rate_of_a_trainer_is_in_effect():
    """By how far the weights go: Adam's steps are as long as its learning rate, here after a linear schedule."""
    lengths = []
    for lr in (0.1, 0.01):
        made = stack(TRAINER, lr=0.1)
        made.run([2])
        made = moved(made, TRAINER, lr=lr)
        before = weights(made)
        made.run([3])
        lengths.append(float((weights(made) - before).norm()))
    assert lengths[0] > 5 * lengths[1] > 0


def weights(made: Any) -> torch.Tensor:
    return torch.cat([s.tensor.reshape(-1) for s in made.state(0).shards if s.name.startswith("params.")])


@pytest.mark.parametrize("which", [LIGHTNING, TRAINER, BY_STEPS])
def test_it_ends_where_the_script_says(which):
    """Whether it was interrupted or not, and says what to do."""
    reports = fits.EPOCHS if which != BY_STEPS else fits.EPOCHS * STEPS_PER_EPOCH // 3
    made = stack(which)
    made.run([2])
    made = moved(made, which)
    made.run([reports])
    with pytest.raises(TrainableError, match=r"ended after step .*, but the sweep trains on; let it train for longer"):
        made.run([reports + 1])
    if which != BY_STEPS:
        assert len(fits.seen) == fits.EPOCHS * STEPS_PER_EPOCH


def test_within_an_epoch_the_order_is_another():
    """Begun anew in the middle of one, a Trainer does not give the same first examples again."""
    made = stack(BY_STEPS)
    made.run([1])
    first = list(fits.seen)
    made = moved(made, BY_STEPS)
    made.run([2])
    assert len(fits.seen) == 6
    assert fits.seen[3:] != first


@pytest.mark.parametrize("which", [LIGHTNING, TRAINER])
def test_outside_a_sweep_nothing_changes(which):
    """The script trains as it did."""
    getattr(fits, which)()
    assert len(fits.seen) == fits.EPOCHS * STEPS_PER_EPOCH


@pytest.mark.parametrize(
    ("door", "package"), [(adapt.lightning_callback, "lightning"), (adapt.trainer_callback, "transformers")]
)
def test_what_is_not_installed_says_so(door, package, monkeypatch):
    """With the extra that installs it."""
    plain = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "transformers"):
            raise ImportError(f"No module named {name!r}")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    for module in ("lightning", "hugging_face"):
        monkeypatch.delitem(__import__("sys").modules, f"trainables.own.{module}", raising=False)
    with pytest.raises(TrainableError, match=rf"{package} is not installed .*pip install 'pbt\[{package}\]'"):
        door()
