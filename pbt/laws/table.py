"""Columns of a table as laws take them: named, numbers, in one unit each.

Whoever measured them called them something. What they are called is asked for by name; what they count is said with it
(`batch` in tokens, or in sequences of so many tokens), since no number tells that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pbt.errors import nearest
from pbt.laws.form import Array
from pbt.spec import require

#: What laws ask for.
COLUMNS: Mapping[str, str] = {
    "params": "parameters of the model",
    "tokens": "tokens trained on",
    "loss": "loss at the end",
    "lr": "peak learning rate",
    "batch": "tokens of a step",
    "min_steps": "steps that a batch without end would take",
}
#: Neighbours among values that are further apart than this are hardly counted in the same unit.
_GAP = 1000.0
#: So many rows that are no good are named.
_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What the columns of a table are called, and what they count.

    Attributes:
        names: By what laws ask for, what it is called there; what is not named is called the same.
        sequence: Tokens of a sequence, if `batch` counts sequences.
        drop_missing: Whether rows in which something is missing or no number are left out; otherwise they are refused.
    """

    names: Mapping[str, str]
    sequence: int | None = None
    drop_missing: bool = False

    def __post_init__(self) -> None:
        """Refuse names of what no law asks for."""
        for name in self.names:
            require(name in COLUMNS, f"column.{name}", "is nothing that a law asks for", nearest(name, COLUMNS))
        good = self.sequence is None or self.sequence > 0
        require(good, "sequence", f"{self.sequence} is not a number of tokens", "Write the tokens of a sequence")


def read_columns(table: Mapping[str, Sequence[Any]], wanted: Sequence[str], naming: Naming) -> dict[str, Array]:
    """What a law asks for, `(rows,)` each, all positive.

    Args:
        table: Columns by name.
        wanted: What is asked for, of `COLUMNS`.
        naming: What that is called there.

    Raises:
        SpecError: A column is not there, or holds what it cannot hold.
    """
    called = {name: naming.names.get(name, name) for name in wanted}
    for name, column in called.items():
        mend = f"Write --column {name}=NAME with the one that holds the {COLUMNS[name]}"
        require(column in table, name, f"there is no column {column}, only {', '.join(table)}", mend)
    found = {name: _numbers(table[column]) for name, column in called.items()}
    good = np.all([np.isfinite(it) for it in found.values()], axis=0)
    if not naming.drop_missing:
        for name, values in found.items():
            _check_all_there(called[name], values)
    found = {name: values[good] for name, values in found.items()}
    require(bool(good.any()), "table", "has no row in which nothing is missing", "Look at what it holds")
    for name, values in found.items():
        _check_positive(called[name], values)
        if name != "loss":
            _check_one_unit(called[name], values)
    if naming.sequence is not None and "batch" in found:
        found["batch"] = found["batch"] * naming.sequence
    return found


def _numbers(column: Sequence[Any]) -> Array:
    """As numbers; what is none, is not a number."""
    found = []
    for value in column:
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            found.append(float("nan"))
    return np.array(found)


def _check_all_there(column: str, values: Array) -> None:
    rows = np.flatnonzero(~np.isfinite(values))
    told = ", ".join(str(it + 1) for it in rows[:_TOLD]) + (", ..." if len(rows) > _TOLD else "")
    mend = "Fill them in, or leave such rows out (--drop-missing)"
    require(not len(rows), column, f"is missing or no number in {len(rows)} of {len(values)} rows ({told})", mend)


def _check_positive(column: str, values: Array) -> None:
    rows = np.flatnonzero(values <= 0.0)
    told = "" if not len(rows) else f"is {values[rows[0]]:g} in row {rows[0] + 1}, and has to be positive"
    require(not len(rows), column, told, "Give what was measured: losses in nats or bits, sizes in plain numbers")


def _check_one_unit(column: str, values: Array) -> None:
    """Refuse 125 beside 350000000."""
    distinct = np.unique(values)
    jumps = distinct[1:] / distinct[:-1]
    if len(jumps) and jumps.max() > _GAP:
        low, high = distinct[jumps.argmax()], distinct[jumps.argmax() + 1]
        told = f"has {low:g} and then {high:g}, with nothing between: these are hardly in one unit"
        require(False, column, told, "Write all of them in the same unit")
