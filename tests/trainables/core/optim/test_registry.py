"""Optimizers by name."""

import pytest
import torch

from tests.trainables.core.optim.problem import stack, weights
from trainables.base import Place, TrainableError
from trainables.core.optim import REGISTERED, AdamW, ready

every = pytest.mark.parametrize("name", sorted(REGISTERED))


def test_the_default_is_what_recorded_runs_had():
    """Runs recorded before there was a choice read it so."""
    assert ready("adamw") == AdamW(lr=3e-3, weight_decay=0.1)
    defaults = {name: spec.default for name, spec in ready("adamw").hparams.items()}
    assert defaults == {"lr": 3e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95}


@every
def test_every_optimizer_trains_with_its_defaults(name):
    """A registered optimizer changes every parameter; its learning rate is live; the default is in the bounds."""
    optimizer = ready(name)
    assert "lr" in optimizer.hparams
    for spec in optimizer.hparams.values():
        assert spec.kind == "live"
        assert spec.low <= spec.default <= (spec.high or float("inf"))
    members = stack(optimizer, [{}], Place(compile="never"))
    before = weights(members, 0)
    members.run([3])
    for parameter, tensor in weights(members, 0).items():
        assert torch.isfinite(tensor).all()
        assert not torch.equal(tensor, before[parameter])


@every
def test_those_of_torch_are_told_by_their_name(name):
    """Whoever chooses one that is never compiled can see it."""
    assert ready(name).compiles != name.startswith("torch.")


@pytest.mark.parametrize(
    ("name", "mend"),
    [("adamv", "did you mean 'adamw'"), ("rmsprop", "did you mean 'torch.rmsprop'"), ("xyz", "known: adamw, lamb")],
)
def test_a_wrong_name_is_refused(name, mend):
    """With the nearest one."""
    with pytest.raises(TrainableError, match=f"optimizer is '{name}'; {mend}"):
        ready(name)


@pytest.mark.parametrize("name", [None, 3, ["adamw"]])
def test_what_is_no_name_is_refused(name):
    """YAML may give anything."""
    with pytest.raises(TrainableError, match="optimizer is"):
        ready(name)
