"""`Language` with each kind of optimizer: the contract, what it learns, its buckets."""

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch

from tests.contracts.stack_contract import Change, StackContract
from tests.trainables.changes import ADAM, ADAM_SAMPLES, REST
from trainables import Language, Place, TrainableError
from trainables.core.optim import REGISTERED

TINY = {"width": 8, "depth": 1, "heads": 2, "context": 8, "batch": 2, "eval_bytes": 128}


class OptimizerContract(StackContract):
    """The contract for `Language` with one optimizer; adamw's is in test_language.py."""

    OPTIMIZER: ClassVar[str]
    SAMPLES: ClassVar = ADAM_SAMPLES

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, data=text, optimizer=self.OPTIMIZER)


class TestNAdamW(OptimizerContract):
    """State of its own for each member."""

    OPTIMIZER = "nadamw"
    CHANGES: ClassVar = {**REST, **ADAM, "momentum_decay": Change(to=0.5)}


class TestLAMB(OptimizerContract):
    """Norms over layers."""

    OPTIMIZER = "lamb"
    CHANGES: ClassVar = {**REST, **ADAM}


class TestLARS(OptimizerContract):
    """Norms over layers, parameters apart."""

    OPTIMIZER = "lars"
    SAMPLES = (
        {"lr": 0.2, "trust": 1e-2, "weight_decay": 0.1, "decay_steps": 100},
        {"lr": 0.1, "weight_decay": 0.0, "dropout": 0.1, "momentum": 0.5, "clip_norm": 0.0},
        {"lr": 0.05, "trust": 0.1, "dropout": 0.2, "warmup_steps": 5},
    )
    CHANGES: ClassVar = {
        **REST,
        "lr": Change(to=0.5),
        "weight_decay": Change(to=0.5),
        "momentum": Change(to=0.25),
        "trust": Change(to=0.05),
    }


class TestNesterov(OptimizerContract):
    """SGD with everything coupled."""

    OPTIMIZER = "nesterov"
    SAMPLES = (
        {"lr": 0.1, "weight_decay": 0.1, "decay_steps": 100},
        {"lr": 0.01, "dropout": 0.1, "momentum": 0.5, "clip_norm": 0.0},
        {"lr": 0.05, "dropout": 0.2, "warmup_steps": 5},
    )
    CHANGES: ClassVar = {**REST, "lr": Change(to=0.5), "weight_decay": Change(to=0.5), "momentum": Change(to=0.25)}


class TestTorchRMSprop(OptimizerContract):
    """A class of torch.optim."""

    OPTIMIZER = "torch.rmsprop"
    SAMPLES = (
        {"lr": 2e-2, "weight_decay": 0.1, "decay_steps": 100},
        {"lr": 1e-3, "dropout": 0.1, "momentum": 0.5, "clip_norm": 0.0},
        {"lr": 2e-3, "alpha": 0.9, "dropout": 0.2, "warmup_steps": 5},
    )
    CHANGES: ClassVar = {
        **REST,
        "lr": Change(to=5e-3),
        "weight_decay": Change(to=0.5),
        "alpha": Change(to=0.5),
        "momentum": Change(to=0.25),
    }


@pytest.mark.parametrize("optimizer", sorted(REGISTERED))
def test_learns(text, optimizer):
    """With its defaults every optimizer takes the model well below the 8 bits of a uniform guess."""
    trainable = Language(width=16, depth=1, heads=2, context=16, batch=4, data=text, optimizer=optimizer)
    stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
    stack.admit(0, {}, seed=0)
    stack.run([150])
    assert stack.evaluate("validation", [0])["bits_per_byte"][0] < 5.0


def test_the_bucket_names_what_is_not_the_default(text):
    """Members of two optimizers never share a stack, and recorded buckets keep their names."""
    buckets: Mapping[str, str] = {
        name: Language(**TINY, data=text, optimizer=name).bucket({}) for name in sorted(REGISTERED)
    }
    assert len(set(buckets.values())) == len(REGISTERED)
    assert buckets["adamw"] == Language(**TINY, data=text).bucket({})
    assert buckets["adamw"] == "language-width8-depth1-heads2-context8-batch2"
    assert buckets["nadamw"] == buckets["adamw"] + "-optimizernadamw"


def test_a_wrong_optimizer_is_refused(text):
    """With the nearest name."""
    with pytest.raises(TrainableError, match="optimizer is 'nadam'; did you mean 'nadamw'"):
        Language(data=text, optimizer="nadam")


def test_the_default_trains_as_recorded(text):
    """The weights after ten steps are those of before there was a choice, to float64 rounding."""
    trainable = Language(**TINY, data=text)
    stack = trainable.build(trainable.bucket({}), 1, Place(dtype="float64", compile="never"))
    stack.admit(0, {}, seed=0)
    stack.run([10])
    head = next(s.tensor for s in stack.state(0).shards if s.name == "params.head")
    assert head.norm().item() == pytest.approx(1.0630238305958077, rel=1e-10)
    assert torch.isfinite(head).all()
