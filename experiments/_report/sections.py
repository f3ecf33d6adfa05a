"""What does a report say besides its tables of numbers? Title, warnings, configs, samples."""

import json
import math
from collections.abc import Sequence

from experiments._report import tables, words
from experiments._report.page import Block, Fold, Table, Text, code, escape, fence
from experiments._report.runs import Run, Workdir
from experiments._report.tables import Named

SAMPLES, CHARACTERS = 3, 1200
"""Samples shown of a folder, and characters of each field."""

NAMED = 8
"""Folders up to which all are named at the top."""

SEEDS = "Mean ± standard error (sample standard deviation over √n)."


def about(found: Sequence[Workdir], named: Named) -> tuple[str, str]:
    """(title, lines below it): how what was adapted to what, as far as it is the same in all."""
    adapted = [row for row in named if row[2] in row[1].adapted]
    methods = [
        words.adapter(words.adapter_of(w.config, run.label), w.config.get("also_train"))
        for _, w, run in adapted
    ]
    parts = {
        "Task": _same([words.task(w.config) for w in found]),
        "Model": _same([words.model(w.config) for w in found]),
        "Adapter": _same(methods),
    }
    count = f"{len(adapted)} runs" if len(adapted) > 1 else ""
    method = "" if count else parts["Adapter"].partition(", ")[0]
    names = ", ".join(w.name for w in found)
    method = method[:1].upper() + method[1:]
    subject = " on ".join(filter(None, (count or method, parts["Model"])))
    of = parts["Task"] or ("" if not count or len(found) > 1 else names)
    title = ": ".join(filter(None, (subject or names, of)))
    lines = [f"- {part}: {escape(said)}" for part, said in parts.items() if said]
    if len(found) <= NAMED:
        lines.append(f"- {'Folders' if len(found) > 1 else 'Folder'}: {escape(names)}")
    return title, "\n".join(lines)


def items(title: str, lines: Sequence[str]) -> list[Block]:
    """A section with one item a line; nothing where there is none."""
    return [Text(f"## {title}"), Text("\n".join(f"- {line}" for line in lines))] if lines else []


def warnings(named: Named) -> list[str]:
    """Numbers that were not finite, resumptions, and runs that cannot be compared."""
    said = []
    if not tables.comparable(named):
        said.append("These runs differ in data or tokenizer, so that their scores do not compare.")
    for text, _, run in named:
        watched = [("loss", "train"), ("l2_grads", "train"), *((n, "eval") for n in run.scores)]
        said += [f"{code(text)}: {line}" for n, kind in watched if (line := _bad(run, n, kind))]
        lost = [
            n for n, value in run.scores.items() if value is None and run.result.get(n, 0) is None
        ]
        if lost:
            which = escape(", ".join(map(words.score, lost)))
            said.append(f"{code(text)}: {which} is not a finite number at the end")
    for workdir in {id(w): w for _, w, _ in named}.values():
        if workdir.resumed:
            times = f"{workdir.resumed} times" if workdir.resumed > 1 else "once"
            said.append(f"{code(workdir.name)}: resumed {times}")
    return said


def notes(named: Named) -> list[str]:
    """What a run said of its data: classes, rows left out, examples cut."""
    said = [(text, line) for text, _, run in named for line in run.result.get("notes") or ()]
    return [f"{code(text)}: {escape(str(line))}" for text, line in said]


def missing(found: Sequence[Workdir]) -> list[str]:
    """Files and records that a finished run has."""
    said = [f"{code(w.name)}: {escape(line)}" for w in found for line in w.odd]
    for workdir in found:
        if not any(run.result for run in workdir.runs):
            last = max((run.last_step for run in workdir.runs), default=0)
            said.append(f"{code(workdir.name)}: no result yet; the last record is of step {last:,}")
        if not any(run.evals for run in workdir.runs):
            said.append(f"{code(workdir.name)}: no evaluation")
    return said


def remarks(named: Named) -> list[Block]:
    """What a result says of its scores in text: the signature of a BLEU, say."""
    found = dict.fromkeys(
        f"- {escape(words.score(name))}: {code(value)}"
        for *_, run in named
        for name, value in run.result.items()
        if "/" in name and isinstance(value, str)
    )
    return [Text("\n".join(found))] if found else []


def configs(found: Sequence[Workdir]) -> list[Block]:
    """Of one run: what was overridden, and all of it in a fold. Of several: what differs."""
    known = {w.name: w.config for w in found if w.config}
    if not known:
        return []
    if len(found) > 1:
        rows = tables.differences(known)
        same = Text("No field differs.")
        return [Text("## Differences of the configs"), Table(rows) if rows else same]
    (workdir,) = found
    overrides = tables.common([workdir.papers.get("overrides", {})])
    whole = fence(json.dumps(workdir.config, indent=2, ensure_ascii=False), "json")
    return [
        Text("## Config"),
        Table(overrides) if overrides else Text("No field was overridden."),
        Fold("All fields", [Text(whole)]),
    ]


def environments(found: Sequence[Workdir]) -> list[Block]:
    """Versions, devices, commit, command: what is the same in all, and what is not."""
    known = {w.name: tables.environment(w.papers["env"]) for w in found if w.papers.get("env")}
    shared, other = tables.common(list(known.values())), tables.differences(known, most=300)
    blocks: list[Block] = [Table(rows) for rows in (shared, other) if rows]
    return [Text("## Environment"), *blocks] if blocks else []


def samples(found: Sequence[Workdir]) -> list[Block]:
    """The first ones of each folder, every field as it is."""
    blocks: list[Block] = []
    for workdir in found:
        if not workdir.samples:
            continue
        count = len(workdir.samples)
        title = f"## Samples of {escape(workdir.name)}" if len(found) > 1 else "## Samples"
        more = f"The first {SAMPLES} of {count:,}." if count > SAMPLES else ""
        blocks += [Text(title), *([Text(more)] if more else [])]
        for number, sample in enumerate(workdir.samples[:SAMPLES], 1):
            fields = [f"{escape(n)}:\n\n{fence(_text(value))}" for n, value in sample.items()]
            blocks += [Text(f"### Sample {number}"), *map(Text, fields)]
    return blocks


def _same(said: Sequence[str]) -> str:
    return said[0] if len(set(said)) == 1 else ""


def _bad(run: Run, name: str, kind: str) -> str:
    steps, values = run.series(name, kind)
    bad = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    more = f" and {len(bad) - 1:,} more" if len(bad) > 1 else ""
    which = "gradient norm" if name == "l2_grads" else words.score(name)
    which = f"training {which}" if name == "loss" else which
    return f"{escape(which)} is not a finite number at step {bad[0]:,}{more}" if bad else ""


def _text(value: object) -> str:
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return value if len(value) <= CHARACTERS else f"{value[:CHARACTERS]}…"
