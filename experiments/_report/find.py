"""Which folders are runs? Those that hold a metrics.jsonl: named, matched by a glob, or below."""

import glob
import os
import pathlib
import re
from collections.abc import Sequence

from lorax.core.errors import LoraxError

METRICS = "metrics.jsonl"


def find(places: Sequence[str | os.PathLike[str]]) -> list[pathlib.Path]:
    """The workdirs of `places`, each once, numbers in names in their own order (r2 before r16).

    Args:
      places: a workdir, a folder with workdirs below it, or a glob of such.

    Raises:
      LoraxError: a place that does not exist, or holds no run.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for place in places:
        for folder in _folders(os.path.expanduser(place)):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def is_run(place: str | os.PathLike[str]) -> bool:
    """Is `place` itself a workdir?"""
    return (pathlib.Path(os.path.expanduser(place)) / METRICS).is_file()


def names(folders: Sequence[pathlib.Path]) -> list[str]:
    """A short name for each: its path without what all have in common."""
    whole = [folder.resolve() for folder in folders]
    if len(whole) == 1:
        return [whole[0].name]
    root = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(root).as_posix() for path in whole]


def _folders(place: str) -> list[pathlib.Path]:
    path = pathlib.Path(place)
    if glob.has_magic(place) and not path.exists():
        matches = [pathlib.Path(match) for match in glob.glob(place, recursive=True)]
        runs = [run for match in sorted(matches, key=_natural) for run in _below(match)]
        return runs or _refuse(f"'{place}' matches no run")
    if path.is_file() and path.name != METRICS:
        return _refuse(f"'{place}' is a file")
    if not path.exists():
        return _refuse(f"there is no folder '{place}'")
    if path.is_file():
        return [path.parent]
    return _below(path) or _refuse(f"'{place}' is not a run: neither it nor a folder below it is")


def _below(path: pathlib.Path) -> list[pathlib.Path]:
    """`path` if it is a run, else the runs below it; what a run holds is not looked at."""
    if (path / METRICS).is_file():
        return [path]
    if not path.is_dir():
        return []
    inner = [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]
    inner = [entry for entry in inner if not entry.name.startswith((".", "unfinished-"))]
    return [run for entry in sorted(inner, key=_natural) for run in _below(entry)]


def _natural(path: pathlib.Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _refuse(reason: str) -> list[pathlib.Path]:
    raise LoraxError(f"{reason}: expected a workdir, which holds {METRICS}; check --workdir")
