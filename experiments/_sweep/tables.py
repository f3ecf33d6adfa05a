"""Which tables does the report of a sweep have? Groups, every choice, how rates move, all units."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments._report import words
from experiments._report.page import code, escape
from experiments._report.tables import Rows, turned
from experiments._report.words import ABSENT
from experiments._sweep.reduce import FROM_RANK, Group, Reduced, Stat, Tried, stat
from experiments._sweep.rows import DONE, FAILED, Row, numbers

RECORDED = ("adapter", "rank", "alpha", "scaling", "initializer", "init_scale", "dropout",
            "targets", "learning_rate")  # fmt: skip
"""What of a row says how its unit was trained."""

WIDEST = 12
"""Choices up to which each has a column."""

_NO_SCORE = ("base/", "majority/")


def scores(rows: Sequence[Row], by: str) -> list[str]:
    """The numbers of held-out parts that the units have, `by` first."""
    names = [name for name in numbers(rows) if "/" in name and not name.startswith(_NO_SCORE)]
    return [*([by] if by else []), *(name for name in names if name != by)]


def same(rows: Sequence[Row]) -> dict[str, Any]:
    """What of `RECORDED` all rows have alike, and have at all."""
    found = {name: [row.get(name) for row in rows] for name in RECORDED}
    return {n: v[0] for n, v in found.items() if v[0] is not None and all(x == v[0] for x in v)}


def adapter(rows: Sequence[Row], config: Mapping[str, Any]) -> str:
    """The page's method in words, without the values in whose place units have their own."""
    fields = {n: _fixed(v) for n, v in config.get("adapter", {}).items()}
    swept = [n for n, v in fields.items() if any(_fixed(row.get(n, v)) != v for row in rows)]
    kept = {name: value for name, value in config.get("adapter", {}).items() if name not in swept}
    text = words.adapter(kept, config.get("also_train"))
    return "; ".join(filter(None, (text, f"swept: {', '.join(swept)}" if swept else "")))


def best(reduced: Reduced, rows: Sequence[Row], config: Mapping[str, Any]) -> Rows:
    """One row a group, that of its best choice, below the frozen base.

    Args:
      reduced: from `reduce`.
      rows: of all units.
      config: of the page, plain.
    """
    names, axes = scores(rows, reduced.by), list(_axes(reduced))
    told = {*same(rows), *axes, *reduced.axes}
    told |= {"learning_rate"} if "lr" in told else set()
    told |= {"targets"} if "where" in told else set()
    tied = [name for name in RECORDED if name not in told]
    head = [*axes, *(f"best {axis}" for axis in reduced.axes), *tied, "n"]
    head += [titled(name, config) for name in names]
    table = [[*map(escape, [said.replace("_", " ") for said in head]), "trainable"]]
    base = [stat(row.get(f"base/{name}") for row in rows) for name in names]
    if any(base):
        blank = [ABSENT] * (len(head) - len(names) - 1)
        table.append(["frozen base", *blank, *(_mean(found) for found in base), ABSENT])
    for group in reduced.groups:
        cells = [said(group.point.get(axis)) for axis in axes]
        cells += [_chosen(group, axis) for axis in reduced.axes]
        first = group.best.rows[0] if group.best else {}
        cells += [said(first.get(name)) for name in tied]
        n = sum(row["state"] == DONE for row in group.best.rows) if group.best else 0
        cells += [str(n), *(_stat(group.numbers.get(name), n) for name in names)]
        trainable = group.numbers.get("trainable")
        table.append([*cells, f"{trainable.mean:,.0f}" if trainable else ABSENT])
    return turned(table)


def choices(reduced: Reduced) -> Rows:
    """One row a group, one column a choice: what was compared; empty where nothing was chosen."""
    if not reduced.axes or not reduced.by:
        return []
    axes = list(_axes(reduced))
    columns: dict[str, Mapping[str, Any]] = {}
    for group in reduced.groups:
        for tried in group.tried:
            columns.setdefault(_combined(tried.chosen), tried.chosen)
    values = lambda name: [columns[name][axis] for axis in reduced.axes]
    try:
        names = sorted(columns, key=values)
    except TypeError:
        names = list(columns)
    if len(names) > WIDEST:
        return _every(reduced, axes)
    table = [[*map(escape, axes), *map(escape, names)] if axes else ["", *map(escape, names)]]
    for group in reduced.groups:
        found = {_combined(tried.chosen): tried for tried in group.tried}
        cells = [said(group.point.get(axis)) for axis in axes] or [""]
        cells += [_tried(found.get(name), group) for name in names]
        table.append(cells)
    return table


