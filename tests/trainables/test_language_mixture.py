"""`Language(mixture=True)`: the contract, and that the mixture is in effect."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.contracts.stack_contract import SEEDS, Change, StackContract
from tests.contracts.states import assert_close, assert_same
from tests.trainables import test_language as plain
from trainables import DataError, Language, Place, TrainableError
from trainables.core.step import compiler

PLACE = Place(compile="never")


def mixture(numbers, words, xs):
    return {"numbers": numbers, "words": words, "xs": xs}


def trainable_of(data, **options):
    return Language(**{**plain.TINY, "data": data, "mixture": True, **options})


def cursor_of(state):
    (cursor,) = (shard.tensor for shard in state.shards if shard.name.endswith("cursor"))
    return cursor.tolist()


class TestMixtureContract(StackContract):
    """The contract holds for proportions as for any hyperparameter."""

    SAMPLES = (
        {**plain.TestContract.SAMPLES[0], "mixture": mixture(0.6, 0.4, 0.0)},
        {**plain.TestContract.SAMPLES[1], "mixture": mixture(0.2, 0.3, 0.5)},
        plain.TestContract.SAMPLES[2],
    )
    CHANGES: ClassVar = {**plain.TestContract.CHANGES, "mixture": Change(to=mixture(0.0, 0.0, 1.0))}

    @pytest.fixture
    def trainable(self, domains):
        return trainable_of(domains, eval_bytes=1024)

    def test_what_is_no_mixture_is_refused(self, stack):
        """By `admit` and `set_hparams`, by name; the member stays as it was."""
        before, state = stack.hparams(0), stack.state(0)
        for bad in (0.5, {"numbers": 1.0}, mixture(1.0, 1.0, 0.0), {**mixture(0.5, 0.5, 0.0), "code": 0.0}):
            with pytest.raises(TrainableError, match="'mixture'"):
                stack.set_hparams([0], lr=[0.5], mixture=[bad])
            with pytest.raises(TrainableError, match="'mixture'"):
                stack.admit(0, {"mixture": bad}, seed=0)
        assert stack.hparams(0) == before
        assert_same(state, stack.state(0))

    def test_micro_batches_see_the_same_windows(self, domains, exact):
        """In two parts or at once: the same step to rounding."""
        states = []
        for accumulate in (1, 2):
            trainable = trainable_of(domains, batch=4, accumulate=accumulate)
            stack = self._stack(trainable, exact)
            stack.set_hparams(range(3), dropout=[0.0] * 3)
            stack.run([10] * 3)
            states.append([stack.state(slot) for slot in range(3)])
        for whole, parts in zip(*states, strict=True):
            named = {shard.name: shard.tensor for shard in parts.shards}
            for shard in whole.shards:
                torch.testing.assert_close(named[shard.name], shard.tensor, rtol=1e-9, atol=1e-12)


def stack_of(trainable, *hparams):
    stack = trainable.build(trainable.bucket({}), len(hparams), PLACE)
    for slot, (values, seed) in enumerate(zip(hparams, SEEDS, strict=False)):
        stack.admit(slot, values, seed=seed)
    return stack


def test_the_cursor_counts_what_was_trained_on(domains):
    """Every step moves it by the batch; what changes from a step to the next is in effect in that step."""
    stack = stack_of(trainable_of(domains, batch=4), {"mixture": mixture(0.5, 0.5, 0.0)}, {})
    stack.run([10, 10])
    assert cursor_of(stack.state(0)) == [20, 20, 0]
    stack.set_hparams([0], mixture=[mixture(0.0, 0.25, 0.75)])
    stack.run([11, 11])
    assert cursor_of(stack.state(0)) == [20, 21, 3]
    assert sum(cursor_of(stack.state(1))) == 44


def test_a_mixture_of_one_letter_has_nothing_to_learn_but_that(domains):
    """Closed form: a model that predicts every byte alike has ln 256 at first, and on "x" alone soon almost 0."""
    stack = stack_of(
        trainable_of(domains, width=16, batch=4),
        {"lr": 0.03, "mixture": mixture(0.0, 0.0, 1.0)},
        {"lr": 0.03, "mixture": mixture(1.0, 0.0, 0.0)},
    )
    assert stack.run([1, 1])["loss"] == pytest.approx([math.log(256)] * 2)
    stack.run([60, 60])
    loss = stack.run([61, 61])["loss"]
    assert loss[0] < 0.05
    assert loss[1] > 0.5


def test_an_exploit_takes_over_what_the_weights_have_seen(domains):
    """The cursor belongs to the weights; the mixture, and the order in which it goes on, to the receiver."""
    stack = stack_of(trainable_of(domains, batch=4), {"mixture": mixture(1.0, 0.0, 0.0)}, {"mixture": mixture(0, 1, 0)})
    stack.run([5, 3])
    stack.copy([0], [1])
    assert cursor_of(stack.state(1)) == [20, 0, 0]
    stack.run([5, 4])
    assert cursor_of(stack.state(1)) == [20, 4, 0]
    assert stack.hparams(1)["mixture"] == mixture(0.0, 1.0, 0.0)


def test_evaluation_is_not_mixed(domains):
    """Whatever a member's mixture, its score is of the whole split."""
    trainable = trainable_of(domains)
    stack = stack_of(trainable, {"mixture": mixture(1.0, 0.0, 0.0)}, {"mixture": mixture(0.0, 0.0, 1.0)})
    stack.admit(1, {"mixture": mixture(0.0, 0.0, 1.0)}, seed=1, state=stack.state(0))
    for split in ("train", "validation", "test"):
        scores = stack.evaluate(split, [0, 1])
        assert all(np.ptp(values) == 0.0 for values in scores.values())


