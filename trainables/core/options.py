"""Options that trainables of the core have in common: how they are checked, and what is made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from trainables.core import schedules
from trainables.core.optim import ready
from trainables.core.parametrization import Scaling
from trainables.errors import TrainableError, nearest


def check_counts(owner: str, options: object, names: Iterable[str]) -> None:
    """Refuse options that are no whole numbers of at least 1.

    Raises:
        TrainableError: One is not.
    """
    for name in names:
        value = getattr(options, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TrainableError(f"{owner} {name} is {value!r}; give a whole number >= 1")


def check_multiple(owner: str, options: object, name: str, of: int, why: str) -> None:
    """Refuse an option that is no multiple of a number, which `why` names.

    Raises:
        TrainableError: It is not.
    """
    value = getattr(options, name)
    if value % of:
        raise TrainableError(f"{owner} {name} is {value}; give a multiple of {of} ({why})")


def check_choice(owner: str, options: object, name: str, known: Collection[str]) -> None:
    """Refuse an option that is not among the known ones.

    Raises:
        TrainableError: It is not; the message names the nearest.
    """
    value = getattr(options, name)
    if not isinstance(value, str) or value not in known:
        raise TrainableError(f"{owner} {name} is {value!r}; {nearest(str(value), known)}")


def check_divides(owner: str, options: object, name: str, whole: str) -> None:
    """Refuse an option that does not divide another.

    Raises:
        TrainableError: It does not.
    """
    value, of = getattr(options, name), getattr(options, whole)
    if of % value:
        raise TrainableError(f"{owner} {name} is {value}; give a divisor of {whole}, {of}")


def check_flag(owner: str, options: object, name: str) -> None:
    """Refuse an option that is neither true nor false.

    Raises:
        TrainableError: It is not.
    """
    value = getattr(options, name)
    if not isinstance(value, bool):
        raise TrainableError(f"{owner} {name} is {value!r}; give true or false")


def check_share(owner: str, options: object, name: str) -> None:
    """Refuse an option that is no number in [0, 1).

    Raises:
        TrainableError: It is not.
    """
    value = getattr(options, name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value < 1.0:
        raise TrainableError(f"{owner} {name} is {value!r}; give a number in [0, 1)")


def absolute(data: object) -> str | None:
    """The path made absolute, as workers may start in another folder."""
    return None if data is None else str(Path(str(data)).expanduser().absolute())


def bucket(name: str, options: Any, always: Collection[str], unless_default: Collection[str], **instead: object) -> str:
    """Name of a bucket: the trainable's, and its options, those of `unless_default` only where they are changed.

    Args:
        name: The trainable's.
        options: The trainable.
        always: Options that are named whatever their values.
        unless_default: Options that are named if they differ from their defaults.
        instead: Values to name instead of the trainable's own.
    """
    changed = {f.name for f in fields(options) if f.name in unless_default and getattr(options, f.name) != f.default}
    named = (f.name for f in fields(options) if f.name in {*always, *changed})
    return "-".join([name, *(f"{field}{instead.get(field, getattr(options, field))}" for field in named)])


def without_effect(options: Any) -> set[str]:
    """Shared options that change nothing about the program, whatever their values, as the others are set."""
    found = set() if options.parametrization == "completep" else {"base_depth"}
    if options.parametrization == "standard":
        found |= {"base_width", "base_heads"}
    if not options.schedule.startswith("piecewise"):
        found.add("schedule_knots")
    if options.accumulate == 1:
        found.add("noise_decay")
    return found


def scaling(options: Any) -> Scaling:
    """The parametrization of a trainable with the options `optimizer`, `width`, `base_width` and so on, at its size."""
    return Scaling(
        name=options.parametrization,
        optimizer=options.optimizer,
        family=ready(options.optimizer).family,
        width=options.width / options.base_width,
        depth=options.depth / options.base_depth,
    )


def schedule(options: Any, tokens_per_step: int) -> schedules.Schedule:
    """The schedule of a trainable with the options `schedule`, `schedule_unit`, `schedule_knots` and `batch`."""
    setting = schedules.Setting(
        batch_size=options.batch, tokens_per_step=tokens_per_step, num_knots=options.schedule_knots
    )
    return schedules.build(options.schedule, setting, options.schedule_unit)
