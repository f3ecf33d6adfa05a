"""What is known of a run? Its papers and its records; nothing else of a workdir is read."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._report.find import METRICS
from experiments._table import label as method
from lorax.core.errors import LoraxError
from lorax.train.metrics import read_metrics

Record = Mapping[str, Any]
Baselines = dict[str, dict[str, float | None]]

BASELINES = {"base": "frozen base", "majority": "majority class"}
"""Runs, or first parts of names in a result, that no training stands behind."""

UNTRAINED = "untrained model"
"""What a frozen base is called that nothing has trained yet."""

PRETRAIN = "pretrain"
"""The run that makes a fresh base, in the records of what is adapted then."""

_NO_SCORE = re.compile(
    r"run|kind|step|steps|epochs?|rank|alpha|learning_rate|trainable|total|parameters|tokens|"
    r"examples|l2_.*|seconds.*|.*_(bytes|sec|seconds|time|share|count)"
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One curve: what one call of training wrote.

    Attributes:
      label: `run` of its records.
      train, evals: its records, in order of their steps; one a step.
      result: what was recorded at its end; empty where it has not ended.
      scores: the last number of each evaluation; None where it was not finite.
    """

    label: str
    train: list[Record]
    evals: list[Record]
    result: Record
    scores: dict[str, float | None]

    @property
    def last_step(self) -> int:
        """The newest step that any record knows."""
        steps = (number(r.get("step")) for r in (*self.train, *self.evals, self.result))
        return int(max((step for step in steps if step is not None), default=0))

    def cost(self, *names: str) -> float | None:
        """The first of `names` that the result has, or the last record of training."""
        records = (self.result, self.train[-1] if self.train else {})
        found = (number(r.get(name)) for r in records for name in names)
        return next((value for value in found if value is not None), None)

    def losses(self) -> tuple[list[int], list[float]]:
        """(steps, values) of the training loss, without label smoothing where that is recorded."""
        return self.series("nats" if any("nats" in r for r in self.train) else "loss")

    def series(self, name: str, kind: str = "train") -> tuple[list[int], list[float]]:
        """(steps, values) of a number; NaN where it was not finite."""
        records = [r for r in (self.train if kind == "train" else self.evals) if name in r]
        values = [number(r[name]) for r in records]
        return [r["step"] for r in records], [math.nan if v is None else v for v in values]


@dataclasses.dataclass(frozen=True)
class Workdir:
    """One folder.

    Attributes:
      path: of the folder.
      name: of it, for people.
      papers: config, overrides and env, as far as they are there.
      runs: usually one; the quickstart and the comparison have many.
      baselines: {"frozen base": {score: number}}, or of an "untrained model".
      samples: the first records of samples.jsonl.
      resumed: how often it went on after an interruption.
      odd: what is missing or torn, one line each.
    """

    path: pathlib.Path
    name: str
    papers: dict[str, Any]
    runs: list[Run]
    baselines: Baselines
    samples: list[Record]
    resumed: int
    odd: list[str]

    @property
    def config(self) -> dict[str, Any]:
        """What was run; empty where that is not known."""
        return self.papers.get("config", {})

    @property
    def adapted(self) -> list[Run]:
        """The runs without the making of a fresh base, if there is any other."""
        return [run for run in self.runs if run.label != PRETRAIN] or self.runs

    def title(self, run: Run, alone: bool) -> str:
        """A run's name among the others; `alone` if all are of this folder."""
        if self.adapted == [run]:
            return self.name
        name, at, rate = run.label.partition("@")
        text = method(name) + (f", rate {rate}" if at else "")
        return text if alone else f"{self.name}: {text}"


