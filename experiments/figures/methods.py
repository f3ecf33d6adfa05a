"""Which method learns most, forgets least, and at what cost? From the records of a sweep alone.

A sweep whose points set the whole adapter compares methods, each at its own best learning rate. The
intervals of differences to LoRA are a paired bootstrap over held-out items and seeds; the cost of a
step is that of `python -m experiments.benchmarks.methods`, where its JSON is there.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments._report import words
from experiments._report.page import Block, Figure, Table, Text, escape
from experiments._report.style import GRID, INK, MUTED, SERIES
from experiments._report.tables import Rows as Cells
from experiments._report.words import ABSENT
from experiments._sweep.items import DRAWS, SHARE, ByUnit, Difference, difference
from experiments._sweep.reduce import Group, Reduced, Stat, stat
from experiments._sweep.rows import Row
from experiments.figures import curves, panels, ranks
from experiments.figures.labels import place
from experiments.figures.training import STYLE, saved
from lorax.io.json_file import read_json

AXIS, REFERENCE = "adapter", "LoRA"
"""What is compared, and with which of them."""

FORGOTTEN = "retention/forgetting"

COSTS = pathlib.Path(__file__).parent.parent / "benchmarks/results/methods_cpu_2_cores.json"

SAID = (
    "Each method is at its own best learning rate, of as many as every other had, chosen on "
    f"validation. *Less {REFERENCE}* is the difference to it with an interval that holds "
    f"{SHARE:.0%} of {DRAWS:,} draws of a paired bootstrap: test items (of *forgetting*, items of "
    "the retention set) and seeds are drawn again, alike for both; bold where it leaves zero out. "
    "A few seeds say little of how much seeds matter."
)


@dataclasses.dataclass(frozen=True)
class Method:
    """One method at its best rate.

    Attributes:
      name: of it.
      group: its units.
      apart: {"test": difference to `REFERENCE`, "retention": the same}, those that are known.
      cost: of a step, as the benchmark tells it; empty where it does not.
    """

    name: str
    group: Group
    apart: Mapping[str, Difference]
    cost: Mapping[str, Any]

    @property
    def trainable(self) -> float:
        """Parameters."""
        return self.group.numbers["trainable"].mean


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All methods, the best one first.

    Attributes:
      methods: of which some unit ended.
      number: that they are told by, "test/loss".
      title: it in words.
      base: of the frozen base; None where that is not known.
      work: what the cost of a step was measured on; empty for nothing.
    """

    methods: Sequence[Method]
    number: str
    title: str
    base: Stat | None
    work: str

    def has(self, name: str) -> bool:
        """Whether some unit has this number."""
        return any(name in method.group.numbers for method in self.methods)


def read_costs(file: pathlib.Path = COSTS) -> Mapping[str, Any]:
    """The JSON of the benchmark of methods; empty where it was not run.

    Raises:
      LoraxError: it is damaged.
    """
    return read_json(file) if file.is_file() else {}


def compare(
    rows: Sequence[Row],
    reduced: Reduced,
    config: Mapping[str, Any],
    items: ByUnit,
    costs: Mapping[str, Any],
) -> Comparison | None:
    """The comparison that a sweep is; None where its points set no whole adapter, or not LoRA's.

    Args:
      rows: of all units.
      reduced: them, reduced.
      config: of the page, plain.
      items: of `read_items`.
      costs: of `read_costs`.
    """
    groups = {g.point[AXIS]: g for g in reduced.groups if [*g.point] == [AXIS] and g.best}
    reference = groups.get(REFERENCE)
    if reference is None or len(groups) < 2:
        return None
    methods = []
    for name, group in groups.items():
        found = {of: difference(group, reference, items, of) for of in ("test", "retention")}
        known = {of: one for of, one in found.items() if one and name != REFERENCE}
        methods.append(Method(name, group, known, costs.get("methods", {}).get(name, {})))
    number = next((m.apart["test"].name for m in methods if "test" in m.apart), "")
    number = number or ranks.reported(reduced)
    methods = [method for method in methods if number in method.group.numbers]
    sign = -1 if words.higher_is_better(number) else 1
    methods.sort(key=lambda method: sign * method.group.numbers[number].mean)
    title = ranks.titled(number, config)
    base = stat(row.get(f"base/{number}") for row in rows)
    return Comparison(methods, number, title, base, costs.get("work", ""))


