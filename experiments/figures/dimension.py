"""What is reached with d numbers, and how is it learnt? Drawn from the rows of a study alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments._intrinsic.estimate import Estimate, estimate
from experiments._intrinsic.levels import Level, direct, loras, projections, subspaces
from experiments._intrinsic.rows import Row
from experiments._intrinsic.tables import told
from experiments._intrinsic.threshold import GLOBAL, OWN, Threshold, thresholds
from experiments._report import words
from experiments._report.page import Figure
from experiments._report.style import GRID, INK, MUTED, SERIES
from experiments.figures import curves, panels
from experiments.figures.training import STYLE, saved

DRAWN = 9
"""Learning curves of d's: more are not told apart."""

NEAR = 1.6
"""Within this factor of the crossing d's are drawn once more, larger."""

DASHES = {OWN: (0, (4, 2)), GLOBAL: (0, (6, 1.5, 1, 1.5))}
DOTS = "Means over repeats with standard errors, and every repeat as a small ring"

Drawn = tuple[str, Any, str]


def figures(
    rows: Sequence[Row], study: Mapping[str, Any], config: Mapping[str, Any] = {}
) -> tuple[list[Figure], dict[str, bytes]]:
    """(figures, {name: PNG}): the metric against d, LoRA beside it if measured, learning curves.

    Args:
      rows: of all units.
      study: `config.study`.
      config: of the page, which tells the unit of a loss.

    Raises:
      LoraxError: matplotlib is missing.
    """
    curves.require()
    import matplotlib

    unit = words.unit(study["metric"], config)
    title = words.score(study["metric"]) + (f" ({unit})" if unit else "")
    with matplotlib.rc_context(STYLE):
        drawn = [draw(rows, study, title) for draw in (_by_d, _bridge, _learning)]
        found, pngs = [], {}
        for name, figure, caption in filter(None, drawn):
            pngs[name], svg = saved(figure, name)
            found.append(Figure(name, svg, caption))
    return found, pngs


def _by_d(rows: Sequence[Row], study: Mapping[str, Any], title: str) -> Drawn | None:
    """Mean and every repeat against d, all of them and those near the threshold."""
    series = {name: subspaces(rows, study, name) for name in projections(rows, study)}
    if not _stats(series.values()):
        return None
    found = _searched(rows, study)
    near = _near(found, series[study["projection"]]) if study["projection"] in series else []
    figure, (whole, *zoomed) = panels.grid(2 if near else 1, 3.4)
    for axes, dims in [(whole, _dims(series.values())), *((one, near) for one in zoomed)]:
        for number, (name, levels) in enumerate(series.items()):
            _series(axes, {float(d): one for d, one in levels.items()}, f"{name} subspace", number)
        _dress(axes, rows, study, dims)
        _crossing(axes, found, series)
    whole.set_title(title)
    for axes in zoomed:
        axes.set_title("near the threshold")
        _cut(axes, series.values(), near, thresholds(rows, study))
    _legend(figure, whole)
    return "value_by_d", figure, f"{DOTS}.{_band(found)}"


def _bridge(rows: Sequence[Row], study: Mapping[str, Any], title: str) -> Drawn | None:
    """LoRA at the numbers that its ranks train, on the axes of the searched projection."""
    levels, ranks = subspaces(rows, study, study["projection"]), loras(rows, study)
    if not _stats([levels]) or not _stats([ranks]):
        return None
    figure, (axes,) = panels.grid(1, 3.9)
    _series(axes, {float(d): one for d, one in levels.items()}, f"{study['projection']} subspace",
            0)  # fmt: skip
    _series(axes, {float(one.trained): one for one in ranks.values()}, "LoRA", 1)
    for rank, one in ranks.items():
        if one.stat:
            axes.annotate(f"r = {rank}", (one.trained, one.stat.mean), (8, 6), ha="left",
                          textcoords="offset points", color=MUTED)  # fmt: skip
    _dress(axes, rows, study, [*levels, *(one.trained for one in ranks.values())])
    axes.set_xlabel("numbers that learn")
    found = _searched(rows, study)
    _crossing(axes, found, {study["projection"]: levels})
    axes.set_title(title)
    _legend(figure, axes)
    caption = f"A random subspace of d numbers, and LoRA at the numbers that rank r trains. {DOTS}."
    return "bridge", figure, f"{caption}{_band(found)}"


def _series(axes: Any, levels: Mapping[float, Level], label: str, number: int) -> None:
    """Means with standard errors, every repeat as a small ring, a cross where one failed."""
    colour = panels.look(number)["color"]
    for x, one in levels.items():
        axes.plot([x] * len(one.values), one.values, ls="", marker="o", ms=3.5, mfc="none", mew=0.8,
                  color=colour, alpha=0.7)  # fmt: skip
        if one.failed:
            axes.plot(x, 0.03, "x", color=colour, ms=6, transform=axes.get_xaxis_transform())
    panels.bars(axes, {x: one.stat for x, one in levels.items() if one.stat}, label, number)


