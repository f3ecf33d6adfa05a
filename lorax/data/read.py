"""What does a data set hold? Records of any format, from files, the hub, Python or a generator.

    train = read("jsonl", "reviews/*.jsonl.gz", task="classification",
                 columns={"text": "review", "label": "stars"})
    test = read("jsonl", "reviews.test.jsonl", task="classification", labels=train.labels)
    encoded = encode(train.rows, tokenizer, task="classification", length=128, too_long="cut")

Formats, and what `path` is for each:

  text             files, a record each                              task language
  jsonl, csv, tsv  files of rows, or hub:org/name:split              any task
  glue             files of the GLUE task `name`                     classification, regression
  e2e              files of lines `meaning||text`, or CSV            completion
  instructions     files of rows, by their ending, or hub:...        completion
  clinc            FILE:SPLIT of CLINC150; rows of `labels` alone    classification
  mnist            the file of images, or how its name begins        classification
  npz              FILE:SPLIT, arrays x_SPLIT and y_SPLIT in it      classification
  digits           "digits", 8x8 images that ship with scikit-learn  classification
  python           "english" or "source", which ship with Python     language
  toy              the name of a split, such as "train"              any task

Files are paths or globs, or names below LORAX_DATA, compressed or not. For mnist and digits
`labels` are "0" to "9", for npz the numbers that there are; for toy, `name` "images" asks for
images instead of text, with a class or a value, and the name of a GLUE task for as many classes and
sentences as that has.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from lorax.core.errors import LoraxError, check_choice
from lorax.data import glue, hub, instructions, python_text, source
from lorax.data.clinc import read_clinc
from lorax.data.digits import read_digits
from lorax.data.e2e import read_e2e
from lorax.data.idx import read_images
from lorax.data.labels import classes, values
from lorax.data.npz import read_npz
from lorax.data.rows import COLUMNS, ROLES, BadRows, Record, Row, not_empty, read_rows, to_records
from lorax.data.text import without_repeats
from lorax.data.toy import toy

DIGITS = tuple("0123456789")
IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class Records:
    """What was read.

    Attributes:
      rows: the records, dicts as in `lorax.data.rows.Record`; each also says `where` it stands.
      labels: names of the classes in order; empty but for classification.
      skipped: bad rows that were left out.
      first_skipped: where the first of them is, and what is wrong with it; or empty.
      source: the path as it was given.
    """

    rows: Sequence[Record]
    labels: tuple[str, ...] = ()
    skipped: int = 0
    first_skipped: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True)
class _Request:
    """The arguments of `read`."""

    format: str
    path: str
    task: str
    columns: Mapping[str, str]
    labels: tuple[str, ...]
    name: str
    template: str
    bad: BadRows
    seed: int


_Found = tuple[Iterable[Record], tuple[str, ...]]
"""Records, and the names of their classes."""


def read(
    format: str,
    path: str,
    *,
    task: str,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    name: str = "",
    template: str = "alpaca",
    on_bad_row: str = "error",
    seed: int = 0,
) -> Records:
    """The records of a data set; the arguments are fields of `config.data`.

    Args:
      format: see above.
      path: of the files; see above.
      task: "language", "completion", "classification" or "regression".
      columns: which column holds what; see `lorax.data.rows.COLUMNS`.
      labels: names of classes in order; empty: as the format or the data say. For held-out rows,
        those of the training rows.
      name: of a GLUE task.
      template: of instructions; see `lorax.data.instructions.TEMPLATES`.
      on_bad_row: "error" tells file and line of the first row that cannot be used, "skip" counts
        such rows and leaves them out.
      seed: of generated data.

    Raises:
      LoraxError: a format or task that is none, a task that the format is not for, a file that
        cannot be read, a bad row, or no rows at all.
    """
    check_choice("format", format, tuple(_FORMATS))
    check_choice("task", task, tuple(ROLES))
    reader, tasks = _FORMATS[format]
    if task not in tasks:
        raise LoraxError(f"format '{format}' is for the task {tasks[0]}, not for {task}")
    bad = BadRows(on_bad_row)
    given = tuple(map(str, labels))
    wanted = _Request(format, path, task, columns or {}, given, name, template, bad, seed)
    found, names = reader(wanted)
    return Records(not_empty(found, path, bad), names, bad.count, bad.first, path)


def _read_text(wanted: _Request) -> _Found:
    if wanted.path.startswith(hub.PREFIX):
        return _read_rows(wanted)
    texts = ((str(file), source.read_text(str(file))) for file in source.find_all(wanted.path))
    return [{"text": text, "where": file} for file, text in texts if text.strip()], ()


def _read_rows(wanted: _Request) -> _Found:
    rows, known = _rows(wanted, lambda file: wanted.format)
    records = to_records(rows, wanted.task, wanted.columns, wanted.bad)
    if wanted.task == "classification":
        column = wanted.columns.get("label") or COLUMNS["label"]
        return classes(records, wanted.labels or known.get(column, ()), wanted.bad)
    return (values(records, wanted.bad) if wanted.task == "regression" else records), ()


def _read_glue(wanted: _Request) -> _Found:
    form = glue.task(wanted.name)
    if form.kind != wanted.task:
        raise LoraxError(f"GLUE's {wanted.name} is a {form.kind}: set task to {form.kind}")
    files = source.find_all(wanted.path)
    found = (r for file in files for r in glue.read_glue(file, wanted.name, wanted.bad))
    return found, form.labels


def _read_e2e(wanted: _Request) -> _Found:
    files = source.find_all(wanted.path)
    return (record for file in files for record in read_e2e(file, wanted.bad)), ()


def _read_instructions(wanted: _Request) -> _Found:
    rows, _ = _rows(wanted, _row_format)
    return instructions.to_prompts(rows, wanted.template, wanted.columns, wanted.bad), ()


def _read_clinc(wanted: _Request) -> _Found:
    rows = read_clinc(wanted.path, wanted.labels)
    return classes(to_records(rows, wanted.task, {}, wanted.bad), wanted.labels, wanted.bad)


def _read_mnist(wanted: _Request) -> _Found:
    labels = wanted.labels or DIGITS
    return read_images(wanted.path, len(labels), wanted.bad), labels


def _read_npz(wanted: _Request) -> _Found:
    return read_npz(wanted.path, wanted.labels, wanted.bad)


def _read_digits(wanted: _Request) -> _Found:
    check_choice("the path of format 'digits'", wanted.path, ("digits",))
    return read_digits(), wanted.labels or DIGITS


def _read_python(wanted: _Request) -> _Found:
    check_choice("the path of format 'python'", wanted.path, tuple(_PYTHON))
    documents = sorted(_PYTHON[wanted.path]().items())
    texts = ((name, data.decode("utf-8", "replace")) for name, data in documents)
    return [{"text": text, "where": name} for name, text in texts if text.strip()], ()


def _read_toy(wanted: _Request) -> _Found:
    form = glue.TASKS.get(wanted.name)
    kind, labels = wanted.task, wanted.labels or (form.labels if form else ())
    if kind == "regression" and wanted.name == IMAGES:
        kind = "sums"
    if kind == "classification":
        kind = IMAGES if wanted.name == IMAGES else kind
        labels = labels or (DIGITS if kind == IMAGES else DIGITS[:2])
    pair = bool(form.pair if form else wanted.columns.get("pair"))
    found = toy(kind, wanted.path, seed=wanted.seed, classes=len(labels) or 2, pair=pair)
    return found, labels if wanted.task == "classification" else ()


def _rows(
    wanted: _Request, format: Callable[[pathlib.Path], str]
) -> tuple[Iterable[Row], Mapping[str, tuple[str, ...]]]:
    """The rows of all files or of the hub, and the names of classes that the hub knows."""
    if wanted.path.startswith(hub.PREFIX):
        found = hub.read_hub(wanted.path)
        return found.rows, found.labels
    files = source.find_all(wanted.path)
    return (row for file in files for row in read_rows(file, format(file), wanted.bad)), {}


def _row_format(file: pathlib.Path) -> str:
    formats = {".json": "jsonl", ".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv"}
    ending = source.kind(file)
    if ending not in formats:
        raise LoraxError(
            f"'{file}' ends in '{ending}': expected instructions in .jsonl, .json, .csv or .tsv"
        )
    return formats[ending]


_PYTHON: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "english": lambda: without_repeats(python_text.english()),
    "source": python_text.python_source,
}

_ANY = tuple(ROLES)
_FORMATS: dict[str, tuple[Callable[[_Request], _Found], tuple[str, ...]]] = {
    "text": (_read_text, ("language",)),
    "jsonl": (_read_rows, _ANY),
    "csv": (_read_rows, _ANY),
    "tsv": (_read_rows, _ANY),
    "glue": (_read_glue, ("classification", "regression")),
    "e2e": (_read_e2e, ("completion",)),
    "instructions": (_read_instructions, ("completion",)),
    "clinc": (_read_clinc, ("classification",)),
    "mnist": (_read_mnist, ("classification",)),
    "npz": (_read_npz, ("classification",)),
    "digits": (_read_digits, ("classification",)),
    "python": (_read_python, ("language",)),
    "toy": (_read_toy, _ANY),
}
"""How each format is read, and the tasks that it is for."""
