"""How many examples a property is tried on: a few in every run of the tests, more with `scripts/test --full`.

A module decorates with `@examples(200)`; what else `hypothesis.settings` takes may follow.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings

_LONG_SHARE, _SHARE, _LEAST = 2, 5, 5


def examples(number: int, **more: Any) -> settings:
    """Settings with half as many examples in the long run, which are new ones every time, and a fifth in the usual one.

    All are tried with `pytest --hypothesis-profile=thorough`.
    """
    shares = {"repeatable": _SHARE, "default": _LONG_SHARE}
    return settings(max_examples=max(_LEAST, number // shares.get(settings.get_current_profile_name(), 1)), **more)
