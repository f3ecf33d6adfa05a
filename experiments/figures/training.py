"""How did training go? Loss, evaluations, learning rate and gradient norm of one or many runs."""

import dataclasses
import io
import itertools
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._report.style import GRID, INK, MUTED, SERIES, themed

DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
POINTS, LEAST, MOST = 3000, 40, 1200
"""Points of one panel over all its lines, and of one line: more are not seen, and are heavy."""

ROUND = (1, 2, 2.5, 5, 10)
"""Ticks are these, times a power of ten."""

BASELINE_DASHES = ((0, (1, 1.5)), (0, (4, 2)))

SMOOTHED_FROM, RAW_UP_TO, MARKED_UP_TO = 20, 6, 25
"""Points from which a line is smoothed, lines up to which the points are drawn beside it, and
points up to which each is marked."""

WIDTH = 8.0
"""Inches of every figure."""

STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold", "text.color": INK,
    "axes.labelcolor": MUTED, "axes.edgecolor": MUTED, "axes.titlecolor": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.linewidth": 0.8, "svg.fonttype": "none",
    "svg.hashsalt": "lorax", "text.parse_math": False, "axes.titlelocation": "left",
    "font.family": ["DejaVu Sans"],
}  # fmt: skip
"""Of every figure, as matplotlib calls it."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One run in one panel; NaN where the number was not finite."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One number of all runs over the steps.

    Attributes:
      title: with the unit.
      lines: a run has the same place, and so the same colour, in every panel; it may be empty.
      baselines: {name: value} of horizontal lines, drawn where they lie near the curves.
      smooth: whether the moving mean is drawn, over the numbers themselves.
      markers: whether each number is marked.
    """

    title: str
    lines: Sequence[Line]
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    smooth: bool = False
    markers: bool = False


