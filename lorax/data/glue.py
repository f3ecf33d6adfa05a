"""What do the files of GLUE hold? One table of its eight tasks, and one reader for all.

Sources: the layout of the official archives, gluebenchmark.com/tasks; Wang et al. 2018, arXiv
1804.07461, table 1. Files that were cut from the official ones, with a header or without, are
read as well. The official test files carry no labels, so results are reported on dev.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

from lorax.core.errors import LoraxError, check_choice
from lorax.data.labels import classes, values
from lorax.data.rows import BadRows, Record, Row, fields, not_empty, to_records


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of GLUE.

    Attributes:
      folder: of its files in the official archive.
      columns: of a file without a header, in order; a header wins.
      text, pair, label: which columns they are; `pair` is empty for single sentences.
      labels: the names of the classes in order; empty for a regression.
      metrics: what GLUE scores, most important first.
      dev: its held-out files; both of MNLI count.
    """

    folder: str
    columns: tuple[str, ...]
    text: str
    pair: str
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    dev: tuple[str, ...] = ("dev.tsv",)

    @property
    def kind(self) -> str:
        """The task in the words of a config: "classification" or "regression"."""
        return "classification" if self.labels else "regression"


_PARSES = tuple(f"sentence{i}_{form}" for form in ("binary_parse", "parse") for i in (1, 2))
_PAIR = ("sentence1", "sentence2")

TASKS = {
    "mnli": Task(
        "MNLI",
        ("index", "promptID", "pairID", "genre", *_PARSES, *_PAIR, "label1", "gold_label"),
        *_PAIR,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        dev=("dev_matched.tsv", "dev_mismatched.tsv"),
    ),
    "sst2": Task("SST-2", ("sentence", "label"), "sentence", "", "label", ("negative", "positive")),
    "mrpc": Task(
        "MRPC",
        ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        "#1 String",
        "#2 String",
        "Quality",
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
    ),
    "cola": Task(
        "CoLA",
        ("source", "label", "mark", "sentence"),
        "sentence",
        "",
        "label",
        ("unacceptable", "acceptable"),
        ("matthews",),
    ),
    "qnli": Task(
        "QNLI",
        ("index", "question", "sentence", "label"),
        "question",
        "sentence",
        "label",
        ("entailment", "not_entailment"),
    ),
    "qqp": Task(
        "QQP",
        ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        "question1",
        "question2",
        "is_duplicate",
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
    ),
    "rte": Task(
        "RTE", ("index", *_PAIR, "label"), *_PAIR, "label", ("entailment", "not_entailment")
    ),
    "stsb": Task(
        "STS-B",
        ("index", "genre", "filename", "year", "old_index", "source1", "source2", *_PAIR, "score"),
        *_PAIR,
        "score",
        (),
        ("pearson", "spearman"),
    ),
}
"""The tasks by the name that a config gives them."""

STSB_SPAN = (0.0, 5.0)
"""The scores of STS-B, from unrelated to equal in meaning."""


def task(name: str) -> Task:
    """The task `name`, in any case and with or without its hyphen: "sst2", "SST-2", "STS-B".

    Raises:
      LoraxError: GLUE has no such task.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    check_choice("the name of a GLUE task", plain, tuple(TASKS))
    return TASKS[plain]


def read_glue(file: pathlib.Path, name: str, bad: BadRows) -> list[Record]:
    """The records of one file, `text`, `pair` and a class or a score as `label`.

    Args:
      name: of the task.
      bad: told of a wrong number of fields, an empty sentence, an unknown label or a score out of
        range. The official QQP has some such rows.

    Raises:
      LoraxError: the file cannot be read, has no labels, or holds nothing.
    """
    form = task(name)
    columns = {"text": form.text, "pair": form.pair, "label": form.label}
    records = to_records(_rows(file, form, bad), form.kind, columns, bad)
    if form.labels:
        return not_empty(classes(records, form.labels, bad)[0], str(file), bad)
    return not_empty(values(records, bad, *STSB_SPAN), str(file), bad)


def _rows(file: pathlib.Path, form: Task, bad: BadRows) -> Iterator[Row]:
    columns = None
    for where, found in fields(file, bad):
        if columns is None:
            has_header = form.text in found
            if has_header and form.label not in found:
                raise LoraxError(
                    f"{where}: there is no column '{form.label}' among {', '.join(found)}: GLUE's "
                    f"test files have no labels; use {form.folder}/{form.dev[0]}"
                )
            columns = found if has_header else list(form.columns)
            if has_header:
                continue
        if len(found) != len(columns):
            bad.met(where, f"{len(found)} fields: expected {len(columns)}, {', '.join(columns)}")
            continue
        yield Row(where, dict(zip(columns, found, strict=True)))
