"""What are the rows of a file? JSON Lines, CSV and TSV as dicts, each with its file and line.

A row that cannot be used is an error that names file and line, or is counted and left out: that
is for a `BadRows` to say, which goes through every reader. Blank lines are no rows. Records are
what readers make of rows: plain dicts of what a task needs, and of `where` it stands.
"""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lorax.core.errors import LoraxError, check_choice
from lorax.core.paths import nearest
from lorax.data import source

Record = dict[str, Any]
"""`text`; or `prompt` and `response`; or `text`, `pair` and `label`; or `image` and `label`."""

COLUMNS = {"text": "text", "pair": "", "label": "label", "prompt": "", "response": ""}
"""Which column holds what; an empty prompt or response stands for a column of that name."""

ROLES = {
    "language": ("text",),
    "completion": ("prompt", "response"),
    "classification": ("text", "pair", "label"),
    "regression": ("text", "pair", "label"),
}
"""What a record of each task is made of."""


class Row(NamedTuple):
    """The fields of one row by the name of their column, and where it is: `file:line`."""

    where: str
    fields: dict[str, Any]


@dataclasses.dataclass
class BadRows:
    """What becomes of rows that cannot be used: "error" tells the first, "skip" counts them.

    Attributes:
      on_bad_row: "error" or "skip".
      count: rows left out so far.
      first: where the first of them is, and what is wrong with it.

    Raises:
      LoraxError: `on_bad_row` is something else.
    """

    on_bad_row: str = "error"
    count: int = 0
    first: str = ""

    def __post_init__(self) -> None:
        check_choice("on_bad_row", self.on_bad_row, ("error", "skip"))

    def met(self, where: str, reason: str) -> None:
        """Takes note of a bad row, unless that is an error: LoraxError with one line."""
        if self.on_bad_row == "error":
            raise LoraxError(f"{where}: {reason}; correct it, or set on_bad_row=skip")
        self.count += 1
        self.first = self.first or f"{where}: {reason}"


def lines(file: pathlib.Path, bad: BadRows) -> Iterator[tuple[str, str]]:
    """(where, line) of every line that is not blank; one that is no UTF-8 is a bad row."""
    # only \n ends a line: text may hold other characters that Python takes for ends of lines
    for number, line in enumerate(_text(file).split("\n"), 1):
        line = line.removesuffix("\r")
        where = f"{file}:{number}"
        if line.strip(" ") and _is_utf8(where, line, bad):
            yield where, line


def fields(file: pathlib.Path, bad: BadRows) -> Iterator[tuple[str, list[str]]]:
    """(where, fields) of every line of a TSV file: quote characters are text like any other."""
    for where, line in lines(file, bad):
        yield where, line.split("\t")


def read_rows(file: pathlib.Path, format: str, bad: BadRows) -> Iterator[Row]:
    """The rows of a file.

    Args:
      format: "jsonl" (an object a line, or one list of objects), "csv" or "tsv" (with a header).
      bad: told of a wrong number of fields, wrong JSON, something else than an object, wrong
        UTF-8.

    Raises:
      LoraxError: the file cannot be read, its header names a column twice, or `format` is none.
    """
    readers: dict[str, Callable[[pathlib.Path, BadRows], Iterator[Row]]] = {
        "jsonl": _json,
        "csv": lambda file, bad: _table(file, _csv(file, bad), bad),
        "tsv": lambda file, bad: _table(file, fields(file, bad), bad),
    }
    check_choice("format", format, tuple(readers))
    return readers[format](file, bad)


def to_records(
    rows: Iterable[Row], task: str, columns: Mapping[str, str], bad: BadRows
) -> Iterator[Record]:
    """What `task` needs of each row; labels are still text, for `lorax.data.labels`.

    Args:
      task: "language", "completion", "classification" or "regression".
      columns: the column of each role, as in `COLUMNS`; what is left out is as there.
      bad: told of a missing column and of an empty field.

    Raises:
      LoraxError: an unknown task, or a role in `columns` that is none.
    """
    check_choice("task", task, tuple(ROLES))
    for role in columns:
        check_choice("a role in columns", role, tuple(COLUMNS))
    names = {role: COLUMNS[role] or role for role in ROLES[task] if role != "pair"}
    names |= {role: columns[role] for role in ROLES[task] if columns.get(role)}
    empty = {"pair": ""} if "pair" in ROLES[task] else {}
    for row in rows:
        try:
            found = {role: field(row.fields, name) for role, name in names.items()}
        except LoraxError as error:
            bad.met(row.where, str(error))
            continue
        yield {**empty, **found, "where": row.where}


