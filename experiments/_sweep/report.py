"""How is a sweep told? report.md, report.html and plots/ from its rows: what is best, and how sure.

Only rows are read, and the page's config: a report can be written again from rows.jsonl.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from configs._sweeps import BestOf
from experiments._report import sections, words
from experiments._report.page import (
    Block,
    Fold,
    Table,
    Text,
    code,
    escape,
    fence,
    require,
)
from experiments._report.tables import common, environment
from experiments._report.write import put_report
from experiments._sweep import tables
from experiments._sweep.items import ByUnit, read_items
from experiments._sweep.reduce import FROM_RANK, Reduced, grid_step, reduce
from experiments._sweep.rows import DONE, FAILED, ROWS, SWEEP, Row, read_rows
from experiments._sweep.units import is_seed
from experiments.figures import methods, ranks
from lorax.io.json_file import read_json

MEANS = (
    "Mean ± standard error over n seeds: the sample standard deviation over √n, with n − 1 in the "
    "deviation; one seed has none. A seed is that of the first draw, of the order of examples and "
    "of dropout. Units that failed, with a loss that was no finite number, are in no mean."
)
CHOICE = (
    "The {axes} of a row is the one with the best mean {by} over its seeds ({better} is better), "
    "among those of which most seeds ended; of two that tie, the lower one. All numbers of the row "
    "are of its seeds. What was chosen by the validation part is flattered by it; the test part "
    "took no part in the choice. *Edge* says that the best value is {edge}, so that a better one "
    "may lie beyond."
)
MOVES = (
    "Factors are of the highest best rate over the lowest, of all ranks and of those from r = "
    f"{FROM_RANK} on; ≥ where a best rate lies at the edge of its grid."
)


def is_sweep(place: str | os.PathLike[str]) -> bool:
    """Is `place` the workdir of a sweep whose units were trained?"""
    folder = pathlib.Path(os.path.expanduser(place))
    return (folder / SWEEP).is_file() and (folder / ROWS).is_file()


def write_report(workdir: pathlib.Path, out: pathlib.Path | None = None) -> pathlib.Path:
    """Writes report.md, report.html and plots/ from the files of a sweep; the path of report.md.

    Args:
      workdir: of the sweep, with sweep.json, rows.jsonl, config.json and env.json.
      out: where the report goes; None for `workdir`.

    Raises:
      LoraxError: a file is missing or damaged, `out` cannot be written, or matplotlib or
        markdown-it-py is missing.
    """
    sweep, config = read_json(workdir / SWEEP), read_json(workdir / "config.json")
    rows, chosen = read_rows(workdir / ROWS), tuple(sweep.get("best_of", ()))
    best_of = BestOf(chosen, sweep.get("by", "")) if chosen else None
    reduced = reduce(rows, best_of, config.get("checkpoint"), sweep.get("search", ()))
    env, items = read_json(workdir / "env.json"), read_items(workdir)
    return write(out or workdir, sweep.get("page", ""), config, rows, reduced, env, items)


def write(
    folder: pathlib.Path,
    page_name: str,
    config: Mapping[str, Any],
    rows: Sequence[Row],
    reduced: Reduced,
    env: Mapping[str, Any] | None = None,
    items: ByUnit | None = None,
) -> pathlib.Path:
    """Writes report.md, report.html and plots/; the path of report.md.

    Args:
      folder: where they go.
      page_name: what --config was.
      config: of the page, plain.
      rows: of all units, at least one.
      reduced: of `reduce`.
      env: env.json of the sweep.
      items: of `read_items`.

    Raises:
      LoraxError: the folder cannot be written, or matplotlib or markdown-it-py is missing.
    """
    require()
    title, about = _about(page_name, config, rows)
    blocks: list[Block] = [Text(f"# {escape(title)}"), Text(about)]
    blocks += sections.items("Warnings", _warnings(rows, reduced))
    compared = methods.compare(rows, reduced, config, items or {}, methods.read_costs())
    shown, drawn = methods.section(compared) if compared else ([], {})
    blocks += shown
    blocks += [Text("## Results"), Table(tables.best(reduced, rows, config)), Text(_how(reduced))]
    if found := tables.moves(reduced):
        blocks += [Text("## Best learning rate of each rank"), Table(found), Text(_steps(reduced))]
    if not compared:  # whose figures stand above
        figures, drawn = ranks.figures(rows, reduced, config)
        blocks += [Text("## Figures"), *figures] if figures else []
    if found := tables.choices(reduced):
        said = f"{words.score(reduced.by)}, mean ± standard error; the best of each row is bold."
        blocks += [Text("## Every choice"), Text(said[:1].upper() + said[1:]), Table(found)]
    blocks += sections.items("Failed units", tables.failures(rows))
    blocks.append(Fold("All units", [Table(tables.units(rows, reduced.by, config))]))
    whole = fence(json.dumps(config, indent=2, ensure_ascii=False), "json")
    blocks += [Fold("The page's config, before a unit's fields", [Text(whole)])]
    if env and (found := common([environment(env)])):
        blocks += [Text("## Environment"), Table(found)]
    return put_report(folder, title, blocks, drawn, "run the same command in another --workdir")


def axes(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """{axis: its values}; numbers rise, others stand in order of appearance."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row["point"].items():
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    numeric = lambda v: all(isinstance(x, int | float) for x in v)
    return {name: sorted(v) if numeric(v) else v for name, v in found.items()}


