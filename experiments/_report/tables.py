"""Which numbers stand side by side? Results, seeds, costs, differences, environments."""

import itertools
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._report import words
from experiments._report.page import code, escape
from experiments._report.runs import Run, Workdir
from experiments._report.words import ABSENT

Rows = list[list[str]]
Named = Sequence[tuple[str, Workdir, Run]]

MANY = 7
"""Columns of a table, beyond which it is turned if it has fewer rows."""


def score_names(named: Named) -> list[str]:
    """Every score of every run, in order of appearance."""
    return list(dict.fromkeys(name for *_, run in named for name in run.scores))


def titled(named: Named, name: str, said: str = "") -> str:
    """A score in words, `said` in place of them, with the unit that it has in all runs."""
    units = {words.unit(name, workdir.config) for _, workdir, _ in named}
    unit = units.pop() if len(units) == 1 else ""
    return (said or words.score(name)) + (f" ({unit})" if unit else "")


def results(named: Named) -> Rows:
    """One row a run, and one a baseline: the last of each score, and the best of the main one."""
    names, main = score_names(named), main_score(named)
    best = {name: _best([run.scores.get(name) for *_, run in named], name) for name in names}
    ranked = len(named) > 1 and comparable(named)
    head = ["", titled(named, "loss", "train loss"), *(titled(named, name) for name in names)]
    head += [f"best {words.score(main)}", "at step"] if main else []
    rows = [[escape(cell) for cell in head]]
    for text, values in baselines(named).items():
        cells = [words.number(values[n]) if n in values else ABSENT for n in names]
        rows.append([escape(text), ABSENT, *cells, *([ABSENT, ABSENT] if main else [])])
    for text, _, run in named:
        _, losses = run.losses()
        cells = [_score(run, name, best[name] if ranked else None) for name in names]
        last = words.number(losses[-1]) if losses else ABSENT
        rows.append([escape(text), last, *cells, *(_best_of(run, main) if main else [])])
    return turned(rows)


def baselines(named: Named, *, shared: bool = False) -> dict[str, Mapping[str, float | None]]:
    """{name: {score: number}}, each once; where folders differ, with the name of the first.

    Args:
      named: the runs.
      shared: only those that are the same in all folders.
    """
    folders = list({id(workdir): workdir for _, workdir, _ in named}.values())
    found: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for folder in folders:
        for name, values in folder.baselines.items():
            kinds = found.setdefault(name, {})
            if values not in kinds.values():
                kinds[folder.name] = values
    return {
        name if len(kinds) == 1 else f"{name} of {words.short(folder, 30)}": values
        for name, kinds in found.items()
        for folder, values in kinds.items()
        if len(kinds) == 1 or not shared
    }


COMPARED = (("data", ("task", "format", "name", "train", "validation", "test")),
            ("model", ("source", "tokenizer")))  # fmt: skip
"""Fields that decide whether a score of one run means the same in another."""


def comparable(named: Named) -> bool:
    """Whether all runs are measured on the same data in the same units, as far as configs tell."""
    configs = [workdir.papers.get("config") for _, workdir, _ in named]
    known = [config for config in configs if isinstance(config, dict)]
    told = [
        [config.get(part, {}).get(name) for part, names in COMPARED for name in names]
        for config in known
        if all(isinstance(config.get(part, {}), dict) for part, _ in COMPARED)
    ]
    return all(fields == told[0] for fields in told)


def main_score(named: Named) -> str:
    """The score whose best is told: `checkpoint.best`, else the first of the validation part."""
    chosen = named[0][1].config.get("checkpoint")
    names = list(
        dict.fromkeys(n for *_, run in named for r in run.evals for n in run.scores if n in r)
    )
    wanted = [chosen.get("best")] if isinstance(chosen, dict) else []
    wanted += [name for name in names if name.startswith("validation")]
    return next((name for name in [*wanted, *names] if name in names), "")


def costs(named: Named) -> Rows:
    """One row a run: the method, its size, its time."""
    head = ["", "adapter", "rank", "trainable", "of all", "optimizer", "adapter file", "steps",
            "time a step", "waiting"]  # fmt: skip
    rows = [head]
    for text, workdir, run in named:
        fields = words.adapter_of(workdir.config, run.label)
        trainable, total = run.cost("trainable"), run.cost("total", "parameters")
        rows.append([
            escape(text),
            escape(fields.get("adapter", ABSENT)),
            escape(fields.get("rank", ABSENT)),
            ABSENT if trainable is None else f"{trainable:,.0f}",
            words.share(trainable / total if trainable is not None and total else None),
            words.size(run.cost("optimizer_bytes")),
            words.size(run.cost("adapter_bytes")),
            f"{run.last_step:,}",
            words.seconds(run.cost("seconds_per_step", "step_time_sec")),
            words.share(run.cost("wait_share")),
        ])  # fmt: skip
    kept = [i for i, column in enumerate(zip(*rows, strict=True)) if set(column[1:]) != {ABSENT}]
    return turned([[row[i] for i in kept] for row in rows])