def read(path: pathlib.Path, name: str) -> Workdir:
    """All that a report needs of a folder.

    Raises:
      LoraxError: metrics.jsonl cannot be read, or has no record of a run.
    """
    odd: list[str] = []
    found = {paper: _paper(path / f"{paper}.json", odd) for paper in ("config", "overrides", "env")}
    records = read_metrics(path / METRICS)
    if not (path / METRICS).read_bytes().endswith(b"\n"):
        odd.append(f"the last line of {METRICS} is torn and was left out")
    runs, baselines = _sorted(records)
    if not runs:
        raise LoraxError(
            f"'{path / METRICS}' has no record of a run yet: train first, or check --workdir"
        )
    papers = {paper: value for paper, value in found.items() if value is not None}
    if _untrained(papers.get("config", {})) and BASELINES["base"] in baselines:
        baselines = {UNTRAINED: baselines.pop(BASELINES["base"]), **baselines}
    starts = papers.get("env", {}).get("started")
    resumed = sum(record.get("kind") == "resume" for record in records)
    resumed = max(resumed, len(starts) - 1 if isinstance(starts, list) else 0)
    samples = _samples(path / "samples.jsonl", odd)
    return Workdir(path, name, papers, runs, baselines, samples, resumed, odd)


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return value if real and -1e300 < value < 1e300 else None


def _untrained(config: Mapping[str, Any]) -> bool:
    """Is the base a fresh model as it was drawn?"""
    model, pretrain = config.get("model"), config.get("pretrain")
    if not isinstance(model, dict) or not isinstance(pretrain, dict):
        return False
    return not model.get("source", True) and not pretrain.get("steps", True)


def _sorted(records: Sequence[Record]) -> tuple[list[Run], Baselines]:
    """Records by run, in order of first appearance; those without training are baselines."""
    curves: dict[str, tuple[list[Record], list[Record]]] = {}
    results: dict[str, dict[str, Any]] = {}
    for record in records:
        label, kind = str(record.get("run", "run")), record.get("kind")
        if kind in ("train", "eval") and number(record.get("step")) is not None:
            _append(curves.setdefault(label, ([], []))[kind == "eval"], record)
        elif kind == "result":
            rate = number(record.get("learning_rate"))
            # the comparison names a result by its method, and its curve by method and rate
            fine = label if rate is None else f"{label}@{rate:g}"
            results.setdefault(fine if fine in curves else label, {}).update(record)
    evaluated = {name for _, evals in curves.values() for record in evals for name in record}
    runs, baselines = [], _baselines(results, evaluated)
    for label in dict.fromkeys([*curves, *(set(results) - set(BASELINES))]):
        train, evals = curves.get(label, ([], []))
        result = results.get(label, {})
        last = _scores(evals[-1], evaluated) if evals else {}
        runs.append(Run(label, train, evals, result, {**last, **_scores(result, evaluated)}))
    return runs, baselines


def _baselines(results: Mapping[str, Record], evaluated: set[str]) -> Baselines:
    found: Baselines = {}
    for label, result in results.items():
        if label in BASELINES:
            found.setdefault(BASELINES[label], {}).update(_scores(result, evaluated))
        for name, value in result.items():
            prefix, _, rest = name.partition("/")
            if prefix in BASELINES and rest:
                found.setdefault(BASELINES[prefix], {})[rest] = number(value)
    return found


def _scores(record: Record, evaluated: set[str]) -> dict[str, float | None]:
    """What of a record is a score: `split/metric`, or a bare name that an evaluation has too."""
    return {
        name: number(value)
        for name, value in record.items()
        if ("/" in name or name in evaluated)
        and not _NO_SCORE.fullmatch(name.rpartition("/")[2])
        and name.partition("/")[0] not in BASELINES
        and (value is None or number(value) is not None)
    }


def _append(curve: list[Record], record: Record) -> None:
    """A step that comes again replaces what was recorded from it on."""
    while curve and curve[-1]["step"] >= record["step"]:
        curve.pop()
    curve.append(record)


def _paper(file: pathlib.Path, odd: list[str]) -> dict[str, Any] | None:
    if not file.is_file():
        odd.append(f"there is no {file.name}")
        return None
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        odd.append(f"{file.name} is no JSON object and was left out")
        return None
    return value


def _samples(file: pathlib.Path, odd: list[str]) -> list[Record]:
    if not file.is_file():
        return []
    try:
        return list(read_metrics(file))
    except LoraxError:
        odd.append(f"{file.name} is not one JSON object a line and was left out")
        return []
