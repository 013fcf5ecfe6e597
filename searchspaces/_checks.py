"""Checks of what a user writes into a domain: each returns the plain value or raises SpaceError."""

import math
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Integral
from typing import TypeAlias, TypeGuard

import numpy as np

from searchspaces.errors import SpaceError

Scalar: TypeAlias = str | int | float | bool
When: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]]

# Bounds and steps closer than this, relative to the largest bound, drown in float64 rounding.
RESOLUTION = 1e-12


def is_real(value: object) -> TypeGuard[float]:
    """Is it a number that a float can hold (not True, not NaN or infinite)."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, float | np.integer | np.floating) and math.isfinite(value)


def is_scalar(value: object) -> TypeGuard[Scalar]:
    """Is it a string, a bool or a finite number."""
    return isinstance(value, str | bool) or is_real(value)


def same(a: object, b: object) -> bool:
    """Are these the same scalar: 1 is 1.0 but not True, and an array is no scalar."""
    return is_scalar(a) and is_scalar(b) and a == b and isinstance(a, bool) == isinstance(b, bool)


def to_float(where: str, value: object) -> float:
    """Returns a finite number as a float."""
    if not is_real(value):
        raise SpaceError(f"{where}={value!r} is not a finite number: {write_number(value)}")
    return float(value)


def to_int(where: str, value: object) -> int:
    """Returns a whole number as an int (1e3 is one)."""
    if not is_real(value) or value != int(value):
        raise SpaceError(f"{where}={value!r} is not an integer: write a whole number")
    return int(value)


def write_number(value: object) -> str:
    """Returns the mend for what is not a number; YAML's trap with exponents is named."""
    if isinstance(value, str) and "e" in value.lower():
        return "write a number (YAML reads 1e-4 as text and 1.0e-4 as a number)"
    return "write a finite number"


def check_flag(where: str, value: object) -> None:
    """Refuses what is not a bool."""
    if not isinstance(value, bool):
        raise SpaceError(f"{where}={value!r} is not a bool: write True or False")


def exact(x: float) -> Fraction:
    """Returns the number as it is written: 1/10 for 0.1, not the nearest float to it."""
    return Fraction(repr(x))


def check_bounds(kind: str, low: float, high: float, log: bool, smallest: float = 0.0) -> None:
    """Refuses bounds that are reversed, without a logarithm, or that float64 cannot tell apart.

    They are told apart relative to the larger of their size and `smallest`.
    """
    if not low < high:
        raise SpaceError(f"{kind}.low={low!r} is not below high={high!r}: widen the bounds")
    if log and low <= 0:
        raise SpaceError(f"{kind}.low={low!r} has no logarithm: raise it above 0 or drop log=True")
    if not math.isfinite(high - low):
        raise SpaceError(f"{kind}.high={high!r} is too far from low={low!r}: narrow the bounds")
    if high - low < RESOLUTION * max(abs(low), abs(high), smallest):
        raise SpaceError(f"{kind}.high={high!r} is too near to low={low!r}: widen the bounds")


def check_step(kind: str, low: float, high: float, step: float) -> None:
    """Refuses a step that is not positive, does not fit, or that float64 cannot resolve."""
    if step <= 0:
        raise SpaceError(f"{kind}.step={step!r} is not positive: raise it above 0")
    if exact(step) > exact(high) - exact(low):
        raise SpaceError(f"{kind}.step={step!r} does not fit between low={low!r} and high={high!r}: lower it")
    if step < RESOLUTION * max(abs(low), abs(high)):
        raise SpaceError(f"{kind}.step={step!r} is too fine for such bounds: raise it")


def to_scalars(where: str, values: object) -> tuple[Scalar, ...]:
    """Returns one or more distinct scalars as a tuple of plain Python values."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise SpaceError(f"{where}={values!r} is not a list of one or more: write [a, b]")
    plain = tuple(_to_plain(where, value) for value in values)
    seen: set[str] = set()
    for value in plain:
        # Alike in print is alike: 1 and "1" cannot be told apart in a table or on a command line.
        text = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
        if not text or text in seen:
            fault = "is there twice" if text else "is empty"
            raise SpaceError(f"{where}: {value!r} {fault}: give each a name of its own")
        seen.add(text)
    return plain


def to_conditions(kind: str, when: object) -> dict[str, tuple[Scalar, ...]] | None:
    """Returns `when` with a tuple of values for every parent; None where there is no condition."""
    if when is None:
        return None
    if not isinstance(when, Mapping) or not when:
        raise SpaceError(f"{kind}.when={when!r} is not a mapping: write {{'parent': value}}")
    return {
        str(parent): to_scalars(f"{kind}.when[{parent!r}]", [values] if is_scalar(values) else values)
        for parent, values in when.items()
    }


def _to_plain(where: str, value: object) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if is_real(value):
        return int(value) if isinstance(value, Integral) else float(value)
    raise SpaceError(f"{where}: {value!r} is not a scalar: use str, int, float or bool")
