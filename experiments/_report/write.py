"""How is a report written? All sections in order, each file beside its place and then renamed."""

import os
import pathlib
from collections.abc import Mapping, Sequence

from experiments._report import pictures, sections, tables, words
from experiments._report.find import find, is_run, names
from experiments._report.page import Block, Table, Text, code, escape, markdown, page, require
from experiments._report.runs import Run, Workdir, read
from experiments.figures import curves
from lorax.core.errors import LoraxError

Place = str | os.PathLike[str]


def write_report(workdirs: Sequence[Place], out: Place) -> pathlib.Path:
    """Writes report.md, report.html and plots/*.png; the path of report.md.

    The same files in give the same bytes out.

    Args:
      workdirs: of runs, folders that hold such, or globs.
      out: a folder, made if it is missing.

    Raises:
      LoraxError: no run is there, one that was named cannot be read, `out` cannot be written, or
        matplotlib or markdown-it-py is missing.
    """
    curves.require()
    require()
    found, odd = _read(workdirs)
    title, blocks, drawn = _content(found, odd)
    target = pathlib.Path(os.path.expanduser(out))
    return put_report(target, title, blocks, drawn, "choose another --out")


def put_report(
    folder: pathlib.Path,
    title: str,
    blocks: Sequence[Block],
    drawn: Mapping[str, bytes],
    cure: str,
    others: Mapping[str, bytes] | None = None,
) -> pathlib.Path:
    """Writes report.md, report.html and plots/; the path of report.md.

    Args:
      folder: made if it is missing.
      title, blocks: of the page.
      drawn: figures as PNG, by name.
      cure: what to do where the folder cannot be written and neither space nor rights help.
      others: more files, by name.

    Raises:
      LoraxError: the folder cannot be written.
    """
    files = {f"plots/{name}.png": png for name, png in drawn.items()} | dict(others or {})
    files["report.html"] = page(title, blocks).encode("utf-8", "replace")
    files["report.md"] = markdown(blocks).encode("utf-8", "replace")
    try:
        for name, data in files.items():
            _put(folder / name, data)
    except OSError as error:
        raise LoraxError(
            f"cannot write the report in '{folder}' ({error.strerror or error}): make the folder "
            f"writable, free some space, or {cure}"
        ) from None
    return folder / "report.md"


def _read(places: Sequence[Place]) -> tuple[list[Workdir], list[str]]:
    """The runs, and what is odd about those that were not named but found."""
    folders = find(places)
    named = {pathlib.Path(os.path.expanduser(p)).resolve() for p in places if is_run(p)}
    found, odd = [], list[str]()
    for folder, name in zip(folders, names(folders), strict=True):
        try:
            found.append(read(folder, name))
        except LoraxError as error:
            if folder.resolve() in named or len(folders) == 1:
                raise
            odd.append(f"{code(name)}: left out, {escape(error)}")
    if not found:
        raise LoraxError(f"none of {len(folders)} runs has a record yet: train first")
    return found, odd


def _content(
    found: Sequence[Workdir], odd: Sequence[str]
) -> tuple[str, list[Block], dict[str, bytes]]:
    """(title, blocks, {name: PNG})."""
    named = _titled(found)
    title, about = sections.about(found, named)
    figures, drawn = pictures.figures(named)
    blocks: list[Block] = [Text(f"# {escape(title)}"), Text(about)]
    blocks += sections.items("Warnings", sections.warnings(named))
    blocks += sections.items("Data", sections.notes(named))
    blocks += [Text("## Results"), Table(tables.results(named))]
    blocks += sections.remarks(named)
    if rows := tables.seeds(named):
        blocks += [Text("### Across seeds"), Table(rows), Text(sections.SEEDS)]
    if figures:
        blocks += [Text("## Curves"), *figures]
    if rows := tables.costs(named):
        blocks += [Text("## Cost"), Table(rows)]
    blocks += sections.configs(found)
    blocks += sections.environments(found)
    blocks += sections.samples(found)
    blocks += sections.items("What is missing", [*odd, *sections.missing(found)])
    return title, blocks, drawn


def _titled(found: Sequence[Workdir]) -> list[tuple[str, Workdir, Run]]:
    """Every run with its name; side by side, without the making of each folder's base."""
    alone = len(found) == 1
    pairs = [(w, run) for w in found for run in (w.runs if alone else w.adapted)]
    titles = words.brief([workdir.title(run, alone) for workdir, run in pairs])
    return [(title, *pair) for title, pair in zip(titles, pairs, strict=True)]


def _put(file: pathlib.Path, data: bytes) -> None:
    """Writes a file of a report, whole or not at all, in a folder that is made if it is missing.

    Raises:
      OSError: the disk refuses.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.partial")
    try:
        beside.write_bytes(data)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
