"""Where do the names of points go? Beside each, where they hide least of one another."""

import itertools
from collections.abc import Mapping
from typing import Any

from experiments._report.style import MUTED

SIZE = 7.5
"""Points of the letters."""

_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_AWAY = (5, 11, 18, 27)

Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge, in pixels."""


def place(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes the name of every point beside it; limits and scales of `axes` are final then.

    Each in turn takes, of places around its point, the one that overlaps least with points and
    with names before it; one that is farther from its point has a line to it.

    Args:
      axes: of matplotlib.
      points: {name: (x, y)}.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # or limits and layout, and so the pixels, are not known yet
    scale = figure.dpi / 72
    pixels = {name: axes.transData.transform(point) for name, point in points.items()}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in pixels.values()]
    frame = axes.get_window_extent()
    for name, (x, y) in sorted(pixels.items(), key=lambda item: -item[1][1]):
        wide, high = 0.62 * SIZE * scale * len(name), 1.2 * SIZE * scale
        found = []
        for away, (right, up) in itertools.product(_AWAY, _SIDES):
            left = x + right * away * scale - wide * (1 - right) / 2
            low = y + up * away * scale - high * (1 - up) / 2
            box = (left, low, left + wide, low + high)
            outside = box[0] < frame.x0 or box[2] > frame.x1 or not frame.y0 < low < frame.y1 - high
            cost = sum(_overlap(box, other) for other in taken) + 1e4 * outside
            found.append((cost + away, away, (right, up), box))
        _, away, (right, up), box = min(found, key=lambda one: one[0])
        taken.append(box)
        axes.annotate(
            name, points[name], (right * away, up * away), textcoords="offset points",
            fontsize=SIZE, ha=("right", "center", "left")[right + 1],
            va=("top", "center", "bottom")[up + 1],
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": MUTED} if away > 5 else None,
        )  # fmt: skip


def _overlap(one: Box, other: Box) -> float:
    """The area that two have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)
