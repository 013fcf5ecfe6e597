"""Everything pbt raises on purpose.

    PbtError
    +-- SpecError        a sweep that cannot be run as written
    +-- StorageError     a folder that cannot be written or read
    +-- LedgerError      a ledger that is damaged or of an unknown version
    |   +-- RunNotFound  no such run in the storage folder
    +-- HparamMismatch   a hyperparameter ordered and not in effect
    +-- HostError        a host that could not carry out its orders

Each message is one line of plain English: what is wrong, the value seen, and the mend. `searchspaces.SpaceError` and
`trainables.TrainableError` follow the same form and are caught beside these at the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class PbtError(Exception):
    """Base of all errors that are meant for the person at the keyboard."""


class SpecError(PbtError):
    """A sweep that cannot be run as written.

    Args:
        field: Dotted name of the field, as written in a sweep file (`budget.members`).
        problem: What is wrong, with the value.
        mend: What to write instead.
    """

    def __init__(self, field: str, problem: str, mend: str) -> None:
        self.field, self.problem, self.mend = field, problem, mend
        super().__init__(f"{field}: {problem}. {mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes; left to itself, pickle would call the class with the message alone."""
        return type(self), (self.field, self.problem, self.mend)


class StorageError(PbtError):
    """A folder or file that cannot be read or written."""


class LedgerError(PbtError):
    """A ledger that is damaged, or written by a version this one does not know."""


class RunNotFound(LedgerError):
    """No run of that name."""


class HparamMismatch(PbtError):
    """The stack holds another value than the one ordered.

    Args:
        member: The member that was stopped.
        hparam: Name of the hyperparameter.
        wanted: The value ordered.
        got: The value read back from the device.
    """

    def __init__(self, member: int, hparam: str, wanted: object, got: object) -> None:
        self.member, self.hparam, self.wanted, self.got = member, hparam, wanted, got
        super().__init__(
            f"member {member}: {hparam} is not in effect: wanted {wanted!r}, got {got!r}. "
            f"The member was stopped; check that the trainable's set_hparams writes {hparam!r}."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """See `SpecError`."""
        return type(self), (self.member, self.hparam, self.wanted, self.got)


class HostError(PbtError):
    """A host that could not carry out its orders."""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message: the rest is advice, or a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `Did you mean 'members'?`, or the list of known names."""
    by_case = {candidate.lower(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.6)
    return f"Did you mean {by_case[close[0]]!r}?" if close else f"Known: {', '.join(by_case.values())}."
