"""The minutes: decisions, recorded in the order they were taken; while a sweep is rebuilt, held against the record."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from pbt.errors import LedgerError
from pbt.record.ledger import Ledger


class Minutes:
    """Writes decisions to the ledger, unless they stand there already.

    A sweep is rebuilt by telling its strategy again what happened. The decisions it takes must be those on record;
    what goes beyond the record had not been written when the sweep was interrupted, and is written now.

    Args:
        ledger: Takes what is new.
        recorded: Decisions on record, as `(table, row)` in the order they were taken.
    """

    def __init__(self, ledger: Ledger, recorded: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> None:
        self._ledger = ledger
        self._recorded = deque(recorded)

    def write(self, table: str, **row: Any) -> None:
        """Record a decision, or recognise it.

        Raises:
            LedgerError: The record says otherwise.
        """
        if not self._recorded:
            self._ledger.append(table, **row)
            return
        known_table, known = self._recorded.popleft()
        if (table, _bare(row)) != (known_table, _bare(known)):
            parting = _differing(row, known)
            raise LedgerError(
                f"the sweep cannot go on: the record says {_tell(known_table, known, parting)}, but now the strategy "
                f"says {_tell(table, row, parting)}. Resume it with the versions it was begun with (`pbt show`)."
            )

    def close(self) -> None:
        """All that happened has been told again.

        Raises:
            LedgerError: Decisions are on record that have not been taken again.
        """
        if self._recorded:
            table, row = self._recorded[0]
            raise LedgerError(
                f"the sweep cannot go on: the record says {_tell(table, row)}, which the strategy no longer says. "
                "Resume it with the versions it was begun with (`pbt show`)."
            )


def _bare(row: Mapping[str, Any]) -> dict[str, Any]:
    """The decision alone: without the time, and without columns that say nothing."""
    return {name: value for name, value in row.items() if value is not None and name != "at"}


def _differing(row: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Columns in which two decisions differ."""
    row, other = _bare(row), _bare(other)
    return sorted(name for name in row.keys() | other.keys() if row.get(name) != other.get(name))


def _tell(table: str, row: Mapping[str, Any], parting: Iterable[str] = ()) -> str:
    names = dict.fromkeys(("member", "segment", "donor", "hparams", *parting))
    names.pop("kind", None)
    return " ".join([row.get("kind", "train"), *(f"{name} {row[name]}" for name in names if row.get(name) is not None)])
