"""Lines of descent as a forest in text: which are shown where there are many, and what stands before each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pbt.lineage import Line
from pbt.member import SegmentKey


@dataclass(frozen=True, slots=True)
class Style:
    """What guides are drawn with: beside a line that has siblings to come, a last one, passing by, and cut off."""

    fork: str = "├╴"
    last: str = "└╴"
    beside: str = "│ "
    beyond: str = "  "
    cut: str = "…"


UNICODE = Style()
#: For terminals that know no more.
ASCII = Style("|-", "`-", "| ", "  ", "~")


@dataclass(frozen=True, slots=True)
class Branch:
    """A line as it is drawn.

    Attributes:
        line: The line.
        guides: What stands before its name.
        hidden: Lines below it that are not shown.
    """

    line: Line
    guides: str
    hidden: int


def forest(lines: Sequence[Line], limit: int | None, width: int, style: Style = UNICODE) -> list[Branch]:
    """Lay lines out as a forest, each below the one its weights came from.

    Args:
        lines: The most interesting first, which is always shown. Each comes with all the lines it descends from.
        limit: No line beyond so many, if the first can do with that; None shows all.
        width: At most so many characters of guides; what is deeper loses those on the left.
        style: What guides are drawn with.
    """
    parents = _parents(lines)
    shown = _choose(parents, len(lines) if limit is None else limit)
    hidden = _hidden(parents, shown)
    below: dict[int, list[int]] = defaultdict(list)
    for index in shown:
        if (parent := parents[index]) is not None:
            below[parent].append(index)
    for children in below.values():
        children.sort(key=lambda child: (lines[child].first.age[0], lines[child].first.key))
    walk = _walk(_roots(parents, shown), below, width, style)
    return [Branch(lines[index], guides, hidden[index]) for index, guides in walk]


def _parents(lines: Sequence[Line]) -> list[int | None]:
    """For each line, that which its weights came from, if it is among them."""
    home: dict[SegmentKey, int] = {s.key: index for index, line in enumerate(lines) for s in line.segments}
    starts = [line.first.parent for line in lines]
    return [None if parent is None else home.get(parent) for parent in starts]


def _choose(parents: Sequence[int | None], limit: int) -> set[int]:
    """The first, and as many of the others as fit, each with those it descends from."""
    shown: set[int] = set()
    for index in range(len(parents)):
        chain = list(_climb(parents, index, shown))
        if index == 0 or len(shown) + len(chain) <= limit:
            shown.update(chain)
        if len(shown) >= limit:
            break
    return shown


def _climb(parents: Sequence[int | None], index: int | None, until: Iterable[int]) -> Iterator[int]:
    """The line and those it descends from, up to one of `until`."""
    while index is not None and index not in until:
        yield index
        index = parents[index]


def _hidden(parents: Sequence[int | None], shown: set[int]) -> Mapping[int, int]:
    """How many lines that are not shown descend from each that is."""
    nearest: dict[int, int | None] = {index: index for index in shown}
    for index in range(len(parents)):
        chain = list(_climb(parents, index, nearest))
        if chain:
            above = parents[chain[-1]]
            nearest.update(dict.fromkeys(chain, None if above is None else nearest[above]))
    return Counter(near for index, near in nearest.items() if near is not None and index not in shown)


def _roots(parents: Sequence[int | None], shown: set[int]) -> list[int]:
    """Those that are shown below no other, that of the most interesting line first."""
    seen: set[int] = set()
    found: list[int] = []
    for index in sorted(shown):
        chain = list(_climb(parents, index, seen))
        seen.update(chain)
        if chain and parents[chain[-1]] is None:
            found.append(chain[-1])
    return found


def _walk(
    roots: Sequence[int], below: Mapping[int, Sequence[int]], width: int, style: Style
) -> Iterator[tuple[int, str]]:
    """Lines from the top, with their guides; without recursion, for lines may be thousands deep."""
    waiting = [(root, "", "") for root in reversed(roots)]
    while waiting:
        index, guides, margin = waiting.pop()
        yield index, guides
        children = below.get(index, ())
        for child in reversed(children):
            is_last = child == children[-1]
            own = cut(margin + (style.last if is_last else style.fork), width, style)
            waiting.append((child, own, cut(margin + (style.beyond if is_last else style.beside), width, style)))


def cut(guides: str, width: int, style: Style) -> str:
    """Guides no wider than `width`."""
    return guides if len(guides) <= width else style.cut + guides[len(guides) - width + 1 :]