def section(found: Comparison) -> tuple[list[Block], dict[str, bytes]]:
    """(heading, table, words and figures; the figures as PNG by name)."""
    drawn, pngs = figures(found)
    cost = f" Cost of a step: {escape(found.work)}." if found.work else ""
    return [Text("## Methods"), Table(table(found)), Text(SAID + cost), *drawn], pngs


def table(found: Comparison) -> Cells:
    """One row a method, the best one first, below the frozen base."""
    less, forgets, costs = f"less {REFERENCE}", found.has(FORGOTTEN), bool(found.work)
    head = ["method", "best lr", "trainable", found.title, less]
    head += ["forgetting", less] * forgets + ["step / floor", "peak MiB"] * costs
    base = words.number(found.base.mean) if found.base else ABSENT
    frozen = ["frozen base", ABSENT, "0", base, ABSENT]
    rows = [list(map(escape, head)), frozen + [ABSENT] * (len(head) - len(frozen))]
    for method in found.methods:
        numbers, best = method.group.numbers, method.group.best
        rate = f"{best.chosen['lr']:g}" if best and "lr" in best.chosen else ABSENT
        edge = f" ({method.group.edge['lr']})" if "lr" in method.group.edge else ""
        cells = [escape(method.name), rate + edge, f"{method.trainable:,.0f}"]
        cells += [_mean(numbers.get(found.number)), _less(method.apart.get("test"))]
        if forgets:
            cells += [_mean(numbers.get(FORGOTTEN)), _less(method.apart.get("retention"))]
        if costs:
            cells += _cost(method.cost)
        rows.append(cells)
    return rows


def figures(found: Comparison) -> tuple[list[Figure], dict[str, bytes]]:
    """(figures, {name: PNG}) of what there is to draw.

    Raises:
      LoraxError: matplotlib is missing.
    """
    curves.require()
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = [_by_parameters(found), _by_forgetting(found), _apart(found), _costs(found)]
        figures, pngs = [], {}
        for name, figure, caption in filter(None, drawn):
            pngs[name], svg = saved(figure, name)
            figures.append(Figure(name, svg, caption))
    return figures, pngs


def _by_parameters(found: Comparison) -> ranks.Drawn:
    x_of = lambda method: Stat(method.trainable, None, 1)
    figure = _scatter(found, x_of, "trainable parameters", log=True)
    return "by_parameters", figure, f"{found.title} against trainable parameters; {_BARS}."


def _by_forgetting(found: Comparison) -> ranks.Drawn:
    if not found.has(FORGOTTEN):
        return None
    told = "forgetting: loss on the old text above that of the frozen base (nats/token)"
    figure = _scatter(found, lambda method: method.group.numbers.get(FORGOTTEN), told)
    better = "higher" if words.higher_is_better(found.number) else "lower"
    return (
        "by_forgetting", figure,
        f"{found.title} against what is forgotten; best is {better} and to the left; {_BARS}.",
    )  # fmt: skip


_BARS = "bars are standard errors over seeds, the dotted line is the frozen base where it is near"


