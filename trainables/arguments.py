"""What every stack asks of the slots and steps that it is given."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.errors import TrainableError


def check_slots(slots: Sequence[int], capacity: int) -> None:
    """Refuse slots that are not there.

    Raises:
        TrainableError: One is not in `[0, capacity)`.
    """
    for slot in slots:
        if not 0 <= slot < capacity:
            raise TrainableError(f"slot {slot} is outside [0, {capacity})")


def check_until(until: Sequence[int], capacity: int) -> None:
    """Refuse targets that are not one for each slot.

    Raises:
        TrainableError: There are fewer or more.
    """
    if len(until) != capacity:
        raise TrainableError(f"until has {len(until)} entries; give {capacity}, one a slot")


def check_pairs(src: Sequence[int], dst: Sequence[int]) -> None:
    """Refuse copies of which not every target has one source.

    Raises:
        TrainableError: There are fewer or more sources than targets, or a target is named twice.
    """
    if len(src) != len(dst) or len(set(dst)) != len(dst):
        raise TrainableError(f"copy from {list(src)} to {list(dst)}; give each target one source")
