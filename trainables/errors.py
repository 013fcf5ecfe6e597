"""What trainables raise on purpose. Light to import."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrainableError(ValueError):
    """A trainable was asked for something it cannot do; the message names the field, the value and the mend."""


class DataError(TrainableError):
    """The training data is missing, unreadable, empty or too small."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the mend for a misspelt name: the closest known one, or the list of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names) or 'none'}"