def _scatter(
    found: Comparison, x_of: Callable[[Method], Stat | None], label: str, *, log: bool = False
) -> Any:
    """The number of every method against another, each with its name beside it."""
    figure, (axes,) = panels.grid(1, 4.4)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: panels.short(value))
    points = [(m.name, x, m.group.numbers[found.number]) for m in found.methods if (x := x_of(m))]
    for name, x, y in points:
        colour = INK if name == REFERENCE else SERIES[0]
        style: dict[str, Any] = {"color": colour, "ms": 5, "capsize": 2, "elinewidth": 0.9}
        axes.errorbar(x.mean, y.mean, xerr=x.error, yerr=y.error, fmt="o", **style)
    means = [y.mean for *_, y in points]
    reach = 0.25 * (max(means) - min(means))
    if found.base and min(means) - reach <= found.base.mean <= max(means) + reach:
        axes.axhline(found.base.mean, color=MUTED, ls=(0, (1, 1.5)), lw=1.2)
    axes.margins(0.08)
    axes.set_title(found.title)
    axes.set_xlabel(label)
    axes.grid(color=GRID, lw=0.8)
    panels.bare(axes)
    place(axes, {name: (x.mean, y.mean) for name, x, y in points})
    return figure


def _apart(found: Comparison) -> ranks.Drawn:
    """Differences to the reference with their intervals, one line of text a method."""
    methods = [method for method in found.methods if method.apart]
    names = [of for of in ("test", "retention") if any(of in m.apart for m in methods)]
    if not methods:
        return None
    figure, grid = _lines(methods, len(names))
    for axes, of in zip(grid, names, strict=True):
        for at, method in enumerate(methods):
            if one := method.apart.get(of):
                sides = [[one.mean - one.low], [one.high - one.mean]]
                colour = _judged(one)
                axes.errorbar(one.mean, at, xerr=sides, fmt="o", color=colour, ms=4, capsize=2)
        axes.axvline(0, color=INK, lw=0.9)
        told = "forgetting" if of == "retention" else words.score(found.number)
        axes.set_title(f"{told} less that of {REFERENCE}")
    return (
        "less_lora", figure,
        f"Differences to {REFERENCE} with {SHARE:.0%} intervals of the paired bootstrap: blue is "
        "better, orange worse, grey not told apart.",
    )  # fmt: skip


def _costs(found: Comparison) -> ranks.Drawn:
    methods = [method for method in found.methods if method.cost]
    if not methods:
        return None
    figure, (time, memory) = _lines(methods, 2)
    for at, method in enumerate(methods):
        colour = INK if method.name == REFERENCE else SERIES[0]
        step = method.cost["over_floor"]
        sides = [[step["median"] - step["low"]], [step["high"] - step["median"]]]
        time.errorbar(step["median"], at, xerr=sides, fmt="o", color=colour, ms=4, capsize=2)
        memory.plot(method.cost["memory_mib"]["peak"], at, "o", color=colour, ms=4)
    time.set_title("time of a step over the floor")
    memory.set_title("peak memory of a step (MiB)")
    return "costs", figure, (
        f"Cost of a step: {escape(found.work)}; median, lowest and highest of rounds in turn. The "
        "floor is the bare model, forward and backward."
    )  # fmt: skip


def _lines(methods: Sequence[Method], count: int) -> tuple[Any, list[Any]]:
    """`count` panels side by side, one line of text a method, the first one on top."""
    figure, grid = panels.grid(count, 0.9 + 0.2 * len(methods))
    for number, axes in enumerate(grid):
        names = [method.name for method in methods]
        axes.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(color=GRID, lw=0.8)
        panels.bare(axes)
    return figure, grid


def _judged(one: Difference) -> str:
    if not one.clear:
        return MUTED
    better = (one.mean > 0) == words.higher_is_better(one.name)
    return SERIES[0] if better else SERIES[1]


def _less(one: Difference | None) -> str:
    if one is None:
        return ABSENT
    text = f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
    return f"**{text}**" if one.clear else text


def _mean(found: Stat | None) -> str:
    return words.mean(found.mean, found.error or None) if found else ABSENT


def _cost(cost: Mapping[str, Any]) -> list[str]:
    if not cost:
        return [ABSENT, ABSENT]
    return [f"{cost['over_floor']['median']:.2f}", f"{cost['memory_mib']['peak']:,.0f}"]
