"""Where do the names of points go? Beside each, where they hide least of one another."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from experiments._report.style import MUTED

SIZE = 7.5
"""Points of the letters."""

_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_AWAY = (5, 11, 18, 27, 38)
_MISTAKEN = 100.0
"""What it costs, in square pixels of overlap, that a name is as near to another point."""
_CROSSED = 60.0
"""What each of a few places along the line to a point costs where it meets a name or a point."""

Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge, in pixels."""


def place(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes the name of every point beside it; limits and scales of `axes` are final then.

    Each in turn takes, of places around its point, the one that overlaps least with points and
    with names before it, and is not nearer to another point; one that is farther away, or near
    others too, has a line to its own.

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
        found, others = [], [point for other, point in pixels.items() if other != name]
        for away, (right, up) in itertools.product(_AWAY, _SIDES):
            left = x + right * away * scale - wide * (1 - right) / 2
            low = y + up * away * scale - high * (1 - up) / 2
            box = (left, low, left + wide, low + high)
            outside = box[0] < frame.x0 or box[2] > frame.x1 or not frame.y0 < low < frame.y1 - high
            own = _distance(box, (x, y))
            nearer = sum(_distance(box, other) <= own + 2 for other in others)
            line = _line((x, y), box) if away > _AWAY[0] else []
            crossed = sum(_overlap(bit, other) > 0 for bit in line for other in taken)
            cost = sum(_overlap(box, other) for other in taken) + 1e4 * outside
            cost += _MISTAKEN * nearer + _CROSSED * crossed + away
            found.append((cost, away, (right, up), [box, *line]))
        _, away, (right, up), boxes = min(found, key=lambda one: one[0])
        taken += boxes
        axes.annotate(
            name, points[name], (right * away, up * away), textcoords="offset points",
            fontsize=SIZE, ha=("right", "center", "left")[right + 1],
            va=("top", "center", "bottom")[up + 1],
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": MUTED} if away > _AWAY[0] else None,
        )  # fmt: skip


def _distance(box: Box, point: tuple[float, float]) -> float:
    """From a point to the nearest of a box."""
    x, y = point
    return math.hypot(max(box[0] - x, x - box[2], 0.0), max(box[1] - y, y - box[3], 0.0))


def _line(point: tuple[float, float], box: Box) -> list[Box]:
    """Places on the way from the edge of a point to the middle of a box, without those inside."""
    (x, y), middle = point, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    long = max(math.hypot(middle[0] - x, middle[1] - y), 1.0)
    bits = []
    for along in range(6, int(long), 4):
        at = x + (middle[0] - x) * along / long, y + (middle[1] - y) * along / long
        if _distance(box, at) > 0:
            bits.append((at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1))
    return bits


def _overlap(one: Box, other: Box) -> float:
    """The area that two have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)
