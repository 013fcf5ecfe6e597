"""Which checkpoints may go: those that no living member's weights descend from, and those with enough newer ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from pbt.lineage import Lineage
from pbt.member import SegmentKey


def removable(
    lineage: Lineage,
    frontier: Iterable[SegmentKey],
    checkpoints: Mapping[SegmentKey, str],
    keep: int,
    pinned: Set[SegmentKey] = frozenset(),
) -> list[SegmentKey]:
    """Checkpoints that may be removed.

    From each segment of the frontier the ancestry is walked back, through donors; the first `keep` checkpoints met
    are kept. Kept are pinned ones too. Ancestries that have joined are walked once.

    Args:
        lineage: All segments.
        frontier: Where living members stand: each one's last segment that has ended, and, where one begins with a
            copy, the donor's segment it begins from.
        checkpoints: Digests of the checkpoints there are, by the segment that ended in the state.
        keep: Number of checkpoints to keep in every ancestry.
        pinned: Segments whose checkpoints stay, whatever becomes of the member.

    Returns:
        Their segments, in order. A checkpoint that two segments share is among them for both or for neither.
    """
    kept = {key for key in pinned if key in checkpoints} | _met(lineage, frontier, checkpoints, keep)
    digests = {checkpoints[key] for key in kept}
    return sorted(key for key, digest in checkpoints.items() if digest not in digests)


def _met(
    lineage: Lineage, frontier: Iterable[SegmentKey], checkpoints: Mapping[SegmentKey, str], keep: int
) -> set[SegmentKey]:
    met: set[SegmentKey] = set()
    most: dict[SegmentKey, int] = {}  # how many were still to be met, at most, when a walk came by
    for start in frontier:
        wanted, cursor = keep, start
        while wanted > most.get(cursor, 0):
            most[cursor] = wanted
            if cursor in checkpoints:
                met.add(cursor)
                wanted -= 1
            parent = lineage.segments[cursor].parent
            if parent is None:
                break
            cursor = parent
    return met
