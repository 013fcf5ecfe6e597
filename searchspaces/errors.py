"""The one error of this package, and how its messages offer a mend."""

import difflib
from collections.abc import Iterable


class SpaceError(ValueError):
    """A search space, or a point given to it, is wrong; the message is one line with the mend."""


def suggest(name: object, known: Iterable[object]) -> str:
    """Returns the mend for an unknown name: the nearest known one, or else all of them."""
    texts = [str(item) for item in known]
    near = difflib.get_close_matches(str(name), texts, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose one of {', '.join(texts)}" if texts else "there are none"
