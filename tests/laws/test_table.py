"""Tables of measurements: what laws take from them, and what they refuse."""

import numpy as np
import pytest

from pbt.errors import SpecError
from pbt.laws.table import Naming, read_columns

TABLE = {
    "n": ["1e8", 2e8, 4e8],
    "tokens": [1e9, 2e9, 8e9],
    "loss": [3.2, 3.0, 2.8],
    "sequences": [64, 128, 256],
}
NAMES = {"params": "n", "batch": "sequences"}


def test_columns_are_taken_by_what_they_are_called():
    found = read_columns(TABLE, ("params", "tokens", "loss"), Naming(names=NAMES))
    assert {name: it.tolist() for name, it in found.items()} == {
        "params": [1e8, 2e8, 4e8],
        "tokens": [1e9, 2e9, 8e9],
        "loss": [3.2, 3.0, 2.8],
    }


def test_batches_in_sequences_become_tokens():
    found = read_columns(TABLE, ("batch",), Naming(names=NAMES, sequence=2048))
    assert found["batch"].tolist() == [64 * 2048, 128 * 2048, 256 * 2048]


def test_rows_with_something_missing_are_left_out_where_that_is_wanted():
    table = TABLE | {"loss": [3.2, None, 2.8]}
    found = read_columns(table, ("params", "loss"), Naming(names=NAMES, drop_missing=True))
    assert found["params"].tolist() == [1e8, 4e8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [3.2, np.nan, None]}, r"loss: is missing or no number in 2 of 3 rows \(2, 3\)\. Fill them in, or"),
        ({"loss": [3.2, "high", 2.8]}, r"loss: is missing or no number in 1 of 3 rows \(2\)"),
        ({"loss": [3.2, -3.0, 2.8]}, "loss: is -3 in row 2, and has to be positive"),
        ({"n": [125.0, 350.0, 1.3e9]}, "n: has 350 and then 1.3e[+]09, with nothing between"),
        ({"n": [0.0, 1e8, 2e8]}, "n: is 0 in row 1"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        read_columns(TABLE | change, ("params", "tokens", "loss"), Naming(names=NAMES))


def test_a_column_that_is_not_there_is_asked_for_by_name():
    message = "params: there is no column params, only n, tokens, loss, sequences. Write --column params=NAME"
    with pytest.raises(SpecError, match=message):
        read_columns(TABLE, ("params", "tokens", "loss"), Naming(names={}))
    with pytest.raises(SpecError, match=r"column\.tokes: is nothing that a law asks for\. Did you mean 'tokens'"):
        Naming(names={"tokes": "d"})


def test_a_table_without_a_whole_row_is_refused():
    with pytest.raises(SpecError, match="has no row in which nothing is missing"):
        read_columns({"loss": [None]}, ("loss",), Naming(names={}, drop_missing=True))