def draw(name: str, panels: Sequence[Panel], *, columns: int, height: float) -> tuple[bytes, str]:
    """(PNG on white, SVG whose colours follow the page) of panels in a grid.

    Args:
      name: begins the ids in the SVG, so that several may stand on one page.
      panels: at least one.
      columns: panels in a row.
      height: of a row, in inches.

    The same panels give the same bytes.
    """
    import matplotlib
    import matplotlib.figure

    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have
        rows = -(-len(panels) // columns)
        legend_columns, legend_rows = _legend(panels)
        figure = matplotlib.figure.Figure(
            figsize=(WIDTH, rows * height + 0.2 * legend_rows), layout="constrained"
        )
        grid = iter(figure.subplots(rows, columns, squeeze=False).flat)
        named: dict[str, Any] = {}
        for panel in panels:
            named |= _panel(next(grid), panel, labels, columns)
        for empty in grid:
            empty.remove()
        if len(named) > 1:
            # a label that begins with _ would be passed over
            texts = [_short(label).replace("_", "\u02cd", label.startswith("_")) for label in named]
            figure.legend(
                named.values(), texts, loc="outside lower center", ncols=legend_columns,
                frameon=False, handlelength=2.2, columnspacing=1.5, labelcolor=INK,
            )  # fmt: skip
        return saved(figure, name)


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each number and its neighbours, up to `reach` on either side; NaN is left out."""
    counts = [0, *itertools.accumulate(map(math.isfinite, values))]
    sums = [0.0, *itertools.accumulate(v if math.isfinite(v) else 0.0 for v in values)]
    found = []
    for place in range(len(values)):
        first, last = max(0, place - reach), min(len(values), place + reach + 1)
        count = counts[last] - counts[first]
        found.append((sums[last] - sums[first]) / count if count else math.nan)
    return found


def thinned(steps: Sequence[float], values: Sequence[float], most: int) -> tuple[list, list]:
    """At most about `most` points of a line: of each stretch its lowest and its highest."""
    size = -(-2 * len(values) // max(most, 2))
    if size <= 2:
        return list(steps), list(values)
    kept: list[int] = []
    for start in range(0, len(values), size):
        places = range(start, min(start + size, len(values)))
        finite = [i for i in places if math.isfinite(values[i])] or [start]
        kept += sorted({min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)})
    kept = sorted({0, *kept, len(values) - 1})
    return [steps[i] for i in kept], [values[i] for i in kept]


def _panel(axes: Any, panel: Panel, labels: Sequence[str], columns: int) -> dict[str, Any]:
    """Draws it; {label: handle} for the legend."""
    named: dict[str, Any] = {}
    most = min(MOST, max(LEAST, POINTS // max(len(panel.lines), 1)))
    for line in panel.lines:
        if not line.steps:
            continue
        style: dict[str, Any] = _look(labels.index(line.label), len(labels))
        smooth = panel.smooth and len(line.values) >= SMOOTHED_FROM
        if smooth and len(panel.lines) <= RAW_UP_TO:
            axes.plot(*thinned(line.steps, line.values, most), **style, lw=0.7, alpha=0.35)
        reach = max(1, len(line.values) // 80)
        # twice, so that one high number makes a hill and not a box
        values = smoothed(smoothed(line.values, reach), reach) if smooth else line.values
        marked = len(values) == 1 or (panel.markers and len(values) <= MARKED_UP_TO)
        dots = {"marker": "o", "ms": 3} if marked else {}
        steps, values = thinned(line.steps, values, most)
        (named[line.label],) = axes.plot(steps, values, **style, **dots, lw=1.6)
    values = [v for line in panel.lines for v in line.values if math.isfinite(v)]
    if not values:
        axes.text(0.5, 0.5, "no finite number", ha="center", transform=axes.transAxes, color=MUTED)
        values = [0.0]
    low, high = min(values), max(values)
    for (name, value), dash in zip(panel.baselines.items(), itertools.cycle(BASELINE_DASHES)):
        if low - (high - low) <= value <= high + (high - low):
            named[name] = axes.axhline(value, color=MUTED, ls=dash, lw=1.2)
    _dress(axes, panel, columns=columns, logarithmic=low > 0 and high > 20 * low)
    return named


def _dress(axes: Any, panel: Panel, *, columns: int, logarithmic: bool) -> None:
    from matplotlib import ticker

    class Plain(ticker.Formatter):
        """Thousands separators, and as many decimals as the neighbours have."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,.0f}" if abs(x) >= 1000 and x == int(x) else f"{x:,.6g}"

        def format_ticks(self, values: Sequence[float]) -> list[str]:
            said = [self(value) for value in values]
            if logarithmic or any("e" in text for text in said):
                return said
            digits = max((len(text.partition(".")[2]) for text in said), default=0)
            return [f"{value:,.{digits}f}" for value in values]

    if logarithmic:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(
            ticker.LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,))
        )
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=ROUND))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(9 // columns + 1, integer=True, steps=ROUND))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(Plain())
    axes.set_title(panel.title + (", logarithmic" if logarithmic else ""))
    axes.set_xlabel("step")
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=3)
    axes.tick_params(axis="y", which="both", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(panels: Sequence[Panel]) -> tuple[int, int]:
    """(columns, rows) of a legend of everything that could be in it."""
    names = {line.label for panel in panels for line in panel.lines}
    names |= {name for panel in panels for name in panel.baselines}
    columns = max(1, min(len(names), 115 // (max(map(len, map(_short, names)), default=0) + 8)))
    return columns, -(-len(names) // columns) if len(names) > 1 else 0


def _look(number: int, count: int) -> dict[str, Any]:
    if count <= len(SERIES) * len(DASHES):
        return {"color": SERIES[number % len(SERIES)], "ls": DASHES[number // len(SERIES)]}
    import matplotlib

    return {"color": matplotlib.colormaps["viridis"](0.05 + 0.85 * number / (count - 1))}


def _short(label: str, most: int = 44) -> str:
    """A long label with its middle left out."""
    label = re.sub(r"\s+", " ", label)
    return label if len(label) <= most else f"{label[: most // 2]}…{label[-most // 2 + 1 :]}"


def saved(figure: Any, name: str) -> tuple[bytes, str]:
    """(PNG, SVG) of a figure, both the same bytes for the same figure; `name` as for `draw`."""
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    text = svg.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    mark = lambda tag: themed(re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", tag[0]))
    return png.getvalue(), re.sub("<[^<>]+>", mark, text.strip())  # in tags, never in a run's name
