"""Looking at figures as a program can: what artists hold, and whether words can be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text


def drawn(figure: Figure, name: str, panel: int = 0) -> Any:
    """The artist with this gid in a panel."""
    (found,) = all_drawn(figure, name, panel)
    return found


def all_drawn(figure: Figure, name: str, panel: int = 0) -> list[Any]:
    """All artists with this gid in a panel."""
    return list(figure.axes[panel].findobj(lambda artist: artist.get_gid() == name))


def points(figure: Figure, name: str, panel: int = 0) -> list[tuple[float, float]]:
    """Where a marker or a line's corners are."""
    artist = drawn(figure, name, panel)
    found = artist.get_xydata() if hasattr(artist, "get_xydata") else artist.get_offsets()
    return [(float(x), float(y)) for x, y in found]


def strokes(figure: Figure, name: str, panel: int = 0) -> list[list[tuple[float, float]]]:
    """The lines of a collection, cut where they have gaps."""
    found: list[list[tuple[float, float]]] = []
    for path in drawn(figure, name, panel).get_paths():
        is_gap = np.isnan(path.vertices).any(axis=1)
        pieces = np.split(path.vertices, np.flatnonzero(is_gap))
        rows = [piece[~np.isnan(piece).any(axis=1)] for piece in pieces]
        found += [[(float(x), float(y)) for x, y in piece] for piece in rows if len(piece)]
    return found


def titles(figure: Figure) -> list[str]:
    """Titles of all panels that have one."""
    return [title for axes in figure.axes if (title := axes.get_title(loc="left"))]


def legend(figure: Figure) -> list[str]:
    """Entries of the legend below."""
    return [entry.get_text() for found in figure.legends for entry in found.get_texts()]


def words(figure: Figure) -> list[str]:
    """All that is written."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def illegible(figure: Figure) -> list[Any]:
    """Pairs of words that lie over each other, and words beyond the edge."""
    figure.draw_without_rendering()
    hidden = set(_ticks_out_of_sight(figure))
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in shown if text not in hidden]
    edge = figure.bbox.padded(2)
    clashes: list[Any] = [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.overlaps(two)]
    return clashes + [name for name, box in boxes if not (edge.contains(*box.min) and edge.contains(*box.max))]


def _ticks_out_of_sight(figure: Figure) -> Iterator[Text]:
    """matplotlib makes labels beyond the limits too, and does not draw them."""
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)
