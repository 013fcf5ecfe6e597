"""`Language` in micro-batches: the contract, the same training, the noise scale among its metrics."""

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from tests.contracts.states import assert_close
from tests.trainables import test_language
from trainables import Language, Place, TrainableError

TINY = test_language.TINY


class TestContract(test_language.TestContract):
    """The contract of every trainable, the averages of the noise scale included."""

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, data=text, accumulate=2)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_trains_as_without(text, accumulate):
    """Ten steps in float64, with dropout and clipping, to 1e-12; and it takes the same multiplications."""
    states, flops = [], []
    for count in (1, accumulate):
        trainable = Language(**TINY | {"batch": 4}, data=text, accumulate=count)
        stack = trainable.build(trainable.bucket({}), 2, Place(dtype="float64", compile="never"))
        stack.admit(0, {"dropout": 0.0, "clip_norm": 0.0}, seed=1)
        stack.admit(1, {"dropout": 0.3, "clip_norm": 0.1}, seed=2)
        with FlopCounterMode(display=False) as counter:
            stack.run([10, 10])
        flops.append(counter.get_total_flops())
        states.append([stack.state(slot) for slot in range(2)])
    for whole, parts in zip(*states, strict=True):
        shards = tuple(shard for shard in parts.shards if not shard.name.startswith("noise."))
        assert_close(whole, type(parts)(shards, parts.age, parts.consumed, parts.seed), 1e-12)
    assert flops[0] == flops[1]


def test_noise_scale_is_reported(text):
    """For each member, in windows; absent where a batch is not split."""
    split, whole = (Language(**TINY, data=text, accumulate=count) for count in (2, 1))
    stack = split.build(split.bucket({}), 2, Place(compile="never"))
    for slot in range(2):
        stack.admit(slot, {}, seed=slot)
    metrics = stack.run([40, 20])
    assert (metrics["noise_scale"] > 0).all()
    assert metrics["noise_scale"][0] != metrics["noise_scale"][1]
    assert np.isnan(stack.run([40, 30])["noise_scale"][0])
    alone = whole.build(whole.bucket({}), 1, Place(compile="never"))
    alone.admit(0, {}, seed=0)
    assert set(alone.run([1])) == {"loss", "grad_norm", "lr", "diverged"}


def test_the_bucket_names_what_is_not_the_default(text):
    """Other micro-batches are another program; recorded buckets keep their names."""
    name = "language-width8-depth1-heads2-context8-batch2"
    assert Language(**TINY, data=text, accumulate=1).bucket({}) == name
    assert Language(**TINY, data=text, accumulate=2).bucket({}) == f"{name}-accumulate2"
    noisy = Language(**TINY, data=text, accumulate=2, noise_decay=0.9)
    assert noisy.bucket({}) == f"{name}-accumulate2-noise_decay0.9"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0"),
        ({"accumulate": 3}, "accumulate is 3; give a divisor of batch, 8"),
        ({"noise_decay": 1.0}, r"noise_decay is 1\.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    """In one line that names the option."""
    with pytest.raises(TrainableError, match=message):
        Language(**options)