def _every(reduced: Reduced, axes: Sequence[str]) -> Rows:
    """One row a choice of a group, where groups have tried other values each."""
    table = [list(map(escape, [*axes, *reduced.axes, words.score(reduced.by)]))]
    for group in reduced.groups:
        for tried in group.tried:
            cells = [group.point.get(axis) for axis in axes] + list(tried.chosen.values())
            table.append([*map(said, cells), _tried(tried, group)])
    return table


def moves(reduced: Reduced) -> Rows:
    """The best rate of each rank, and by what factor it moves; empty where that is not known."""
    if not reduced.moves:
        return []
    ranks = sorted({rank for move in reduced.moves for rank in move.rates})
    axes = list(dict.fromkeys(axis for move in reduced.moves for axis in move.point))
    head = [*(axes or [""]), *(f"r = {rank}" for rank in ranks)]
    table = [[*map(escape, head), "highest / lowest", f"of r ≥ {FROM_RANK}"]]
    for move in reduced.moves:
        cells = [said(move.point.get(axis)) for axis in axes] or ["best lr"]
        cells += [said(move.rates.get(rank)) for rank in ranks]
        more = "≥ " if move.bound else ""
        high = ABSENT if move.factor_from_4 is None else f"{more}{move.factor_from_4:.3g}"
        table.append([*cells, f"{more}{move.factor:.3g}", high])
    return table


def units(rows: Sequence[Row], by: str, config: Mapping[str, Any]) -> Rows:
    """One row a unit."""
    names = scores(rows, by)
    head = ["unit", "", "learning rate", "steps", "trainable", *(titled(n, config) for n in names)]
    table = [list(map(escape, head))]
    for row in rows:
        trainable = row.get("trainable")
        found = [words.number(row[name]) if name in row else ABSENT for name in names]
        count = ABSENT if trainable is None else f"{trainable:,}"
        rate = f"{row['learning_rate']:g}"
        table.append([code(row["unit"]), row["state"], rate, f"{row['steps']:,}", count, *found])
    return table


def failures(rows: Sequence[Row]) -> list[str]:
    """One line a unit that failed."""
    return [f"{code(r['unit'])}: {escape(r['failed'])}" for r in rows if r["state"] == FAILED]


def titled(name: str, config: Mapping[str, Any]) -> str:
    """A score in words, with its unit."""
    unit = words.unit(name, config)
    return words.score(name) + (f" ({unit})" if unit else "")


def said(value: Any) -> str:
    """A value of an axis in a cell."""
    if value is None:
        return ABSENT
    return f"{value:g}" if isinstance(value, float) else escape(value)


def _fixed(value: Any) -> Any:
    """Equal for a config in memory and in a file."""
    return tuple(value) if isinstance(value, list) else value


def _axes(reduced: Reduced) -> dict[str, None]:
    """Those of the groups, in order of appearance."""
    return dict.fromkeys(axis for group in reduced.groups for axis in group.point)


def _chosen(group: Group, axis: str) -> str:
    if group.best is None:
        return ABSENT
    edge = group.edge.get(axis)
    return said(group.best.chosen.get(axis)) + (f" (edge: {edge})" if edge else "")


def _combined(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} {value:g}" if isinstance(value, float) else f"{axis} {value}"
                     for axis, value in chosen.items())  # fmt: skip


def _tried(tried: Tried | None, group: Group) -> str:
    if tried is None:
        return ABSENT
    text = _stat(tried.score, sum(row["state"] == DONE for row in tried.rows))
    text = f"**{text}**" if tried is group.best else text
    if not tried.failed:
        return text
    failed = f"{tried.failed} of {len(tried.rows)} failed"
    return f"{text} ({failed})" if tried.score else failed


def _mean(found: Stat | None) -> str:
    return words.number(found.mean) if found else ABSENT


def _stat(found: Stat | None, n: int | None = None) -> str:
    """Mean ± standard error; its n where that is not the one of the row."""
    if found is None:
        return ABSENT
    constant = found.error == 0
    text = words.mean(found.mean, None if constant else found.error)
    return text + (f" (n = {found.n})" if n is not None and found.n != n else "")
