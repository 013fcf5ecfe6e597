"""Training again what was lost with a host or a process: a plan, in waves. Pure.

The states wanted are those at the ends of certain segments. Each is loaded from its checkpoint, or else trained again
from its parent's, which is found in the same way, back to a checkpoint or a fresh start. Segments that do not wait
for each other are trained in one wave.

Every state that is read is read through the exchange, under a token; none is taken up where it happens to stand. So a
wave is carried out as work orders, one per stack, each of which publishes, then fetches or admits, then trains:

    publish     Publish(slot, token of the segment), for each of `publish`
    steps       Fetch(slot, token of `source`, its hyperparameters, its seed, its `consumed` at the start), or Admit if
                there is no source; then Train(slot, member, segment, its `consumed` at the end)
    place       Fetch(slot, token of the segment, its hyperparameters, its seed, its `consumed` at the end)

The orders of a wave are given once every stack has reported the wave before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from pbt.lineage import Lineage
from pbt.member import SegmentKey, Slot


@dataclass(frozen=True, slots=True)
class Step:
    """A segment to train again in a slot, from the end state of `source`; None is a fresh start from its seed."""

    key: SegmentKey
    slot: Slot
    source: SegmentKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """What one stack does in one wave, in the order of the fields.

    Attributes:
        publish: End states of the segments trained in the wave before, and where they stand.
        steps: Segments to train, each in a slot of its own.
        place: End states to fetch to where they are wanted; in the last wave only, which trains nothing.
    """

    publish: tuple[tuple[Slot, SegmentKey], ...] = ()
    steps: tuple[Step, ...] = ()
    place: tuple[tuple[Slot, SegmentKey], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How to come by the states that were lost.

    Attributes:
        loads: Checkpoints to publish before the first wave, `(segment, digest)`.
        waves: At least one; each has an entry for every stack at disposal.
        drops: For each wave, the states nobody reads after it: once every stack has reported the wave, their tokens
            may be dropped. States that were asked for under their tokens are never among them.
    """

    loads: tuple[tuple[SegmentKey, str], ...]
    waves: tuple[Mapping[int, Wave], ...]
    drops: tuple[tuple[SegmentKey, ...], ...]

    @property
    def tokens(self) -> tuple[SegmentKey, ...]:
        """All states whose tokens may be dropped at the end, if none was before."""
        return tuple(sorted(key for keys in self.drops for key in keys))

    @property
    def trained(self) -> tuple[SegmentKey, ...]:
        """All segments to be trained again, each after its parent."""
        return tuple(step.key for wave in self.waves for part in wave.values() for step in part.steps)


def plan(
    *,
    lineage: Lineage,
    homes: Mapping[SegmentKey, Slot],
    targets: Mapping[Slot, SegmentKey],
    extra: Set[SegmentKey],
    slots: Sequence[Slot],
    saved: Mapping[SegmentKey, str],
) -> Recovery:
    """Plan a recovery.

    A segment is trained again in the stack it was trained in, where that is at disposal: results are the same bit for
    bit whatever the slot, so long as the stack is of the same size. Otherwise any stack will do. In a wave, those that
    most segments wait for, one after another, are trained first.

    Args:
        lineage: All segments.
        homes: Where each segment was trained.
        targets: The state each slot is to hold at the end, named by the segment that ended in it.
        extra: States to be published at the end, for orders that will fetch them.
        slots: Slots at disposal; what they hold is of no use.
        saved: Digests of good checkpoints.

    Raises:
        ValueError: A state is wanted in a slot that is not at disposal, or of a segment that has not ended, or
            segments are to be trained and no slot is at disposal.
    """
    stray = sorted(targets.keys() - set(slots))
    if stray:
        raise ValueError(f"{stray[0]} is not at disposal")
    wanted = [*dict.fromkeys(targets.values()), *sorted(extra)]
    lost = _lost(lineage, wanted, saved)
    if lost and not slots:
        raise ValueError(f"no slot at disposal to train {len(lost)} segments in")
    sources = {key: lineage.segments[key].parent for key in lost}
    waves = _waves(_schedule(sources, homes, slots), sources, targets, slots)
    read = {*wanted, *(source for source in sources.values() if source)}
    return Recovery(
        loads=tuple((key, saved[key]) for key in sorted(read - sources.keys())),
        waves=waves,
        drops=_drops(waves, extra),
    )


