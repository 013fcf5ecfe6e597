"""The ledger's tables: what each version is, and how rows become Arrow and text."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pbt.record import schema
from tests.examples import examples

#: Version 1, as old ledgers have it.
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


#: Version 2: what it has that version 1 has not.
VERSION_2 = VERSION_1 | {
    "decisions": VERSION_1["decisions"].replace(" at:", " data:string at:"),
    "orders": "order:string stack:int32 kind:string segments:string at:timestamp[us, tz=UTC]",
    "stacks": (
        "session:int32 stack:int32 capacity:int32 bucket:string device:string dtype:string compile:string rng:string "
        "at:timestamp[us, tz=UTC]"
    ),
    "outcomes": VERSION_1["outcomes"].replace(" reason:", " flops:double joules:double reason:"),
    "evaluations": ("member:int32 segment:int32 split:string age:int64 consumed:int64 at:timestamp[us, tz=UTC]"),
    "checkpoints": VERSION_1["checkpoints"].replace(" at:", " status:string at:"),
    "sessions": (
        "session:int32 reason:string software:string hardware:string git_commit:string spec:string "
        "at:timestamp[us, tz=UTC]"
    ),
    "incidents": "kind:string member:int32 segment:int32 stack:int32 message:string at:timestamp[us, tz=UTC]",
    "usage": "session:int32 wall_s:double device_s:double joules:double tokens:int64 at:timestamp[us, tz=UTC]",
    "nodes": "session:int32 node:int32 name:string value:double wall_s:double at:timestamp[us, tz=UTC]",
}

#: Version 3. A change here needs a new version and a golden ledger of this one.
VERSION_3 = VERSION_2 | {"segments": VERSION_2["segments"].replace(" cause:", " shrink:string cause:")}

GOLDEN = Path(__file__).parents[1] / "golden"


def described(fields):
    """A schema as text."""
    return " ".join(f"{field.name}:{field.type}" for field in fields)


def test_version_3_does_not_change():
    """The tables, their columns, order and types."""
    found = {table: described(fields) for table, fields in schema.TABLES.items()}
    assert (schema.VERSION, found) == (3, VERSION_3)


@pytest.mark.parametrize(("version", "expected"), [(1, VERSION_1), (2, VERSION_2), (3, VERSION_3)])
def test_the_golden_ledgers_have_the_tables_of_their_versions(version, expected):
    """In their files, as they were written."""
    folder = GOLDEN / f"ledger-v{version}" / "ledger"
    parts = sorted(folder.rglob("*.parquet"))
    assert {path.parent.name for path in parts} <= expected.keys()
    for path in parts:
        assert described(pq.read_schema(path)) == expected[path.parent.name]


@pytest.mark.parametrize("table", schema.TABLES)
def test_tables_of_older_versions_conform(table):
    """Columns they lack are null; those they have keep their values, in whatever order they stand."""
    fields = schema.TABLES[table]
    old = pa.table({name: pa.array([None], fields.field(name).type) for name in reversed(fields.names[1:])})
    found = schema.conform(table, old.set_column(0, "at", pa.array([7], fields.field("at").type)))
    assert found.schema == fields
    assert found.to_pylist() == [dict.fromkeys(fields.names) | {"at": datetime(1970, 1, 1, 0, 0, 0, 7, UTC)}]


@pytest.mark.parametrize("table", schema.TABLES)
def test_every_column_can_be_looked_up(table):
    """By name."""
    assert schema.COLUMNS[table] == set(schema.TABLES[table].names)


LATEST_US = 2**33 * 10**6 - 1  # in the year 2242


@examples(300)
@given(st.lists(st.integers(0, LATEST_US), unique=True, min_size=1, max_size=20).map(sorted))
@example([4_418_249_621_006_265])  # which `at * 1e6` missed
def test_microseconds_survive_as_floats(times):
    """In strict order and exact, to Arrow and back."""
    seconds = [us / 1e6 for us in times]
    assert sorted(set(seconds)) == seconds
    table = schema.to_arrow("metrics", [{"at": at} for at in seconds])
    assert table["at"].cast(pa.int64()).to_pylist() == times
    assert [row["at"] for row in schema.to_rows(table)] == seconds


@given(st.integers(0, LATEST_US))
def test_neighbouring_microseconds_stay_apart(us):
    """Everywhere."""
    assert us / 1e6 < (us + 1) / 1e6
    assert schema.microseconds(us / 1e6) == us


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
    assert schema.to_rows(found) == [dict.fromkeys(schema.TABLES[table].names) | {"at": at} for at in (None, 1.5)]


def test_values_keep_their_bits():
    """Floats as float64, whole numbers whole."""
    (row,) = schema.to_arrow("outcomes", [{"score": 0.1 + 0.2, "tokens": 2**62, "member": 3}]).to_pylist()
    assert (row["score"], row["tokens"], row["member"]) == (0.30000000000000004, 2**62, 3)


@pytest.mark.parametrize("row", [{"member": "x"}, {"member": 2**31}, {"name": 3}])
def test_values_of_other_types_are_refused(row):
    """Nothing is converted in silence."""
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)):
        schema.to_arrow("metrics", [row])
