"""A recovery being carried out: wave after wave, as parts of work orders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pbt.errors import HostError
from pbt.lineage import Lineage
from pbt.member import SegmentKey, Slot
from pbt.runtime.orders import Admit, Fetch, Publish, Renew, SegmentResult, Train
from pbt.runtime.recovery import Step, Wave, plan
from pbt.runtime.saving import token_of

Rows = Iterable[Mapping[str, Any]]


class Rescue:
    """Brings lost states back. The orders of a wave are given once every stack has reported the wave before.

    Args:
        rows: The ledger's `segments` and `outcomes`.
        targets: The state each slot is to hold at the end.
        extra: States to be published at the end.
        slots: All slots of the stacks that take part.
        saved: Good checkpoints.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        targets: Mapping[Slot, SegmentKey],
        extra: AbstractSet[SegmentKey],
        slots: Sequence[Slot],
        saved: Mapping[SegmentKey, str],
    ) -> None:
        self._lineage = Lineage.from_rows(rows)
        homes = {SegmentKey(row["member"], row["segment"]): Slot(row["stack"], row["slot"]) for row in rows["segments"]}
        self._recovery = plan(
            lineage=self._lineage, homes=homes, targets=targets, extra=extra, slots=slots, saved=saved
        )
        self.stacks: frozenset[int] = frozenset(slot.stack for slot in slots)
        self.loads = self._recovery.loads
        self._wave = 0
        self._waiting = set(self.stacks)

    @property
    def done(self) -> bool:
        """Whether every state is where it is wanted."""
        return self._wave == len(self._recovery.waves)

    @property
    def tokens(self) -> tuple[SegmentKey, ...]:
        """States that only this recovery reads."""
        return self._recovery.tokens

    @property
    def read(self) -> tuple[SegmentKey, ...]:
        """States that this recovery reads; others may read those it loads, too."""
        return tuple(dict.fromkeys((*self.tokens, *(key for key, _ in self.loads))))

    @property
    def story(self) -> str:
        """What is done, for people."""
        trained, loaded = len(self._recovery.trained), len(self.loads)
        told = [f"{_several(loaded, 'state')} loaded from checkpoints"] if loaded else []
        told += [f"{_several(trained, 'segment')} trained again"] if trained else []
        return ", ".join(told) or "all states were at hand"

    @property
    def outlook(self) -> str | None:
        """What will have to be trained again, for people; None if nothing."""
        trained = len(self._recovery.trained)
        return f"not saved, and trained again: {_several(trained, 'segment')}" if trained else None

    @property
    def rest(self) -> str | None:
        """What is left to do where it is stopped, for people: all, as nothing of it was saved; None if only to load."""
        trained = len(self._recovery.trained)
        told = f"stopped before all that was lost was back; still to be trained again: {_several(trained, 'segment')}"
        return told if trained else None

    def order(self, stack: int) -> dict[str, Any] | None:
        """The stack's part of the present wave, as parts of a work order; None if it has to wait for others."""
        if stack not in self._waiting:
            return None
        wave = self._recovery.waves[self._wave].get(stack, Wave())
        fresh = [step for step in wave.steps if step.source is None]
        return {
            "publish": tuple(Publish(slot.index, token_of(key)) for slot, key in wave.publish),
            "fetch": (
                *(self._fetch(step) for step in wave.steps if step.source is not None),
                *(self._place(slot, key) for slot, key in wave.place),
            ),
            "admit": tuple(self._admit(step) for step in fresh),
            "renew": tuple(renewed for step in wave.steps if (renewed := self._renew(step)) is not None),
            "train": tuple(self._train(step) for step in wave.steps),
        }

    def reported(self, stack: int) -> tuple[SegmentKey, ...]:
        """A stack has done its part; returns the states that nobody reads any more."""
        self._waiting.discard(stack)
        if self._waiting:
            return ()
        dropped = self._recovery.drops[self._wave]
        self._wave += 1
        if not self.done:
            self._waiting = set(self.stacks)
        return dropped

    def check(self, result: SegmentResult, is_limited: bool) -> None:
        """Refuse to go on from a segment that was not trained again as it was on record.

        Args:
            result: How it ended.
            is_limited: Whether training may be cut short because a budget ends.

        Raises:
            HostError: It failed, or stopped elsewhere.
        """
        known = self._lineage.segments[SegmentKey(result.member, result.segment)]
        problem = result.failure
        if problem is None and is_limited and result.consumed < _end(known.consumed):
            raise HostError(
                "the budget's time is used up before what was lost had been trained again; nothing recorded is lost. "
                "Raise the limit: `pbt extend RUN --wall-minutes N`, or --gpu-hours, or --joules."
            )
        if problem is None and (result.age, result.consumed) != (known.age[1], known.consumed[1]):
            problem = f"it ended after {result.consumed} steps instead of {known.consumed[1]}"
        if problem is not None:
            raise HostError(
                f"segment {result.member}:{result.segment} could not be trained again: {problem}. "
                "Resume the sweep with the versions and the device it was begun with (`pbt show`)."
            )

    def difference(self, result: SegmentResult, score: float) -> str | None:
        """How a segment trained again differs from what is on record; None if it does not."""
        known = self._lineage.segments[SegmentKey(result.member, result.segment)]
        was = math.nan if known.score is None else known.score
        if was == score or (math.isnan(was) and math.isnan(score)):
            return None
        return f"trained again, it scored {score!r} instead of {was!r}: this machine does not compute the same bits"

    def _fetch(self, step: Step) -> Fetch:
        segment = self._lineage.segments[step.key]
        assert step.source is not None
        token = token_of(step.source)
        return Fetch(step.slot.index, token, segment.hparams, segment.seed, segment.consumed[0])

    def _place(self, slot: Slot, key: SegmentKey) -> Fetch:
        segment = self._lineage.segments[key]
        return Fetch(slot.index, token_of(key), segment.hparams, segment.seed, _end(segment.consumed))

    def _admit(self, step: Step) -> Admit:
        segment = self._lineage.segments[step.key]
        return Admit(step.slot.index, segment.hparams, segment.seed, segment.consumed[0])

    def _renew(self, step: Step) -> Renew | None:
        segment = self._lineage.segments[step.key]
        return None if segment.shrink is None else Renew(step.slot.index, segment.hparams, segment.shrink)

    def _train(self, step: Step) -> Train:
        segment = self._lineage.segments[step.key]
        return Train(step.slot.index, step.key.member, step.key.index, _end(segment.consumed), segment.hparams)


def _end(consumed: tuple[int, int | None]) -> int:
    assert consumed[1] is not None
    return consumed[1]


def _several(amount: int, noun: str) -> str:
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"