def _lost(lineage: Lineage, wanted: Iterable[SegmentKey], saved: Mapping[SegmentKey, str]) -> list[SegmentKey]:
    """Segments that must be trained again, each after its parent."""
    lost: dict[SegmentKey, None] = {}
    for key in wanted:
        chain = []
        cursor: SegmentKey | None = key
        while cursor is not None and cursor not in saved and cursor not in lost:
            if lineage.segments[cursor].status != "ended":
                raise ValueError(f"{cursor} has not ended well: there is no state of its end")
            chain.append(cursor)
            cursor = lineage.segments[cursor].parent
        lost |= dict.fromkeys(reversed(chain))
    return list(lost)


def _schedule(
    sources: Mapping[SegmentKey, SegmentKey | None], homes: Mapping[SegmentKey, Slot], slots: Sequence[Slot]
) -> list[dict[Slot, SegmentKey]]:
    """For each wave what is trained where. `sources` has each segment after its parent."""
    waiting: dict[SegmentKey, list[SegmentKey]] = defaultdict(list)
    ready: list[SegmentKey] = []
    for key, source in sources.items():
        (ready if source is None or source not in sources else waiting[source]).append(key)
    heights = _heights(sources)
    schedule = []
    while ready:
        ready.sort(key=lambda key: (-heights[key], key.member, key.index))
        chosen = _fill(ready, homes, slots)
        done = set(chosen.values())
        ready = [key for key in ready if key not in done]
        ready += [child for key in chosen.values() for child in waiting[key]]
        schedule.append(chosen)
    return schedule


def _heights(sources: Mapping[SegmentKey, SegmentKey | None]) -> dict[SegmentKey, int]:
    """How many segments wait for each, one after another."""
    heights = dict.fromkeys(sources, 0)
    for key in reversed(list(sources)):  # children before parents
        source = sources[key]
        if source in heights:
            heights[source] = max(heights[source], heights[key] + 1)
    return heights


def _fill(
    ready: Iterable[SegmentKey], homes: Mapping[SegmentKey, Slot], slots: Sequence[Slot]
) -> dict[Slot, SegmentKey]:
    """One wave: who of those that are ready is trained, and where."""
    free: dict[int, set[int]] = defaultdict(set)
    for slot in slots:
        free[slot.stack].add(slot.index)
    chosen: dict[Slot, SegmentKey] = {}
    for key in ready:
        if len(chosen) == len(slots):
            break
        home = homes[key]
        stack = home.stack if home.stack in free else max(free, key=lambda number: (len(free[number]), -number))
        if not free[stack]:
            continue
        index = home.index if home.stack == stack and home.index in free[stack] else min(free[stack])
        free[stack].remove(index)
        chosen[Slot(stack, index)] = key
    return chosen


def _waves(
    schedule: Sequence[Mapping[Slot, SegmentKey]],
    sources: Mapping[SegmentKey, SegmentKey | None],
    targets: Mapping[Slot, SegmentKey],
    slots: Sequence[Slot],
) -> tuple[Mapping[int, Wave], ...]:
    """What each stack does. A wave publishes what the one before has trained; the last does no more, and places."""
    stacks = sorted({slot.stack for slot in slots})
    nothing: Mapping[Slot, SegmentKey] = {}
    waves = []
    for number, (before, now) in enumerate(zip([nothing, *schedule], [*schedule, nothing], strict=True)):
        place = targets if number == len(schedule) else nothing
        publish_, now_, place_ = (_by_stack(part) for part in (before, now, place))
        waves.append(
            {
                stack: Wave(
                    publish=tuple(publish_[stack]),
                    steps=tuple(Step(key, slot, sources[key]) for slot, key in now_[stack]),
                    place=tuple(place_[stack]),
                )
                for stack in stacks
            }
        )
    return tuple(waves)


def _by_stack(part: Mapping[Slot, SegmentKey]) -> dict[int, list[tuple[Slot, SegmentKey]]]:
    found: dict[int, list[tuple[Slot, SegmentKey]]] = defaultdict(list)
    for slot, key in sorted(part.items()):
        found[slot.stack].append((slot, key))
    return found


def _drops(waves: Sequence[Mapping[int, Wave]], extra: Set[SegmentKey]) -> tuple[tuple[SegmentKey, ...], ...]:
    """For each wave the states it is the last to read."""
    last: dict[SegmentKey, int] = {}
    for number, wave in enumerate(waves):
        for part in wave.values():
            last |= {step.source: number for step in part.steps if step.source is not None}
            last |= {key: number for _, key in part.place}
    drops: list[list[SegmentKey]] = [[] for _ in waves]
    for key, number in sorted(last.items()):
        if key not in extra:
            drops[number].append(key)
    return tuple(map(tuple, drops))
