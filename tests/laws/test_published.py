"""Published laws: what they say of models that were trained, as their papers tell it."""

import pytest

from pbt.errors import SpecError
from pbt.laws.published import PUBLISHED, for_batch, published, weight_decay
from pbt.laws.units import Size

DEEPSEEK_7B = Size(params=6.5e9, tokens=2e12, layers=30, width=4096, sequence=4096)


@pytest.mark.parametrize(
    ("name", "size", "lr", "tokens"),
    [
        ("step_law", Size(params=1.07e9, tokens=1e11), 1.55e-3, 1.10e6),
        ("deepseek", DEEPSEEK_7B, 4.2e-4, 2304 * 4096),
        ("moonlight", Size(params=1.5e9, tokens=3.89e10), 8.3e-4, 256 * 8192),
        ("porian", Size(params=7e7, tokens=2e9, head=3.846e7), 4.7e-3, 165 * 2048),
        ("minicpm", Size(params=1e8, tokens=2e9, loss=2.5), 0.01, 3.98e6),
        ("power", Size(params=1e8, tokens=1e13, batch=1024 * 4096, sequence=4096), 1.1e-3, None),
        ("bjorck", Size(params=7e9, tokens=1e12), 1.1e-4, None),
        ("kaplan", Size(params=1e9, tokens=1e11, loss=3.0), 3.5e-4, 1.12e6),
        ("zhang", Size(params=3.02e8, tokens=6e9), None, 1365 * 512),
    ],
)
def test_it_says_what_its_paper_says(name, size, lr, tokens):
    law = published(name)
    assert (law.lr is None, law.batch is None) == (lr is None, tokens is None)
    if law.lr is not None:
        assert law.lr(size) == pytest.approx(lr, rel=0.05)
    if law.batch is not None:
        assert law.batch(size) == pytest.approx(tokens, rel=0.05)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_says_what_it_counts_and_where_it_is_from(name):
    law = published(name)
    assert law.name == name
    assert "arXiv" in law.source
    assert law.formula
    assert law.rate


@pytest.mark.parametrize(
    ("name", "missing"), [("deepseek", "layers"), ("porian", "head"), ("minicpm", "loss"), ("power", "batch")]
)
def test_what_a_law_counts_has_to_be_given(name, missing):
    law = published(name)
    with pytest.raises(
        SpecError, match=rf"{missing}: is needed by this law, and not given. Give the size with {missing}"
    ):
        (law.batch or law.lr)(Size(params=1e9, tokens=2e10))


def test_parameters_are_counted_as_asked():
    size = Size(params=1e9, tokens=2e10, head=1e8, embedding=2e8)
    counts = {"without embeddings": 1e9, "with the head": 1.1e9, "all": 1.3e9}
    assert {it: size.count(it) for it in counts} == counts
    assert size.flops == 6e9 * 2e10


def test_how_far_beyond_its_range_a_size_is_is_told():
    assert published("step_law").beyond(Size(params=5e8, tokens=1e10)) == {}
    assert published("step_law").beyond(Size(params=4e9, tokens=1e9)) == pytest.approx({"params": 4.0, "tokens": 2.0})


def test_weight_decay_keeps_the_time_of_averages():
    """20 tokens for each parameter: averages go over 0.22 of the run."""
    size = Size(params=6.1e8, tokens=1.22e10, batch=252 * 2048)
    decay = weight_decay(size, lr=1e-2)
    assert size.batch / (1e-2 * decay * size.tokens) == pytest.approx(0.224, rel=0.01)


def test_rules_for_other_batch_sizes():
    assert for_batch(1e-3, 256, 1024) == pytest.approx(2e-3)
    assert for_batch(1e-3, 256, 1024, "sgd") == pytest.approx(4e-3)
    with pytest.raises(SpecError, match="optimizer: 'lionn' has no rule"):
        for_batch(1e-3, 256, 1024, "lionn")


def test_what_is_not_there_is_told():
    with pytest.raises(SpecError, match="law: 'steplaw' is unknown"):
        published("steplaw")
    with pytest.raises(SpecError, match="params: is -1"):
        Size(params=-1, tokens=1e9)
