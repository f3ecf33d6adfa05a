"""Which adapters are analysed, and which of them are compared? Those of a sweep, or any others."""

import dataclasses
import itertools
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from configs._sweeps import BestOf
from experiments._report.words import short
from experiments._sweep.reduce import Group, Reduced, reduce
from experiments._sweep.rows import DONE, FAILED, ROWS, SWEEP, Row, folder, read_rows
from experiments._sweep.units import is_seed
from experiments.figures.ranks import Series, arranged, words_of
from lorax.analysis.subspaces import first_delta
from lorax.analysis.updates import lora_members
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError, LoraxWarning
from lorax.io.json_file import read_json

PAPER = (8, 64)
"""The two ranks of the LoRA paper's figures."""


@dataclasses.dataclass(frozen=True)
class Learnt:
    """An adapter with what it has learnt.

    Attributes:
      label: of it and of those that differ from it in their seeds alone.
      run: of it alone, the folder of a unit say.
      base: the frozen parameters.
      adapter, delta: as trained, or as imported.
      start: the delta that training began with; None where that is not known.
      series, value: the target set, say, and the rank, or what takes its place along an axis.
    """

    label: str
    run: str
    base: Base
    adapter: Adapter
    delta: Delta
    start: Delta | None = None
    series: str = ""
    value: float = 0.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs that are compared, each with another.

    Attributes:
      name: for a file.
      title: what is compared.
      first, second: what the runs of a pair are, "r = 8" and "r = 64".
      pairs: at least one.
    """

    name: str
    title: str
    first: str
    second: str
    pairs: Sequence[tuple[Learnt, Learnt]]


@dataclasses.dataclass(frozen=True)
class Study:
    """All that is analysed.

    Attributes:
      title: of the report.
      learnt: at least one.
      comparisons: of them.
      notes: lines on how they were chosen, and what is left out.
      axis: of `Learnt.value`; empty where there is none.
    """

    title: str
    learnt: Sequence[Learnt]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    axis: str = ""


def of_adapters(title: str, learnt: Sequence[Learnt]) -> Study:
    """Every adapter that has factors is compared with every other."""
    factored = [one for one in learnt if has_factors(one)]
    pairs = itertools.combinations(factored, 2)
    comparisons = [
        Comparison(
            f"pair_{n}",
            f"{a.label} and {b.label}",
            short(a.label, 24),
            short(b.label, 24),
            [(a, b)],
        )
        for n, (a, b) in enumerate(pairs, 1)
    ]
    return Study(title, learnt, comparisons, ())


def of_sweep(workdir: pathlib.Path, ranks: tuple[int, int] | None = None) -> Study:
    """The units of the best choice of every group; two ranks are compared, and seeds.

    Args:
      workdir: of experiments.sweep.
      ranks: to compare; None for 8 and 64, or the two largest where these are not there.

    Raises:
      LoraxError: no sweep is there, or is finished, no unit of it is done, or it has no such rank.
    """
    if (workdir / SWEEP).is_file() and not (workdir / ROWS).is_file():
        raise LoraxError(
            f"the sweep in '{workdir}' is not finished: run the same experiments.sweep again"
        )
    rows = read_rows(workdir / ROWS)
    record, config = read_json(workdir / SWEEP), read_json(workdir / "config.json")
    best_of = BestOf(tuple(record["best_of"]), record.get("by", "")) if record["best_of"] else None
    reduced = reduce(rows, best_of, config.get("checkpoint"), record.get("search", ()))
    axis, series = arranged(reduced)
    if not series:
        raise LoraxError(f"no unit of the sweep in '{workdir}' is done: nothing is to be analysed")
    chosen = {one.label: _chosen(one, axis, ranks) for one in series}
    read = _reader(workdir)
    learnt, comparisons = list[Learnt](), list[Comparison]()
    for one in series:
        members = {x: _members(one.label, x, group, read) for x, group in one.groups.items()}
        comparisons += _comparisons(one.label, axis, members, chosen[one.label])
        learnt += [found for pairs in members.values() for _, found in pairs]
    return Study(f"Analysis of {workdir.name}", learnt, comparisons, _notes(reduced, rows), axis)


def has_factors(one: Learnt) -> bool:
    """Whether anything of it has low-rank factors."""
    try:
        return bool(lora_members(one.adapter, one.delta))
    except LoraxError:
        return False


def _comparisons(
    label: str,
    axis: str,
    members: Mapping[float, Sequence[tuple[Row, Learnt]]],
    chosen: Sequence[float],
) -> list[Comparison]:
    """Of one series: its two ranks with the same seed, and the seeds of each of them."""
    members = {x: [pair for pair in members[x] if has_factors(pair[1])] for x in chosen}
    found = []
    said = f" of {label}" if label else ""
    if axis == "rank" and len(chosen) == 2:
        low, high = (members[rank] for rank in chosen)
        pairs = [(a, b) for one, a in low for other, b in high if _seeds(one) == _seeds(other)]
        first, second = (f"r = {rank:g}" for rank in chosen)
        title = f"{first} and {second}{said}, the same seed"
        found.append(Comparison(f"ranks {label}", title, first, second, pairs))
    for value in chosen:
        pairs = [(a, b) for (_, a), (_, b) in itertools.combinations(members[value], 2)]
        at = f"{'r' if axis == 'rank' else axis} = {value:g}" if axis else ""
        title = f"two seeds{said}{', ' + at if at else ''}"
        name = f"seeds {label} {at}"
        found.append(Comparison(name, title, "one seed", "another", pairs))
    return [comparison for comparison in found if comparison.pairs]


def _chosen(one: Series, axis: str, wanted: tuple[int, int] | None) -> Sequence[float]:
    """The two ranks that are compared; every value of an axis that is not rank."""
    there = sorted(one.groups)
    if axis != "rank":
        return there
    if wanted is None:
        return PAPER if set(PAPER) <= set(there) else there[-2:]
    if missing := [rank for rank in wanted if rank not in there]:
        raise LoraxError(
            f"--ranks names {missing[0]}, of which {one.label or 'the sweep'} has no unit that is "
            f"done: expected two of {', '.join(f'{x:g}' for x in there)}"
        )
    return wanted


def _reader(workdir: pathlib.Path) -> Callable[[str, str], Learnt]:
    """Reads a unit; the base of several is read once."""
    from experiments import _workdir
    from experiments._train.loading import load_run
    from lorax.io.checkpoint import load_adapter

    bases: dict[str, Base] = {}

    def read(label: str, name: str) -> Learnt:
        place = folder(workdir, name)
        config = _workdir.stored(place)
        mark = f"{config.model} {config.pretrain} {config.seed.base} {config.data.task}"
        if mark not in bases:
            bases[mark] = load_run(place).base
        adapter, delta = load_adapter(place / "adapter")
        one = Learnt(label, name, bases[mark], adapter, delta)
        if config.adapter_from or not has_factors(one):
            return one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LoraxWarning)  # of ranks: it was told in training
            start = first_delta(adapter, jax.random.key(config.seed.init), delta)
        return dataclasses.replace(one, start=start)

    return read


def _members(
    series: str, value: float, group: Group, read: Callable[[str, str], Learnt]
) -> list[tuple[Row, Learnt]]:
    """The units of the best choice of a group."""
    rows = [row for row in group.best.rows if row["state"] == DONE] if group.best else []
    found = [read(words_of(group.point), row["unit"]) for row in rows]
    return [
        (r, dataclasses.replace(f, series=series, value=value))
        for r, f in zip(rows, found, strict=True)
    ]


def _seeds(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row["point"].items() if is_seed(name)}


def _notes(reduced: Reduced, rows: Sequence[Row]) -> list[str]:
    said = []
    if reduced.axes:
        said.append(
            f"Of every group the best {' and '.join(reduced.axes)} by {reduced.by} is analysed."
        )
    if left := sum(row["state"] not in (DONE, FAILED) for row in rows):
        said.append(f"The sweep is not finished: {left} of {len(rows)} units have not ended.")
    lost = [group for group in reduced.groups if not group.best]
    if lost:
        said.append(f"{len(lost)} groups have no unit that is done, and are left out.")
    return said
