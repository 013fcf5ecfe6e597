"""How many examples a property is tried on: a few in every run of the tests, all with `scripts/test --full`.

A module decorates with `@examples(200)`; what else `hypothesis.settings` takes may follow.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings

_SHARE, _LEAST = 5, 5


def examples(number: int, **more: Any) -> settings:
    """Settings with so many examples in the long run, and a fifth of them in the usual one."""
    is_long = settings.get_current_profile_name() != "repeatable"
    return settings(max_examples=number if is_long else max(_LEAST, number // _SHARE), **more)