def _about(page_name: str, config: Mapping[str, Any], rows: Sequence[Row]) -> tuple[str, str]:
    """(title, lines below it)."""
    swept = axes(rows)
    task, model = words.task(config), words.model(config)
    adapter = tables.adapter(rows, config)
    count = {name: sum(row["state"] == name for row in rows) for name in (DONE, FAILED)}
    other = len(rows) - sum(count.values())
    units = f"{len(rows)}: {count[DONE]} done, {count[FAILED]} failed"
    lines = {
        "Task": escape(task),
        "Model": escape(model),
        "Page": ", ".join(filter(None, (code(page_name), escape(adapter)))),
        "In every unit": ", ".join(
            escape(f"{name.replace('_', ' ')} {value}") for name, value in tables.same(rows).items()
        ),
        "Units": units + (f", {other} not ended" if other else ""),
        **{f"Axis {name}": ", ".join(map(tables.said, v)) for name, v in swept.items()},
    }
    many = [name for name, values in swept.items() if len(values) > 1] or list(swept)
    over = " × ".join(f"{len(swept[name])} {name}" for name in many)
    title = f"Sweep of {over}" + (f": {task}" if task else "")
    return title, "\n".join(f"- {name}: {line}" for name, line in lines.items() if line)


def _warnings(rows: Sequence[Row], reduced: Reduced) -> list[str]:
    said = []
    edges = [g for g in reduced.groups if g.edge]
    if edges:
        tried, grid = (" searched", "range") if reduced.search else (" tried", "grid")
        where = "; ".join(
            ", ".join(
                [*(f"{axis} {tables.said(v)}" for axis, v in group.point.items()),
                 *(f"best {axis} is the {end}{tried}" for axis, end in group.edge.items())]
            )
            for group in edges
        )  # fmt: skip
        said.append(
            f"{len(edges)} of {len(reduced.groups)} best values lie at the edge of their {grid}, "
            f"which should be widened: {where}"
        )
    if reduced.axes and not reduced.by:
        said.append("Nothing was chosen: no unit has a number of the validation part.")
    if not any(is_seed(n) and len(values) > 1 for n, values in axes(rows).items()):
        said.append("One seed a unit: nothing is said of how much comes by chance.")
    failed = sum(row["state"] == FAILED for row in rows)
    if failed:
        said.append(f"{failed} of {len(rows)} units failed; to train one again, delete its FAILED.")
    missing = [row["unit"] for row in rows if row["state"] not in (DONE, FAILED)]
    if missing:
        said.append(
            f"{len(missing)} of {len(rows)} units have not ended, the first {code(missing[0])}: "
            "run the same command again."
        )
    return said


def _how(reduced: Reduced) -> str:
    if not reduced.axes:
        return MEANS
    edge = "at an end of the range of the search" if reduced.search else "the last one tried"
    better = "higher" if reduced.higher else "lower"
    by = words.score(reduced.by) if reduced.by else "validation number"
    chosen = CHOICE.format(axes=" and ".join(reduced.axes), by=by, better=better, edge=edge)
    return f"{MEANS}\n\n{chosen}"


def _steps(reduced: Reduced) -> str:
    factors = [step for group in reduced.groups if (step := grid_step(group, "lr"))]
    if reduced.search or not factors:
        return MOVES
    return f"{MOVES} Rates were tried in steps of {min(factors):.3g}: less is not seen."