def _dress(axes: Any, rows: Sequence[Row], study: Mapping[str, Any], dims: Sequence[int]) -> None:
    """Baseline, thresholds, and an axis of d with ticks at values that were measured."""
    whole = direct(rows, study)
    if whole and whole.stat:
        said = f"direct training, {words.number(whole.stat.mean)}"
        axes.axhline(whole.stat.mean, color=MUTED, lw=1.2, label=said)
    for kind, one in thresholds(rows, study).items():
        said = f"{kind} threshold, {words.number(one.value)}"
        axes.axhline(one.value, color=MUTED, ls=DASHES[kind], lw=1.2, label=said)
    panels.dress(axes, "", "d", dims)
    low, high = min(dims), max(dims)
    margin = (high / low) ** 0.05 if high > low else 1.3
    axes.set_xlim(low / margin, high * margin)
    wanted = [*(d for d in study["grid"] if d in dims), *sorted(dims)]
    apart = max(math.log(high / low) / panels.TICKS, 1e-9)
    kept: list[int] = []
    for d in wanted:  # those of the grid, then others that do not stand too near
        if all(abs(math.log(d / other)) >= apart for other in kept):
            kept.append(d)
    panels.ticks(axes.xaxis, sorted(kept))


def _crossing(axes: Any, found: Estimate | None, series: Mapping[str, Mapping[int, Level]]) -> None:
    """A ring around the first d that passes; where the curve crosses, with its interval."""
    if found is None:
        return
    level = series[found.projection].get(found.published or 0)
    if level and level.stat:
        axes.plot(level.trained, level.stat.mean, "o", ms=11, mfc="none", mec=INK, mew=1.3,
                  label=f"first d that passes, {found.published:,}")  # fmt: skip
    if found.interpolated is None:
        return
    low, high = axes.get_xlim()
    if found.low is not None and found.high is not None:
        ends = max(low, found.low), min(high, found.high)
        axes.axvspan(*ends, color=SERIES[0], alpha=0.14, lw=0)
    said = f"interpolated, {told(found.interpolated)}"
    axes.axvline(found.interpolated, color=SERIES[0], ls=(0, (1, 1)), lw=1.2, label=said)
    axes.set_xlim(low, high)


def _searched(rows: Sequence[Row], study: Mapping[str, Any]) -> Estimate | None:
    """The estimate that the search was for."""
    wanted = study["projection"], study["target"]
    found = (one for one in estimate(rows, study) if (one.projection, one.kind) == wanted)
    return next(found, None)


def _near(found: Estimate | None, levels: Mapping[int, Level]) -> list[int]:
    """The d's around the crossing, if there are more of them beyond."""
    if found is None or found.interpolated is None:
        return []
    near = [d for d in levels if 1 / NEAR < d / found.interpolated < NEAR]
    return near if 3 <= len(near) < len(levels) else []


def _cut(
    axes: Any, series: Iterable[Mapping[int, Level]], dims: Sequence[int],
    limits: Mapping[str, Threshold],
) -> None:  # fmt: skip
    """Shows what was measured at those d's, and the thresholds."""
    inside = [one for levels in series for d, one in levels.items() if dims[0] <= d <= dims[-1]]
    values = [v for one in inside for v in one.values] + [one.value for one in limits.values()]
    margin = 0.08 * (max(values) - min(values))
    axes.set_ylim(min(values) - margin, max(values) + margin)


def _stats(series: Iterable[Mapping[int, Level]]) -> bool:
    return any(one.stat for levels in series for one in levels.values())


def _dims(series: Iterable[Mapping[int, Level]]) -> list[int]:
    return sorted({d for levels in series for d in levels})


def _band(found: Estimate | None) -> str:
    """What the band is, where there is one."""
    if found is None or found.low is None:
        return ""
    return f" The band is the 95 % interval of where the curve crosses the {found.kind} threshold."


def _learning(rows: Sequence[Row], study: Mapping[str, Any], title: str) -> Drawn | None:
    """The mean over repeats after every epoch, of d's evenly chosen, above direct training."""
    import matplotlib

    levels = subspaces(rows, study, study["projection"])
    usable = {d: line for d, one in levels.items() if (line := _mean_curve(one, study))}
    chosen = _chosen(list(usable), DRAWN)
    if not chosen:
        return None
    figure, (axes,) = panels.grid(1, 3.6)
    for number, d in enumerate(chosen):
        shade = matplotlib.colormaps["viridis"](0.9 * number / max(1, len(chosen) - 1))
        axes.plot(*usable[d], color=shade, lw=1.4, label=f"d = {d:,}")
    whole = direct(rows, study)
    if whole and (line := _mean_curve(whole, study)):
        axes.plot(*line, color=INK, lw=1.4, ls=(0, (5, 1.5)), label="direct training")
    for kind, one in thresholds(rows, study).items():
        axes.axhline(one.value, color=MUTED, ls=DASHES[kind], lw=1,
                     label=f"{kind} threshold")  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    axes.grid(color=GRID, lw=0.8)
    panels.bare(axes)
    _legend(figure, axes)
    some = f"; {len(chosen)} of {len(usable)} d's" if len(chosen) < len(usable) else ""
    said = f"Mean over the repeats of each d of the {study['projection']} subspace{some}."
    return "learning_curves", figure, said


def _mean_curve(level: Level, study: Mapping[str, Any]) -> tuple[list[int], list[float]] | None:
    """(epochs, means) of the repeats that did not fail, from the start on if that is known."""
    lines = []
    for row in level.rows:
        if not row.failed and row.curve:
            values = [row.start.get(study["metric"]), *row.curve]
            lines.append([math.nan if v is None else v for v in values])
    if not lines:
        return None
    means = [sum(values) / len(values) for values in zip(*lines, strict=False)]
    first = 1 if math.isnan(means[0]) else 0
    return list(range(first, len(means))), means[first:]


def _chosen(values: Sequence[int], most: int) -> list[int]:
    """At most so many, the first and the last among them, at even distances in order."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(labels), 115 // (max(map(len, labels)) + 8)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK,
        handlelength=2.4, columnspacing=1.5,
    )  # fmt: skip
