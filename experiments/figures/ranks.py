"""How does quality depend on rank and on learning rate? Drawn from the rows of a sweep alone.

Of a sweep without ranks, another axis of numbers takes the place of rank, or each group its own.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments._report import words
from experiments._report.page import Figure
from experiments._report.style import GRID, INK, MUTED, SERIES
from experiments._sweep.reduce import Group, Reduced, stat
from experiments._sweep.rows import Row
from experiments.figures import curves, panels
from experiments.figures.training import DASHES, STYLE, saved


@dataclasses.dataclass(frozen=True)
class Series:
    """Groups that differ in one axis of numbers alone.

    Attributes:
      label: what they share.
      groups: {value of the axis: group}, rising.
    """

    label: str
    groups: Mapping[float, Group]


def draw(
    rows: Sequence[Row], reduced: Reduced, folder: pathlib.Path, config: Mapping[str, Any] = {}
) -> list[pathlib.Path]:
    """Writes the figures as PNG into `folder`, which is made; their paths.

    Args:
      rows, reduced, config: as for `figures`.
      folder: of the pictures.

    Raises:
      LoraxError: matplotlib is missing.
    """
    _, pngs = figures(rows, reduced, config)
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in pngs.items():
        (folder / f"{name}.png").write_bytes(png)
    return [folder / f"{name}.png" for name in pngs]


def figures(
    rows: Sequence[Row], reduced: Reduced, config: Mapping[str, Any] = {}
) -> tuple[list[Figure], dict[str, bytes]]:
    """(figures, {name: PNG}) of what there is to draw.

    Args:
      rows: of the sweep's units.
      reduced: them, reduced.
      config: of the page, which tells the unit of the loss.

    Raises:
      LoraxError: matplotlib is missing.
    """
    curves.require()
    import matplotlib

    axis, series = arranged(reduced)
    told = reported(reduced)
    with matplotlib.rc_context(STYLE):
        drawn = [
            _by_value(rows, series, axis, told, titled(told, config)),
            _by_rate(series, axis, reduced, titled(reduced.by, config)),
            _best_rate(series, axis, reduced),
        ]
        found, pngs = [], {}
        for name, figure, caption in filter(None, drawn):
            pngs[name], svg = saved(figure, name)
            found.append(Figure(name, svg, caption))
    return found, pngs


def arranged(reduced: Reduced) -> tuple[str, list[Series]]:
    """(axis along which the groups are drawn, the series); the axis is empty where there is none.

    Groups without a best choice are left out.
    """
    groups = [group for group in reduced.groups if group.best]
    names = dict.fromkeys(name for group in groups for name in group.point)
    order = sorted(names, key=lambda name: name != "rank")
    for axis in order:
        sorted_: dict[str, dict[float, Group]] = {}
        for group in groups:
            value, rest = group.point.get(axis), {n: v for n, v in group.point.items() if n != axis}
            if not isinstance(value, int | float) or isinstance(value, bool):
                break
            sorted_.setdefault(words_of(rest), {})[value] = group
        else:
            if any(len(members) > 1 for members in sorted_.values()):
                return axis, [Series(s, dict(sorted(m.items()))) for s, m in sorted_.items()]
    return "", [Series(words_of(group.point), {0.0: group}) for group in groups]


def reported(reduced: Reduced) -> str:
    """The number that is told: that of the test part where there is one, else what was compared."""
    test = reduced.by.replace("validation/", "test/", 1)
    return test if any(test in group.numbers for group in reduced.groups) else reduced.by


Drawn = tuple[str, Any, str] | None


def _by_value(
    rows: Sequence[Row], series: Sequence[Series], axis: str, name: str, title: str
) -> Drawn:
    """The number of the best choice against rank, with its standard error."""
    series = [s for s in series if any(name in group.numbers for group in s.groups.values())]
    if not name or not series:
        return None
    chosen = ", each at its best rate" if any(len(g.tried) > 1 for g in _groups(series)) else ""
    means = [g.numbers[name] for g in _groups(series) if name in g.numbers]
    errors = any(value.error for value in means)
    caption = f"{title}{chosen}{'; bars are standard errors over seeds' if errors else ''}."
    if not axis:
        return "best", _dots(series, name, title), caption
    figure, (axes,) = panels.grid(1, 3.2)
    for number, one in enumerate(series):
        found = {x: g.numbers[name] for x, g in one.groups.items() if name in g.numbers}
        panels.bars(axes, found, one.label or "trained", number)
    base = stat(row.get(f"base/{name}") for row in rows)
    low, high = (f(value.mean for value in means) for f in (min, max))
    if base and low - 2 * (high - low) <= base.mean <= high + 2 * (high - low):
        axes.axhline(base.mean, color=MUTED, ls=(0, (1, 1.5)), lw=1.2, label="frozen base")
    panels.dress(axes, title, panels.named(axis), _values(series))
    panels.legend(figure)
    return f"best_by_{axis}", figure, caption


def _dots(series: Sequence[Series], name: str, title: str) -> Any:
    """One line of text a group, and its number beside it."""
    figure, (axes,) = panels.grid(1, 0.9 + 0.28 * len(series))
    for place, one in enumerate(series):
        if value := one.groups[0.0].numbers.get(name):
            style: dict[str, Any] = {"fmt": "o", "color": SERIES[0], "ms": 5, "capsize": 3}
            axes.errorbar(value.mean, place, xerr=value.error, **style)
    axes.set_yticks(range(len(series)), [one.label for one in series])
    axes.set_ylim(len(series) - 0.5, -0.5)
    axes.set_title(title)
    axes.grid(color=GRID, lw=0.8)
    panels.bare(axes)
    return figure


def _by_rate(series: Sequence[Series], axis: str, reduced: Reduced, title: str) -> Drawn:
    """The number that rates are compared by against the rate, one line a rank, the best ringed."""
    if reduced.axes != ("lr",) or not series:
        return None
    if not axis:  # one panel, a line a group
        lines = {one.label: one.groups[0.0] for one in series}
        drawn = [("", lines)]
    else:
        name = "r" if axis == "rank" else axis
        drawn = [(s.label, {f"{name} = {x:g}": g for x, g in s.groups.items()}) for s in series]
    labels = list(dict.fromkeys(label for _, lines in drawn for label in lines))
    figure, grid = panels.grid(len(drawn), 3.0, share=True)
    for axes, (label, lines) in zip(grid, drawn, strict=True):
        for text, group in lines.items():
            _rates(axes, group, text, labels.index(text), len(labels))
        _crosses(axes, {labels.index(text): g for text, g in lines.items()}, len(labels))
        panels.dress(axes, label or title, "learning rate", _rates_of(lines.values()))
    for axes in grid[:: min(len(drawn), panels.PER_ROW)] if drawn[0][0] else ():
        axes.set_ylabel(title)
    _cut(grid[0], [group for _, lines in drawn for group in lines.values()])
    panels.legend(figure)
    several = any(t.score and t.score.n > 1 for s in series for g in s.groups.values()
                  for t in g.tried)  # fmt: skip
    return (
        "by_rate", figure,
        f"{title} against the learning rate{', mean over seeds' if several else ''}; the best rate "
        "is ringed, a cross is a rate at which a unit became NaN. Lines that leave the panel are "
        "of rates far too high or too low.",
    )  # fmt: skip


def _rates(axes: Any, group: Group, label: str, number: int, count: int) -> None:
    shade = _shade(number, count)
    found = [(t.chosen["lr"], t.score.mean) for t in group.tried if t.score]
    style: dict[str, Any] = {"color": shade, "ls": DASHES[number % len(DASHES)]}
    mark = panels.MARKERS[number % len(panels.MARKERS)]
    axes.plot(*zip(*found, strict=True), **style, lw=1.5, marker=mark, ms=4, label=label)
    if group.best and group.best.score:
        best = (group.best.chosen["lr"], group.best.score.mean)
        axes.plot(*best, marker="o", ms=10, mfc="none", mec=INK, mew=1.3, ls="")


def _crosses(axes: Any, groups: Mapping[int, Group], count: int) -> None:
    """One for each rate that failed of {number of a line: group}, below others of that rate."""
    place, below = axes.get_xaxis_transform(), collections.Counter[float]()
    for number, group in groups.items():
        for rate in (tried.chosen["lr"] for tried in group.tried if tried.failed):
            y, shade = 0.97 - 0.06 * below[rate], _shade(number, count)
            axes.plot(rate, y, "x", color=shade, ms=6, transform=place)
            below[rate] += 1


def _shade(number: int, count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](0.88 * number / max(1, count - 1))


def _best_rate(series: Sequence[Series], axis: str, reduced: Reduced) -> Drawn:
    """The best rate against rank, beside the rates that were tried."""
    if reduced.axes != ("lr",) or not axis:
        return None
    figure, (axes,) = panels.grid(1, 2.8)
    open_ended = False
    for number, one in enumerate(series):
        rates = [group.best.chosen["lr"] for group in one.groups.values() if group.best]
        # side by side where two series have one rate
        shift = 2 ** (0.08 * (number - (len(series) - 1) / 2))
        values = [x * shift for x in one.groups]
        axes.plot(values, rates, **panels.look(number), ms=6, label=one.label)
        for x, rate, group in zip(values, rates, one.groups.values(), strict=True):
            if "lr" in group.edge:
                open_ended = True
                up = group.edge["lr"] == "highest"
                axes.annotate(
                    "", (x, rate * (1.6 if up else 1 / 1.6)), (x, rate),
                    arrowprops={"arrowstyle": "->", "color": MUTED},
                )  # fmt: skip
    tried = sorted({t.chosen["lr"] for g in _groups(series) for t in g.tried})
    panels.dress(axes, "best learning rate", panels.named(axis), _values(series))
    axes.set_yscale("log")
    panels.ticks(axes.yaxis, tried)
    axes.set_ylim(tried[0] / 1.7, tried[-1] * 1.7)
    panels.legend(figure)
    arrow = "; an arrow says that the best was the last one tried" if open_ended else ""
    return f"best_rate_by_{axis}", figure, f"The best rate, of those at the grid lines{arrow}."


def _cut(axes: Any, groups: Iterable[Group]) -> None:
    """Shows the best of every line with its neighbours, and not how far the worst went."""
    seen: list[float] = []
    means: list[float] = []
    for group in groups:
        tried = [t for t in group.tried if t.score]
        means += [t.score.mean for t in tried if t.score]
        place = next((i for i, t in enumerate(tried) if t is group.best), None)
        if place is not None:
            seen += [t.score.mean for t in tried[max(0, place - 1) : place + 2] if t.score]
    if seen:
        axes.set_ylim(_limits(seen, means))


def _limits(seen: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Around all that must be seen, and around others that are near: no point is cut in half."""
    low, high = min(seen), max(seen)
    while True:
        reach = 0.25 * (high - low) or 0.05
        near = [x for x in others if low - reach <= x <= high + reach]
        if low <= min(near, default=low) and max(near, default=high) <= high:
            return low - 0.4 * reach, high + 0.4 * reach
        low, high = min(low, *near), max(high, *near)


def _groups(series: Iterable[Series]) -> list[Group]:
    return [group for one in series for group in one.groups.values()]


def _values(series: Iterable[Series]) -> list[float]:
    return sorted({value for one in series for value in one.groups})


def _rates_of(groups: Iterable[Group]) -> list[float]:
    return sorted({tried.chosen["lr"] for group in groups for tried in group.tried})


def titled(name: str, config: Mapping[str, Any]) -> str:
    """A score in words, with its unit."""
    unit = words.unit(name, config)
    return words.score(name) + (f" ({unit})" if unit else "")


def words_of(point: Mapping[str, Any]) -> str:
    """{"where": "q,v", "rank": 4} is "q,v, rank 4"."""
    return ", ".join(v if isinstance(v, str) else f"{n} {v}" for n, v in point.items())
