"""What came of each unit of a study? One row: what learnt, from which seeds, and every number."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lorax.core.errors import LoraxError, check_choice
from lorax.train.metrics import read_metrics

ROWS, STUDY = "rows.jsonl", "study.json"

METHODS = DIRECT, SUBSPACE, LORA = "direct", "subspace", "lora"


@dataclasses.dataclass(frozen=True)
class Row:
    """One unit.

    Attributes:
      name: of its point, "sparse,d=750,lr=0.001,repeat=0".
      method: "direct" (all D numbers learn), "subspace" or "lora".
      projection: of a subspace; else "".
      trained: numbers that learn.
      total: D, numbers of all chosen leaves.
      dim: d of a subspace; else None.
      rank: of a LoRA; else None.
      repeat: which one, from 0.
      seeds: {"base", "projection", "data": seed}.
      lr: learning rate.
      epochs: trained.
      last: {"validation/accuracy": number} after the last epoch; None where it was not finite.
      best: the same names after the best epoch, and "epoch".
      start: the same names of the frozen start.
      curve: the study's metric after every epoch.
      seconds: its share of its program's time.
      packed: units of its program.
      failed: one line, of a unit that became NaN; else "".
    """

    name: str
    method: str
    projection: str
    trained: int
    total: int
    dim: int | None
    rank: int | None
    repeat: int
    seeds: Mapping[str, int]
    lr: float
    epochs: int
    last: Mapping[str, float | None]
    best: Mapping[str, float | None]
    start: Mapping[str, float | None]
    curve: Sequence[float | None]
    seconds: float
    packed: int
    failed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are None."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Row":
        """The row of `to_dict`.

        Raises:
          LoraxError: a key is missing or unknown, or the method is.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        missing, unknown = _without(names, record), _without(record, names)
        if missing or unknown:
            said = [f"without {', '.join(missing)}"] if missing else []
            said += [f"with unknown {', '.join(unknown)}"] if unknown else []
            raise LoraxError(
                f"the row '{record.get('name', '?')}' is {' and '.join(said)}: it is of another "
                "version; use another --workdir"
            )
        check_choice("method of a row", record["method"], METHODS)
        return cls(**record)


def read(file: pathlib.Path) -> list[Row]:
    """The rows of a rows.jsonl.

    Raises:
      LoraxError: there is none, it is damaged, or a row is of another version.
    """
    if not file.is_file():
        raise LoraxError(
            f"no rows at '{file}': expected {ROWS} in the --workdir of an experiments.intrinsic"
        )
    return [Row.from_dict(record) for record in read_metrics(file)]


def write(file: pathlib.Path, rows: Sequence[Row]) -> None:
    """One line a row; the file is there whole or not at all."""
    lines = [json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False) for row in rows]
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text("".join(line + "\n" for line in lines), "utf-8")
    partial.replace(file)


def value(row: Row, study: Mapping[str, Any], metric: str = "") -> float | None:
    """What counts of a row: `study.metric`, or another, of its last or best epoch.

    None where the unit failed or has no finite such number.
    """
    numbers = row.last if study["when"] == "last" else row.best
    found = None if row.failed else numbers.get(metric or study["metric"])
    return found if found is not None and math.isfinite(found) else None


def _without(names: Any, others: Any) -> list[str]:
    return [name for name in names if name not in others]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
