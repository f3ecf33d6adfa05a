"""Which tables does the report of a study have? d90, the value at each d, LoRA, rates, cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments._intrinsic.estimate import Estimate
from experiments._intrinsic.levels import Level, direct, loras, projections, subspaces
from experiments._intrinsic.rows import LORA, METHODS, SUBSPACE, Row, value
from experiments._intrinsic.threshold import Threshold
from experiments._report import words
from experiments._report.page import code, escape
from experiments._report.tables import Rows
from experiments._report.words import ABSENT
from experiments._sweep.reduce import Stat, stat

DIRECT_SAID = "direct training"


def dimensions(found: Sequence[Estimate], study: Mapping[str, Any], total: int) -> Rows:
    """One row an estimate, then what others published.

    Args:
      found: of `estimate`.
      study: `config.study`.
      total: D.
    """
    head = ["projection", "threshold", "baseline", "to be passed", "d90, first d that passes",
            "last d below it", "d90, interpolated", "95 % interval", "D", "D / d90"]  # fmt: skip
    table = [head]
    for one in found:
        limit, first = one.threshold, one.published
        table.append([
            escape(one.projection), one.kind, words.number(limit.baseline),
            words.number(limit.value), ABSENT if first is None else f"{first:,}",
            ABSENT if one.below is None else f"{one.below:,}", told(one.interpolated),
            interval(one), f"{total:,}",
            ABSENT if first is None else words.number(total / first),
        ])  # fmt: skip
    for label, d in study["published"]:
        row = [f"published: {escape(label)}", *[ABSENT] * 3, f"{d:,}", *[ABSENT] * 5]
        table.append(row)
    return table


def values(
    rows: Sequence[Row], study: Mapping[str, Any], limits: Mapping[str, Threshold],
    config: Mapping[str, Any],
) -> Rows:  # fmt: skip
    """One row a d of each projection, below direct training: every number, and what it passes."""
    names, several = projections(rows, study), len(study["rates"]) > 1
    found: list[tuple[list[str], Level]] = []
    if whole := direct(rows, study):
        found.append(([DIRECT_SAID, f"{whole.trained:,}"], whole))
    for name in names:
        levels = subspaces(rows, study, name)
        found += [([escape(name), f"{d:,}"], one) for d, one in levels.items()]
    return _levels(["", "d"], found, several, rows, study, limits, config)


def ranks(
    rows: Sequence[Row], study: Mapping[str, Any], limits: Mapping[str, Threshold],
    config: Mapping[str, Any],
) -> Rows:  # fmt: skip
    """One row a rank of LoRA; empty where none was measured."""
    levels = loras(rows, study)
    found = [([f"r = {rank}", f"{one.trained:,}"], one) for rank, one in levels.items()]
    several = len(study["lora_rates"]) > 1
    head = ["LoRA", "trained"]
    return _levels(head, found, several, rows, study, limits, config) if found else []


def rates(rows: Sequence[Row], study: Mapping[str, Any]) -> Rows:
    """The mean at each learning rate where several were tried, the best bold; else empty."""
    found: list[tuple[str, Level]] = []
    if whole := direct(rows, study):
        found.append((DIRECT_SAID, whole))
    for name in projections(rows, study):
        levels = subspaces(rows, study, name)
        found += [(f"{name}, d = {d:,}", one) for d, one in levels.items()]
    found += [(f"LoRA, r = {rank}", one) for rank, one in loras(rows, study).items()]
    if all(len(one.rates) < 2 for _, one in found):
        return []
    tried = sorted({rate for _, one in found for rate in one.rates})
    table = [["", *(f"lr {rate:g}" for rate in tried)]]
    for label, one in found:
        cells = [ABSENT if r not in one.rates else _rate(one, r) for r in tried]
        table.append([escape(label), *cells])
    return table


def cost(rows: Sequence[Row]) -> Rows:
    """Units, epochs and minutes of each method."""
    table = [["", "units", "failed", "epochs", "units a program", "minutes"]]
    for label, members in _kinds(rows).items():
        table.append([
            escape(label), f"{len(members):,}", str(sum(bool(row.failed) for row in members)),
            _span(row.epochs for row in members), _span(row.packed for row in members),
            f"{sum(row.seconds for row in members) / 60:,.1f}",
        ])  # fmt: skip
    total = sum(row.seconds for row in rows) / 60
    return [*table, ["all", f"{len(rows):,}", "", "", "", f"{total:,.1f}"]]


def seeds(rows: Sequence[Row]) -> Rows:
    """Which seeds the units were drawn from."""
    names = list(dict.fromkeys(name for row in rows for name in row.seeds))
    table = [["", *(f"seed of {escape(name)}" for name in names)]]
    for label, members in _kinds(rows).items():
        found = [sorted({row.seeds[n] for row in members if n in row.seeds}) for n in names]
        table.append([escape(label), *(", ".join(map(str, values)) for values in found)])
    return table


def units(rows: Sequence[Row], study: Mapping[str, Any], config: Mapping[str, Any]) -> Rows:
    """One row a unit."""
    names = numbers(rows, study)
    table = [["unit", *(_titled(n, config) for n in names), "best epoch", "seconds", "failed"]]
    for row in rows:
        found = [value(row, study, name) for name in names]
        epoch = row.best.get("epoch")
        table.append([
            code(row.name), *(ABSENT if v is None else words.number(v) for v in found),
            ABSENT if epoch is None else f"{epoch:,.0f}", f"{row.seconds:,.1f}",
            escape(row.failed) or ABSENT,
        ])  # fmt: skip
    return table


def numbers(rows: Sequence[Row], study: Mapping[str, Any]) -> list[str]:
    """Names of all numbers of parts of the data, the metric and its test counterpart first."""
    metric = study["metric"]
    first = [metric, f"test/{metric.rpartition('/')[2]}"]
    names = dict.fromkeys(name for row in rows for name in row.last if "/" in name)
    return sorted(names, key=lambda n: first.index(n) if n in first else len(first))


def told(d: float | None) -> str:
    """A d that need not be whole."""
    return ABSENT if d is None else f"{d:,.1f}" if d < 100 else f"{d:,.0f}"


def interval(one: Estimate) -> str:
    """Its 95 %, "650 to 810"; open where it leaves what was measured."""
    if one.low is None or one.high is None:
        return ABSENT
    low = told(one.low) if one.low else "below all"
    return f"{low} to {told(one.high) if math.isfinite(one.high) else 'beyond all'}"


def _levels(
    head: Sequence[str], found: Sequence[tuple[list[str], Level]], several: bool,
    rows: Sequence[Row], study: Mapping[str, Any], limits: Mapping[str, Threshold],
    config: Mapping[str, Any],
) -> Rows:  # fmt: skip
    names = numbers(rows, study)
    lr = ["lr"] if several else []
    table = [[*head, *lr, "n", *(_titled(n, config) for n in names), "passes"]]
    for cells, one in found:
        n = len(one.values)
        means = [stat(value(row, study, name) for row in one.rows) for name in names]
        passed = [k for k, t in limits.items() if one.passes(t.value, study["mode"])]
        passes = f"{one.failed} failed" if one.failed else " and ".join(passed) or "no"
        rate = [f"{one.rate:g}"] if several else []
        table.append([*cells, *rate, str(n), *(_stat(mean, n) for mean in means), passes])
    return table


def _rate(level: Level, rate: float) -> str:
    mean = level.rates[rate]
    text = "failed" if mean is None else words.number(mean)
    return f"**{text}**" if rate == level.rate else text


def _kinds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """{method in words: its rows}."""
    said = {SUBSPACE: "subspace", LORA: "LoRA"}
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: METHODS.index(row.method)):
        label = f"{row.projection} {said.get(row.method, DIRECT_SAID)}".strip()
        found.setdefault(label, []).append(row)
    return found


def _span(found: Iterable[int]) -> str:
    members = sorted(set(found))
    return f"{members[0]:,}" if len(members) == 1 else f"{members[0]:,} to {members[-1]:,}"


def _titled(name: str, config: Mapping[str, Any]) -> str:
    unit = words.unit(name, config)
    return escape(words.score(name) + (f" ({unit})" if unit else ""))


def _stat(found: Stat | None, n: int) -> str:
    """Mean ± standard error; its n where that is not the one of the row."""
    if found is None:
        return ABSENT
    text = words.mean(found.mean, found.error or None)
    return text + (f" (n = {found.n})" if found.n != n else "")