def field(fields: Mapping[str, Any], name: str) -> str:
    """The text in the column `name`; numbers and booleans as JSON writes them.

    Raises:
      LoraxError: there is no such column, or nothing in it, or something nested; the message
        names the columns that there are.
    """
    if name not in fields:
        near = nearest(name.lower(), map(str.lower, fields), 1)
        hint = next((f": did you mean '{f}'?" for f in fields if f.lower() in near), "")
        there = ", ".join(fields) or "none"
        raise LoraxError(f"there is no column '{name}' (there are {there}){hint}")
    value = fields[name]
    if isinstance(value, list | dict):
        raise LoraxError(f"column '{name}' holds a {type(value).__name__}: expected text")
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    if not text.strip():
        raise LoraxError(f"column '{name}' is empty")
    return text


def not_empty(records: Iterable[Record], name: str, bad: BadRows) -> list[Record]:
    """The records as a list.

    Raises:
      LoraxError: there are none; the message says what was wrong with those that were skipped.
    """
    found = list(records)
    if found:
        return found
    why = f", all {bad.count} were skipped: {bad.first}" if bad.count else ""
    raise LoraxError(f"'{name}' holds no rows{why or ': expected at least one; check the file'}")


def _text(file: pathlib.Path) -> str:
    """Bytes that are no UTF-8 become lone surrogates, so that their row alone is bad."""
    text = source.read_bytes(file).decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff")


def _is_utf8(where: str, text: str, bad: BadRows) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        bad.met(where, f"character {error.start + 1} is no UTF-8")
        return False
    return True


def _csv(file: pathlib.Path, bad: BadRows) -> Iterator[tuple[str, list[str]]]:
    """Quoted fields may hold line ends: a row is where it begins."""
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    while True:
        where = f"{file}:{reader.line_num + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad.met(where, f"no CSV ({error})")
            continue
        if values and all(_is_utf8(where, value, bad) for value in values):
            yield where, values


def _table(
    file: pathlib.Path, found: Iterator[tuple[str, list[str]]], bad: BadRows
) -> Iterator[Row]:
    where, header = next(found, ("", []))
    header = [name.strip() for name in header]
    if len(set(header)) < len(header):
        raise LoraxError(f"{where}: the header names a column twice: {', '.join(header)}")
    for where, values in found:
        if len(values) != len(header):
            reason = f"{len(values)} fields, but the header names {len(header)}"
            bad.met(where, f"{reason} ({', '.join(header)})")
            continue
        yield Row(where, dict(zip(header, values, strict=True)))


def _json(file: pathlib.Path, bad: BadRows) -> Iterator[Row]:
    text = _text(file)
    if text.lstrip().startswith("["):
        yield from _json_list(file, text, bad)
        return
    for where, line in lines(file, bad):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.met(where, f"no JSON ({str(error)[:80]})")
            continue
        yield from _object(where, value, bad)


def _json_list(file: pathlib.Path, text: str, bad: BadRows) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraxError(
            f"'{file}' is no JSON ({str(error)[:80]}): expected a list of objects, or an object a "
            "line"
        ) from None
    for number, value in enumerate(values, 1):
        yield from _object(f"{file}, entry {number}", value, bad)


def _object(where: str, value: Any, bad: BadRows) -> Iterator[Row]:
    if not isinstance(value, dict):
        bad.met(where, f"a JSON {type(value).__name__}, not an object")
    elif all(_is_utf8(where, text, bad) for text in value.values() if isinstance(text, str)):
        yield Row(where, value)
