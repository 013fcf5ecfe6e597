"""How a host settles the plan of a stack: by the record, or by measuring, which is then recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pbt.errors import HostError
from pbt.record.schema import canonical
from trainables import Place, Plan, Trainable
from trainables.buckets import Buckets
from trainables.core.plan import Ahead, measured
from trainables.core.step import wants_compiling


@dataclass(frozen=True, slots=True)
class ToBuild:
    """A stack that a host is to build.

    Attributes:
        stack: Its number.
        capacity: Its slots.
        plan: Its plan on record, as JSON text; None for a stack that runs all slots together.
        is_to_plan: Whether the host is to measure first: nobody has trained the stack yet.
    """

    stack: int
    capacity: int
    plan: str | None = None
    is_to_plan: bool = False


def settled(
    item: ToBuild, trainable: Trainable, bucket: str, place: Place, ahead: Ahead | None
) -> tuple[Place, str | None]:
    """Where and how a stack is to be built.

    Args:
        item: The stack.
        trainable: What it trains.
        bucket: Its bucket.
        place: The place of all stacks.
        ahead: What there is to train; None measures nothing.

    Returns:
        The place with the stack's plan, and the plan as text if it is new and must be recorded before it is used.
    """
    if item.plan is not None:
        return dataclasses.replace(place, plan=Plan(**json.loads(item.plan))), None
    if not item.is_to_plan or ahead is None:
        return place, None
    asked = (trainable, bucket)
    if isinstance(trainable, Buckets):  # what is fast in the usual bucket is taken for all
        asked = (trainable.trainable, trainable.trainable.bucket({}))
    plan = measured(*asked, item.capacity, place, ahead)
    if plan is None:
        return place, None
    return dataclasses.replace(place, plan=plan), canonical(dataclasses.asdict(plan))


def less_at_once(plan: str | None, capacity: int, place: Mapping[str, str]) -> str | None:
    """The plan of a stack that needs about half the memory; None where its members train one by one already.

    Args:
        plan: Its plan so far, as JSON text; None trains all slots together.
        capacity: Its slots.
        place: Where all stacks are, as it is recorded: it says whether one without a plan compiles its step.
    """
    if plan is None:
        where = Place(**{name: place[name] for name in ("device", "compile") if name in place})  # type: ignore[arg-type]
        known = Plan(chunk=capacity, compiled=wants_compiling(where))
    else:
        known = Plan(**json.loads(plan))
    if known.chunk == 1:
        return None
    return canonical(dataclasses.asdict(dataclasses.replace(known, chunk=known.chunk // 2, rates={})))


def unbuilt(stack: int, problem: str, run: Path) -> HostError:
    """What ends a sweep whose trainable cannot be built.

    Args:
        stack: The one that was to be.
        problem: The exception, in a line.
        run: The run's folder.
    """
    mend = f"Mend that, then `pbt resume {run}`; --debug shows where."
    return HostError(f"stack {stack} could not be built: {problem}. {mend}")


def in_words(plan: str) -> str:
    """What a recorded plan says, for people."""
    known = Plan(**json.loads(plan))
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in sorted(known.rates.items(), key=lambda item: -item[1]))
    parts = f"; each batch in {known.accumulate} parts, to fit the memory" if known.accumulate > 1 else ""
    who = "one member trains at a time" if known.chunk == 1 else f"{known.chunk} members train together"
    return (
        f"{who}, {'compiled' if known.compiled else 'eagerly'}{parts} "
        f"(member-steps per second: {rates or 'not measured'})"
    )
