"""How are panels of a sweep laid out? Axes in a grid, ticks at the values that were tried."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._report.style import GRID, INK, SERIES
from experiments._sweep.reduce import Stat
from experiments.figures.training import DASHES, WIDTH

MARKERS = "osD^vP*X"
PER_ROW = 2
"""Panels side by side."""

TICKS = 12
"""Values of an axis that are all told."""


def grid(count: int, height: float, *, share: bool = False) -> tuple[Any, list[Any]]:
    """(figure, one set of axes a panel), `PER_ROW` side by side.

    Args:
      count: of panels, at least one.
      height: of a row, in inches.
      share: whether all have the same range.
    """
    import matplotlib.figure

    rows, columns = -(-count // PER_ROW), min(count, PER_ROW)
    figure = matplotlib.figure.Figure(figsize=(WIDTH, rows * height), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat
    found = list(cells)
    for empty in found[count:]:
        empty.remove()
    return figure, found[:count]


def dress(axes: Any, title: str, label: str, values: Sequence[float]) -> None:
    """Title, label and ticks of x at `values`, logarithmic where all are positive."""
    axes.set_title(title)
    axes.set_xlabel(label)
    if min(values) > 0:
        axes.set_xscale("log", base=2)
        ticks(axes.xaxis, values)
    axes.grid(color=GRID, lw=0.8)
    bare(axes)


def bare(axes: Any) -> None:
    """Nothing but what is needed, the grid behind."""
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at the values themselves, if they are not too many."""
    from matplotlib import ticker

    few = len(values) <= TICKS
    axis.set_major_locator(
        ticker.FixedLocator(list(values)) if few else ticker.LogLocator(10, (1, 2, 5))
    )
    axis.set_major_formatter(lambda value, _: short(value))
    axis.set_minor_locator(ticker.NullLocator())


def short(value: float) -> str:
    """A tick: 0.001, 1,000 and 1e38."""
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    digits, e, power = f"{value:.3g}".partition("e")
    return digits + (f"e{int(power)}" if e else "")


def legend(figure: Any) -> None:
    """Below all panels, which have the same lines; none for a single line."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(6, len(labels)),
            frameon=False, labelcolor=INK,
        )  # fmt: skip


def bars(axes: Any, found: Mapping[float, Stat], label: str, number: int) -> None:
    """The line of a series, the `number`-th, with standard errors where there are such."""
    means = [value.mean for value in found.values()]
    errors = [value.error or math.nan for value in found.values()]  # NaN draws no bar, not a stub
    axes.errorbar(list(found), means, yerr=errors, **look(number), ms=5, capsize=3, label=label)


def look(number: int) -> dict[str, Any]:
    """Colour, dash and mark of the `number`-th series, each enough to tell it from the others."""
    dash, mark = DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]
    return {"color": SERIES[number % len(SERIES)], "ls": dash, "marker": mark, "lw": 1.6}


def named(axis: str) -> str:
    """What stands below an axis."""
    return {"rank": "rank r"}.get(axis, axis)