def test_the_default_mixture_is_the_texts_own(domains):
    """The hyperparameter's parts are the domains, its default their shares of the training text."""
    trainable = trainable_of(domains)
    spec = trainable.describe().hparams["mixture"]
    spans = trainable._corpus().spans["train"]
    assert spec.parts == trainable._corpus().domains == ("numbers", "words", "xs")
    total = sum(last - first for first, last in spans.values())
    assert spec.default == {name: (last - first) / total for name, (first, last) in spans.items()}


def test_domains_may_be_left_out(domains):
    """The mixture is of those that `domains` names."""
    spec = trainable_of(domains, domains=["xs", "words"]).describe().hparams["mixture"]
    assert spec.parts == ("words", "xs")


def test_without_it_nothing_has_changed(text):
    """No hyperparameter, no buffer, the bucket that is on record; with it, a bucket of its own."""
    unmixed = Language(**plain.TINY, data=text)
    assert "mixture" not in unmixed.describe().hparams
    assert unmixed.bucket({}) == "language-width8-depth1-heads2-context8-batch2"
    assert trainable_of(text).bucket({}) == f"{unmixed.bucket({})}-mixtureTrue"
    names = [shard.name for shard in stack_of(unmixed, {}).state(0).shards]
    assert not any("cursor" in name for name in names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mixture": 1}, TrainableError, "mixture is 1; give true or false"),
        ({"domains": ["xs"]}, DataError, "mixture of xs; give text of at least two domains"),
        ({"domains": ["xs", "ys"]}, DataError, "no domain 'ys'; known: numbers, words, xs"),
    ],
)
def test_what_cannot_be_mixed_is_refused(domains, options, error, message):
    """In one sentence, before anything is built."""
    with pytest.raises(error, match=message):
        trainable_of(domains, **options).describe()


def test_a_domain_without_text_is_refused(tmp_path):
    """By its name, with what to do about it."""
    for name, length in (("long", 1000), ("short", 15)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name[0] * length)
    with pytest.raises(DataError, match=r"domain 'short' has 13 bytes of .* give it at least 16, or leave it out"):
        trainable_of(tmp_path).describe()
    assert trainable_of(tmp_path, context=4, eval_bytes=4).describe().hparams["mixture"].parts == ("long", "short")


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager(domains):
    """The same windows to the bit, the same training to 1e-5; a change of the mixture compiles nothing anew."""
    states = []
    for how in ("never", "always"):
        trainable = trainable_of(domains)
        stack = trainable.build(trainable.bucket({}), 2, Place(compile=how))
        for slot, weights in enumerate((mixture(0.3, 0.3, 0.4), mixture(0.9, 0.0, 0.1))):
            stack.admit(slot, {"mixture": weights}, seed=slot)
        stack.run([3, 3])
        torch._dynamo.utils.counters.clear()
        stack.set_hparams([0, 1], mixture=[mixture(0.0, 1.0, 0.0), mixture(0.1, 0.2, 0.7)])
        stack.run([9, 9])
        assert not torch._dynamo.utils.counters["stats"]
        states.append([stack.state(slot) for slot in range(2)])
    for eager, compiled in zip(*states, strict=True):
        assert cursor_of(eager) == cursor_of(compiled)
        assert_close(eager, compiled, 1e-5)
