"""The table of live hyperparameters: numbers, and proportions of named parts."""

import pytest
import torch

from trainables.base import HparamSpec, TrainableError
from trainables.core.hparams import HparamTable

SPECS = {
    "lr": HparamSpec(kind="live", default=0.1, low=0.0, high=1.0),
    "mix": HparamSpec(kind="live", default={"a": 0.5, "b": 0.25, "c": 0.25}, parts=("a", "b", "c")),
    "steps": HparamSpec(kind="live", default=3),
}
DEFAULTS = {"lr": 0.1, "mix": {"a": 0.5, "b": 0.25, "c": 0.25}, "steps": 3}


def table(**changes):
    return HparamTable(SPECS, **{"capacity": 3, "device": torch.device("cpu"), **changes})


def test_proportions_are_rows_of_parts():
    """The step sees `(K,)` for a number and `[K, parts]` for proportions; what was set is read back exactly."""
    held = table()
    third = {"a": 1 / 3, "c": 1 / 3, "b": 1 / 3}
    held.fill(1, held.checked({"mix": third, "lr": 0.7}))
    assert held.rows["lr"].tolist() == [0.1, 0.7, 0.1]
    assert held.rows["mix"].tolist() == [[0.5, 0.25, 0.25], [1 / 3] * 3, [0.5, 0.25, 0.25]]
    assert held.get(1) == {"lr": 0.7, "mix": third, "steps": 3}
    assert [held.get(slot) for slot in (0, 2)] == [DEFAULTS, DEFAULTS]


def test_proportions_change_in_place():
    """In the slots named, in the rows that the step holds, among other values and the other way around."""
    held = table()
    rows, part = held.rows["mix"], held.rows["mix"][1:]
    first, second = {"c": 0.0, "b": 0.0, "a": 1.0}, {"a": 0.1, "b": 0.2, "c": 0.7}
    held.change([2, 0], {"mix": [first, second], "steps": [5, 6]})
    assert rows.tolist() == [[0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
    assert part.tolist() == rows.tolist()[1:]
    assert [held.get(slot)["mix"] for slot in range(3)] == [second, DEFAULTS["mix"], first]
    assert [held.get(slot)["steps"] for slot in range(3)] == [6, 3, 5]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "'mix' is 0.5; give a weight for each of a, b, c"),
        ([0.5, 0.25, 0.25], "give a weight for each of a, b, c"),
        ({"a": 0.5, "b": 0.25, "d": 0.25}, "'mix' has no part 'd'; known: a, b, c"),
        ({"a": 0.5, "b": 0.5}, "'mix' has no weight of 'c'; add one, which may be 0"),
        ({"a": 1.5, "b": -0.5, "c": 0.0}, "'mix' has -0.5 of 'b'; give a weight of at least 0"),
        ({"a": 0.5, "b": 0.25, "c": 0.2}, "'mix' has weights that sum to 0.95, not 1; divide each by their sum"),
        ({"a": 0.5, "b": 0.25, "c": 0.25 + 2e-9}, "not 1"),
        ({"a": float("nan"), "b": 0.5, "c": 0.5}, r"'mix\[a\]' is nan; give a finite number"),
        ({"a": True, "b": 0.0, "c": 0.0}, r"'mix\[a\]' is True; give a finite number"),
        ({"a": "all", "b": 0.0, "c": 0.0}, r"'mix\[a\]' is 'all'; give a finite number"),
    ],
)
def test_what_is_no_proportions_is_refused(value, message):
    """In one sentence, with the mend; nothing has changed then."""
    held = table()
    for ask in (
        lambda: held.checked({"lr": 0.2, "mix": value}),
        lambda: held.change([0, 1], {"lr": [0.2, 0.3], "mix": [DEFAULTS["mix"], value]}),
    ):
        with pytest.raises(TrainableError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert [held.get(slot) for slot in range(3)] == [DEFAULTS] * 3


def test_weights_may_miss_their_sum_by_rounding():
    """As those of a search space do: to 1e-9, and they are held as they are."""
    held, almost = table(), {"a": 0.5, "b": 0.25, "c": 0.25 - 9e-10}
    held.change([0], {"mix": [almost]})
    assert held.get(0)["mix"] == almost


def test_proportions_may_be_fixed():
    """At their defaults, whose parts may come in any order."""
    held = table(fixed=["mix"])
    held.change([0], {"mix": [{"c": 0.25, "b": 0.25, "a": 0.5}]})
    with pytest.raises(TrainableError, match=r"'mix' is .* but fixed at"):
        held.change([0], {"mix": [{"a": 1.0, "b": 0.0, "c": 0.0}]})


def test_proportions_are_never_off():
    """What is 0 in every slot of a range is off; weights that sum to 1 never are."""
    held = table()
    held.change([0, 1, 2], {"lr": [0.0, 0.0, 0.5], "mix": [{"a": 0.0, "b": 0.0, "c": 1.0}] * 3})
    assert held.off() == frozenset()
    assert held.off(0, 2) == {"lr"}


def test_a_number_is_no_mapping():
    """Proportions are refused where a number is wanted."""
    with pytest.raises(TrainableError, match=r"'lr' is \{'a': 1.0\}; give a finite number"):
        table().check("lr", {"a": 1.0})
