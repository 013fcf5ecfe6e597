"""The ledger's tables: what version 1 is, and how rows become Arrow and text."""

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.record import schema

#: Version 1, as old ledgers have it. A change here needs a new version and a golden ledger of the old one.
VERSION_1 = {
    "segments": (
        "member:int32 segment:int32 generation:int32 start:string parent_member:int32 parent_segment:int32 "
        "hparams:string seed:int64 bucket:string stack:int32 slot:int32 age_start:int64 consumed_start:int64 "
        "until:int64 cause:string at:timestamp[us, tz=UTC]"
    ),
    "decisions": (
        "kind:string member:int32 donor:int32 segment:int32 hparams_before:string hparams:string reason:string "
        "cause:string at:timestamp[us, tz=UTC]"
    ),
    "outcomes": (
        "member:int32 segment:int32 status:string hparams_in_effect:string age_end:int64 consumed_end:int64 "
        "score:double wall_s:double tokens:int64 reason:string at:timestamp[us, tz=UTC]"
    ),
    "metrics": (
        "member:int32 segment:int32 split:string name:string value:double age:int64 consumed:int64 "
        "at:timestamp[us, tz=UTC]"
    ),
    "checkpoints": "member:int32 segment:int32 digest:string size_bytes:int64 at:timestamp[us, tz=UTC]",
}


def test_version_1_does_not_change():
    """The tables, their columns, order and types."""
    found = {table: " ".join(f"{field.name}:{field.type}" for field in kind) for table, kind in schema.TABLES.items()}
    assert (schema.VERSION, found) == (1, VERSION_1)


def test_the_digest_covers_the_decisions_of_segments():
    """All columns of `segments` but cause and time, and what was in effect."""
    decided = {*schema.SEGMENTS.names, "hparams_in_effect"} - {"cause", "at"}
    assert set(schema.DIGEST) == decided
    assert len(schema.DIGEST) == len(decided)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        ({"a": {"d": 1, "c": [1, 2]}}, '{"a":{"c":[1,2],"d":1}}'),
        (0.1, "0.1"),
        (1e-05, "1e-05"),
        (1.0, "1.0"),
        (1, "1"),
        (True, "true"),
        (None, "null"),
        ("größer\n", '"größer\\n"'),
        ([], "[]"),
        (math.inf, "Infinity"),
        ((1, 2), "[1,2]"),
    ],
)
def test_canonical(data, text):
    """Sorted keys, no spaces, shortest exact numbers, text as it is but for line ends."""
    assert schema.canonical(data) == text


@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers() | st.text() | st.booleans()), st.randoms())
def test_canonical_text_is_exact_and_does_not_depend_on_order(data, random):
    """It gives the data back, and equal data have equal text, on one line."""
    items = list(data.items())
    random.shuffle(items)
    text = schema.canonical(data)
    assert json.loads(text) == data
    assert schema.canonical(dict(items)) == text
    assert "\n" not in text


@pytest.mark.parametrize("table", schema.TABLES)
def test_rows_become_tables_of_the_schema(table):
    """Also where there are none, and where columns are missing."""
    for rows in ([], [{}], [{}, {"at": 1.5}]):
        found = schema.to_arrow(table, rows)
        assert found.schema == schema.TABLES[table]
        assert found.num_rows == len(rows)
    assert found["at"].to_pylist()[1].timestamp() == 1.5
    assert found.drop_columns("at").to_pylist()[1] == dict.fromkeys(schema.TABLES[table].names[:-1])


def test_values_keep_their_bits():
    """Floats as float64, whole numbers whole."""
    (row,) = schema.to_arrow("outcomes", [{"score": 0.1 + 0.2, "tokens": 2**62, "member": 3}]).to_pylist()
    assert (row["score"], row["tokens"], row["member"]) == (0.30000000000000004, 2**62, 3)


@pytest.mark.parametrize("row", [{"member": "x"}, {"member": 2**31}, {"name": 3}])
def test_values_of_other_types_are_refused(row):
    """Nothing is converted in silence."""
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)):
        schema.to_arrow("metrics", [row])
