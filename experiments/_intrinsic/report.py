"""How is a study told? report.md, report.html and plots/: d90, how sure it is, and from what.

Only rows.jsonl, config.json and env.json are read, so a report can be written again from them.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._intrinsic import tables
from experiments._intrinsic.estimate import DRAWS, Estimate, estimate
from experiments._intrinsic.levels import Level, direct, subspaces
from experiments._intrinsic.rows import ROWS, STUDY, Row, read
from experiments._intrinsic.search import FOUND, OPEN, Verdict, verdict
from experiments._intrinsic.threshold import Threshold, thresholds
from experiments._report import sections, words
from experiments._report.page import Block, Fold, Table, Text, code, escape, fence, require
from experiments._report.tables import common, environment
from experiments._report.write import put_report
from experiments.figures import dimension
from lorax.core.errors import LoraxError
from lorax.io.json_file import read_json

HOW = (
    "d90 is the number of trained coordinates, in a random subspace of all D numbers, that reaches "
    "{share} of {what} in {metric} (Li et al. 2018). *Own*: the baseline is direct training at its "
    "best learning rate{whatever}. *First d that passes* is the published rule: of the d's that "
    "were measured, the first whose mean over repeats is strictly {better} than the threshold. "
    "*Interpolated*: where the mean curve, made monotone, crosses it, linear in log d; its "
    "interval is a percentile bootstrap of {draws:,} draws over the repeats, and is too narrow "
    "where these are few."
)
VALUES = (
    "Mean ± standard error over n repeats: the sample standard deviation over √n, with n − 1 in "
    "the deviation. Repeats differ in the seed of {vary}, those of direct training in the seeds of "
    "base and data. Numbers are of the {when} epoch{rates}. "
    "What is searched by the {metric} is flattered by it; the test part took no part in the search."
)
COST = "Minutes are those of the programs that trained the units, shared among them."


def is_study(place: str | os.PathLike[str]) -> bool:
    """Is `place` the workdir of a study of intrinsic dimension that has rows?"""
    folder = pathlib.Path(os.path.expanduser(place))
    if not ((folder / ROWS).is_file() and (folder / "config.json").is_file()):
        return False
    try:
        return "study" in read_json(folder / "config.json")
    except LoraxError:
        return False


def how_it_ended(workdir: pathlib.Path, rows: Sequence[Row], study: Mapping[str, Any]) -> Verdict:
    """How the search of a study stands; study.json, where it is, tells the least d."""
    file = workdir / STUDY
    least = read_json(file)["least"] if file.is_file() else 1
    return verdict(rows, study, rows[0].total, least)


def write_report(workdir: pathlib.Path, out: pathlib.Path | None = None) -> pathlib.Path:
    """Writes report.md, report.html and plots/ from the files of a study; the path of report.md.

    Args:
      workdir: with rows.jsonl, config.json and env.json.
      out: where the report goes; None for `workdir`.

    Raises:
      LoraxError: a file is missing or damaged, there is no row, the report cannot be written, or
        matplotlib or markdown-it-py is missing.
    """
    require()
    rows, config = read(workdir / ROWS), read_json(workdir / "config.json")
    if not rows:
        raise LoraxError(f"'{workdir / ROWS}' has no row: run the same command again")
    ended = how_it_ended(workdir, rows, config["study"])
    title, blocks, drawn = _content(rows, config, read_json(workdir / "env.json"), ended)
    cure = "run the same command in another --workdir"
    return put_report(out or workdir, title, blocks, drawn, cure)


def _content(
    rows: Sequence[Row], config: Mapping[str, Any], env: Mapping[str, Any], ended: Verdict
) -> tuple[str, list[Block], dict[str, bytes]]:
    """(title, blocks, {name: PNG})."""
    study, total = config["study"], rows[0].total
    found, limits = estimate(rows, study), thresholds(rows, study)
    title, about = _about(rows, config, ended)
    blocks: list[Block] = [Text(f"# {escape(title)}"), Text(about)]
    blocks += sections.items("Warnings", _warnings(rows, study, limits, ended))
    blocks += [Text("## Intrinsic dimension"), Table(tables.dimensions(found, study, total))]
    blocks += [Text(_how(study)), *_untold(found)]
    figures, drawn = dimension.figures(rows, study, config)
    if figures:
        blocks += [Text("## Figures"), *figures]
    blocks += [Text("## At each d"), Table(tables.values(rows, study, limits, config))]
    blocks.append(Text(_values(study)))
    if table := tables.ranks(rows, study, limits, config):
        blocks += [Text("## LoRA on the same task"), Table(table), Text(_ranks(found, study))]
    if table := tables.rates(rows, study):
        said = f"Mean {words.score(study['metric'])}; the rate that counts is bold."
        blocks += [Text("## Learning rates"), Table(table), Text(said)]
    failed = [f"{code(row.name)}: {escape(row.failed)}" for row in rows if row.failed]
    blocks += sections.items("Failed units", failed)
    blocks += [Text("## Seeds"), Table(tables.seeds(rows))]
    blocks += [Text("## Cost"), Table(tables.cost(rows)), Text(COST)]
    blocks.append(Fold("All units", [Table(tables.units(rows, study, config))]))
    whole = fence(json.dumps(config, indent=2, ensure_ascii=False), "json")
    blocks.append(Fold("The page's config", [Text(whole)]))
    if table := common([environment(env)]):
        blocks += [Text("## Environment"), Table(table)]
    return title, blocks, drawn


def _about(rows: Sequence[Row], config: Mapping[str, Any], ended: Verdict) -> tuple[str, str]:
    """(title, lines below it)."""
    task, model = words.task(config), words.model(config)
    title = "Intrinsic dimension" + (f" of {task}" if task else "")
    lines = {
        "Result": escape(ended.line) + (" (not finished)" if ended.state == OPEN else ""),
        "Task": escape(task),
        "Model": escape(model),
        "D": f"{rows[0].total:,} numbers",
        "Units": f"{len(rows)}, of which {sum(bool(row.failed) for row in rows)} failed",
    }
    return title, "\n".join(f"- {name}: {line}" for name, line in lines.items() if line)


def _warnings(
    rows: Sequence[Row], study: Mapping[str, Any], limits: Mapping[str, Threshold], ended: Verdict
) -> list[str]:
    said = [] if ended.state in (FOUND, OPEN) else [escape(ended.line)]
    if ended.state == OPEN:
        said.append("The search has not ended: run the same command again.")
    whole = direct(rows, study)
    for kind, limit in limits.items():
        if whole and whole.stat and not whole.passes(limit.value, study["mode"]):
            mean = words.number(whole.stat.mean)
            said.append(
                f"Direct training has {mean}, which does not pass the {kind} threshold "
                f"{words.number(limit.value)}."
            )
    said += _unsure(rows, study, limits.get(study["target"]), ended)
    failed = sum(bool(row.failed) for row in rows)
    if failed:
        said.append(f"{failed} of {len(rows)} units failed; a d with such a unit does not pass.")
    return said


def _unsure(
    rows: Sequence[Row], study: Mapping[str, Any], limit: Threshold | None, ended: Verdict
) -> list[str]:
    """What may be otherwise at the two ends of the search: by chance, or at another rate."""
    levels, said = subspaces(rows, study, study["projection"]), []
    for d in filter(None, (ended.below, ended.dim)):
        if edge := _edge(levels[d]):
            said.append(
                f"The best learning rate at d = {d:,}, {edge}: a better one may lie beyond."
            )
        found, n = levels[d].stat, len(levels[d].values)
        if limit is None or found is None or ended.state != FOUND:
            continue
        if found.error is None:
            said.append(f"d = {d:,} was measured once: nothing is said of how much is chance.")
        elif abs(found.mean - limit.value) <= found.error:
            said.append(
                f"After {n} repeats the mean at d = {d:,}, {words.mean(found.mean, found.error)}, "
                f"is within one standard error of the threshold {words.number(limit.value)}."
            )
    return said


def _edge(level: Level) -> str:
    """ "0.01, is the highest tried"; empty where it is not, or nothing else was tried."""
    if len(level.rates) < 2 or level.rate not in (min(level.rates), max(level.rates)):
        return ""
    end = "lowest" if level.rate == min(level.rates) else "highest"
    return f"{level.rate:g}, is the {end} tried"


def _how(study: Mapping[str, Any]) -> str:
    gain, baseline = study["relative"] == "gain", study["baseline"]
    return HOW.format(
        share=words.share(study["share"]),
        what="the baseline's gain over the frozen start" if gain else "the baseline",
        metric=words.score(study["metric"]),
        whatever=f"; *global*: it is {baseline:g}, whatever that reaches" if baseline else "",
        better="higher" if study["mode"] == "max" else "lower",
        draws=DRAWS,
    )


def _untold(found: Sequence[Estimate]) -> list[Block]:
    lines = [f"- {escape(one.projection)}, {one.kind}: {r}." for one in found for r in one.reasons]
    return [Text("\n".join(lines))] if lines else []


def _values(study: Mapping[str, Any]) -> str:
    several = len(study["rates"]) > 1 or len(study["direct_rates"]) > 1
    rates = " and of the learning rate with the best mean" if several else ""
    vary = " and of ".join(study["vary"]) or "nothing"
    metric = words.score(study["metric"])
    return VALUES.format(vary=vary, when=study["when"], rates=rates, metric=metric)


def _ranks(found: Sequence[Estimate], study: Mapping[str, Any]) -> str:
    """d90 beside the numbers that a LoRA trains."""
    where = ", ".join(study["lora_where"])
    said = f"LoRA on {code(where)}, from the same start, on the same data and for as many epochs."
    mine = [one for one in found if one.projection == study["projection"] and one.published]
    told = [f"{one.published:,} ({one.kind})" for one in mine]
    return f"{said} d90 of the {study['projection']} subspace: {', '.join(told)}." if told else said
