"""What do the files of the E2E challenge hold? Meanings, and how people put them into words.

Lines of the LoRA paper's files, `name : Blue Spice | area : riverside||A coffee shop ... `, and
the challenge's own CSV with columns `mr` and `ref`. The prompt is the meaning as it stands there
with the `||` behind it; the response begins with the space that byte-level vocabularies put
before a word, and ends without the one that stands in the files. (The paper's script puts
GPT-2's end-of-text in the place of `||`, which no other vocabulary has.)
Source: Novikova et al. 2017, arXiv 1706.09254; github.com/microsoft/LoRA, examples/NLG.
"""

import pathlib
from collections.abc import Iterable, Iterator

from lorax.core.errors import LoraxError
from lorax.data import source
from lorax.data.rows import BadRows, Record, field, lines, not_empty, read_rows

SEPARATOR = "||"
"""Between a meaning and its text."""


def read_e2e(file: pathlib.Path, bad: BadRows) -> list[Record]:
    """The records of one file, `prompt` and `response`, one a reference.

    Args:
      bad: told of a line without `||` or with several, and of an empty half.

    Raises:
      LoraxError: the file cannot be read, or holds nothing.
    """
    pairs = _table(file, bad) if source.kind(file) == ".csv" else _lines(file, bad)
    return not_empty(_records(pairs, bad), str(file), bad)


def group(records: Iterable[Record]) -> list[Record]:
    """One record a prompt, in order of first appearance, with all its `references`.

    The `response` is the first of them. References have no white space around them.
    """
    first: dict[str, Record] = {}
    references: dict[str, list[str]] = {}
    for record in records:
        first.setdefault(record["prompt"], record)
        references.setdefault(record["prompt"], []).append(record["response"].strip())
    return [{**first[p], "references": tuple(texts)} for p, texts in references.items()]


def _records(pairs: Iterable[tuple[str, str, str]], bad: BadRows) -> Iterator[Record]:
    for where, meaning, text in pairs:
        if meaning.strip() and text.strip():
            prompt, response = meaning.strip() + SEPARATOR, f" {text.strip()}"
            yield {"prompt": prompt, "response": response, "where": where}
        else:
            bad.met(where, "nothing on one side of '||': expected a meaning and its text")


def _lines(file: pathlib.Path, bad: BadRows) -> Iterator[tuple[str, str, str]]:
    for where, line in lines(file, bad):
        parts = line.split(SEPARATOR)
        if len(parts) == 2:
            yield where, parts[0], parts[1]
        else:
            bad.met(where, f"'{SEPARATOR}' stands here {len(parts) - 1} times: expected once")


def _table(file: pathlib.Path, bad: BadRows) -> Iterator[tuple[str, str, str]]:
    for row in read_rows(file, "csv", bad):
        try:
            yield row.where, field(row.fields, "mr"), field(row.fields, "ref")
        except LoraxError as error:
            bad.met(row.where, str(error))
