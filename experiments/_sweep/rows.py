"""What came of each unit? One row: its point, what was trained, every number of its result."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._report.find import METRICS
from experiments._sweep.units import Unit
from lorax.core.errors import LoraxError
from lorax.train.metrics import read_metrics

SWEEP, ROWS, UNITS = "sweep.json", "rows.jsonl", "units"
DONE, FAILED, STARTED, NEW = "done", "failed", "started", "new"

SETTING = ("unit", "point", "state", "failed", "adapter", "rank", "alpha", "scaling", "initializer",
           "init_scale", "dropout", "targets", "where", "learning_rate", "steps")  # fmt: skip
"""What of a row is no number of the result."""

_OTHER = ("run", "kind", "step", *SETTING)

Row = Mapping[str, Any]


def folder(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """The workdir of a unit, below that of the sweep."""
    return workdir / UNITS / name


def state(workdir: pathlib.Path, name: str) -> str:
    """How far a unit is: "done", "failed" (it became NaN), "started" or "new"."""
    place = folder(workdir, name)
    if (place / "DONE").exists():
        return DONE
    if (place / "FAILED").exists():
        return FAILED
    return STARTED if place.is_dir() else NEW


def left(workdir: pathlib.Path, units: Sequence[Unit]) -> list[Unit]:
    """The units that are neither done nor failed."""
    return [unit for unit in units if state(workdir, unit.name) not in (DONE, FAILED)]


def row(workdir: pathlib.Path, unit: Unit) -> dict[str, Any]:
    """The row of one unit.

    Always there, None where the adapter has none: rank, alpha, scaling, initializer, init_scale,
    dropout, targets (the label of `where`, or its expressions), where, learning_rate, steps (made),
    trainable. With the numbers of the record `result` under their names, None where they were not
    finite; and `failed`, the one line, of a unit that failed.

    Raises:
      LoraxError: its metrics.jsonl is damaged.
    """
    config, now = unit.config, state(workdir, unit.name)
    file = folder(workdir, unit.name) / METRICS
    records = read_metrics(file) if file.is_file() else []
    results = [r for r in records if r.get("kind") == "result"]
    steps = [r["step"] for r in records if isinstance(r.get("step"), int)]
    adapter = config.adapter.to_dict()
    names = ("rank", "alpha", "scaling", "initializer", "init_scale", "dropout")
    found: dict[str, Any] = {"unit": unit.name, "point": dict(unit.point), "state": now}
    if now == FAILED:
        found["failed"] = _line(folder(workdir, unit.name) / "FAILED")
    found |= {"adapter": adapter.get("adapter"), **{name: adapter.get(name) for name in names}}
    found |= {"targets": _targets(unit, adapter), "where": adapter.get("where")}
    found["learning_rate"] = config.optimizer.learning_rate
    found |= {"steps": max(steps, default=0), "trainable": None}
    result = results[-1] if results else {}
    return found | {n: v for n, v in result.items() if n not in _OTHER and _is_number(v)}


def read_rows(file: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a rows.jsonl.

    Raises:
      LoraxError: there is none, or it is damaged.
    """
    if not file.is_file():
        raise LoraxError(
            f"no rows at '{file}': expected {ROWS} in the --workdir of an experiments.sweep"
        )
    return read_metrics(file)


def write_rows(workdir: pathlib.Path, rows: Sequence[Row]) -> None:
    """rows.jsonl, whole or not at all."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    partial = workdir / f".{ROWS}.partial"
    partial.write_text(text, "utf-8")
    partial.replace(workdir / ROWS)


def numbers(rows: Sequence[Row]) -> list[str]:
    """The names of all numbers of results, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in SETTING))


def _targets(unit: Unit, adapter: Mapping[str, Any]) -> str | None:
    where = adapter.get("where")
    if "adapter.where" in unit.overrides:
        return next(
            (str(v) for n, v in unit.point.items() if n.rpartition(".")[2] == "where"), None
        )
    return " and ".join(map(str, where)) if isinstance(where, tuple | list) else where


def _line(file: pathlib.Path) -> str:
    return " ".join(file.read_text("utf-8", "replace").split())


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