def seeds(named: Named) -> Rows:
    """Runs that differ in nothing but their seeds: mean ± standard error and n; else empty.

    A run of the same seeds is the same run, and counts once.
    """
    groups: dict[str, dict[str, tuple[Workdir, Run]]] = {}
    for _, workdir, run in named:
        fields = flat(workdir.config)
        drawn = {name: value for name, value in fields.items() if _is_seed(name)}
        rest = {name: value for name, value in fields.items() if name not in drawn}
        if drawn:
            members = groups.setdefault(json.dumps([run.label, rest], sort_keys=True), {})
            members.setdefault(json.dumps(drawn, sort_keys=True), (workdir, run))
    kept = [list(group.values()) for group in groups.values() if len(group) > 1]
    names = score_names(named)
    if not kept or not names:
        return []
    varied = differing([flat(group[0][0].config) for group in kept])
    varied = [name for name in varied if not _is_seed(name)]
    rows = [["", "n", *(escape(titled(named, name)) for name in names)]]
    for group in kept:
        workdir, run = group[0]
        fields = flat(workdir.config)
        said = ", ".join(f"{n} = {words.short(fields.get(n, ABSENT))}" for n in varied)
        said = said or words.adapter(words.adapter_of(workdir.config, run.label)) or run.label
        cells = [_mean([run.scores.get(name) for _, run in group]) for name in names]
        rows.append([escape(said), str(len(group)), *cells])
    return turned(rows)


def differences(papers: Mapping[str, Mapping[str, Any]], most: int = 60) -> Rows:
    """One row a run, one column a field that is not the same in all; empty if there is none.

    Args:
      papers: {name of the run: its config, or environment}.
      most: characters of a value.
    """
    flats = [flat(paper) for paper in papers.values()]
    fields = differing(flats)
    if not fields:
        return []
    rows = [["", *map(code, fields)]]
    for name, known in zip(words.brief(list(papers)), flats, strict=True):
        cells = [code(words.short(known[f], most)) if f in known else ABSENT for f in fields]
        rows.append([escape(name), *cells])
    return turned(rows)


def common(papers: Sequence[Mapping[str, Any]]) -> Rows:
    """Field and value of what is the same in all; empty if there is nothing."""
    fields = flat(papers[0]) if papers else {}
    other = set(differing([flat(paper) for paper in papers]))
    same = [[code(n), code(words.short(v, 300))] for n, v in fields.items() if n not in other]
    return [["field", "value"], *same] if same else []


def environment(env: Mapping[str, Any]) -> dict[str, Any]:
    """env.json with its lists as text and without the word "packages"."""
    found = {**env, **(env["packages"] if isinstance(env.get("packages"), dict) else {})}
    found.pop("packages", None)
    if isinstance(found.get("command"), list):
        found["command"] = shlex.join(map(str, found["command"]))
    if isinstance(found.get("devices"), list):
        counts = [(k, len(list(g))) for k, g in itertools.groupby(map(str, found["devices"]))]
        found["devices"] = ", ".join(k + (f" × {n}" if n > 1 else "") for k, n in counts)
    if isinstance(found.get("started"), list):
        found["started"] = ", ".join(map(str, found["started"]))
    return found


def flat(paper: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested fields."""
    found: dict[str, Any] = {}
    for name, value in paper.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def differing(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fields that are absent in one of them, or not equal in all."""
    names = dict.fromkeys(name for fields in flats for name in fields)
    absent = object()
    return [
        name
        for name in names
        if any(fields.get(name, absent) != flats[0].get(name, absent) for fields in flats)
    ]


def _is_seed(field: str) -> bool:
    return field.partition(".")[0] == "seed"


def turned(rows: Rows) -> Rows:
    """`rows`, or its columns as rows where that makes a table that is less wide."""
    wide = len(rows[0]) > MANY and len(rows) < len(rows[0])
    return [list(column) for column in zip(*rows, strict=True)] if wide else rows


def _score(run: Run, name: str, best: float | None) -> str:
    if name not in run.scores:
        return ABSENT
    value = run.scores[name]
    text = words.number(value)
    return f"**{text}**" if value is not None and value == best else text


def _best_of(run: Run, name: str) -> list[str]:
    steps, values = run.series(name, "eval")
    best = _best(values, name)
    return (
        [ABSENT, ABSENT] if best is None else [words.number(best), f"{steps[values.index(best)]:,}"]
    )


def _best(values: Sequence[float | None], name: str) -> float | None:
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return (max if words.higher_is_better(name) else min)(finite, default=None)


def _mean(values: Sequence[float | None]) -> str:
    """Mean ± standard error; n is told where it is not that of the row."""
    finite = [value for value in values if value is not None]
    if not finite:
        return ABSENT
    short = f" (n = {len(finite)})" if len(finite) < len(values) else ""
    error = statistics.stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else None
    return words.mean(statistics.fmean(finite), error) + short
