"""How does an instruction become a prompt? Templates by name, and the fields of known data sets.

Known by their fields: Alpaca's `instruction`, `input` (may be missing) and `output`; GSM8K's
`question` and `answer`, whose `<<48/2=24>>` notes are taken out and whose final answer, behind
`####`, is kept as `answer`. Of any other rows `columns` says which are prompt and response.
Sources: Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca; Cobbe et al. 2021, arXiv
2110.14168.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lorax.core.errors import LoraxError, check_choice
from lorax.data.rows import COLUMNS, BadRows, Record, Row, field


class Template(NamedTuple):
    """A prompt around `{instruction}`, and one around `{instruction}` and `{input}`."""

    alone: str
    with_input: str


TEMPLATES = {
    # word for word what adapters trained on Alpaca expect, with Alpaca-LoRA's line end
    "alpaca": Template(
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n",
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    ),
    "plain": Template("{instruction}\n\n", "{instruction}\n\n{input}\n\n"),
    "chat": Template(
        "User:\n{instruction}\n\nAssistant:\n", "User:\n{instruction}\n\n{input}\n\nAssistant:\n"
    ),
}
"""By the name that a config gives them. All end a line: a response begins at a word."""

_LAYOUTS = (("instruction", "output"), ("question", "answer"))
_NOTE = re.compile(r"<<[^<>]*>>")
_FINAL = "####"


def fill(template: str, instruction: str, input: str = "") -> str:
    """The prompt for an instruction, and for what it is about where that is given.

    Raises:
      LoraxError: there is no such template.
    """
    check_choice("template", template, tuple(TEMPLATES))
    form = TEMPLATES[template]
    if not input.strip():
        return form.alone.format(instruction=instruction)
    return form.with_input.format(instruction=instruction, input=input)


def to_prompts(
    rows: Iterable[Row], template: str, columns: Mapping[str, str], bad: BadRows
) -> Iterator[Record]:
    """`prompt` and `response` of every row; of GSM8K's also `answer`, for exact match.

    Args:
      template: the name of a template.
      columns: where `prompt` and `response` name columns, these are instruction and output.
      bad: told of a missing column and of an empty field. Alpaca's own data has empty outputs.

    Raises:
      LoraxError: there is no such template, or `columns` names a role that is none.
    """
    check_choice("template", template, tuple(TEMPLATES))
    for role in columns:
        check_choice("a role in columns", role, tuple(COLUMNS))
    named = (columns.get("prompt", ""), columns.get("response", ""))
    for row in rows:
        try:
            yield {**_record(row.fields, template, named), "where": row.where}
        except LoraxError as error:
            bad.met(row.where, str(error))


def _record(fields: dict[str, Any], template: str, named: tuple[str, str]) -> Record:
    asked, answered = next((pair for pair in _LAYOUTS if pair[0] in fields), _LAYOUTS[0])
    asked, answered = named[0] or asked, named[1] or answered
    context = field(fields, "input") if _has_input(fields) else ""
    prompt, response = fill(template, field(fields, asked), context), field(fields, answered)
    if (asked, answered) != _LAYOUTS[1]:
        return {"prompt": prompt, "response": response}
    # the notes are for a calculator that runs beside the model
    response = _NOTE.sub("", response)
    _, mark, answer = response.rpartition(_FINAL)
    final = {"answer": answer.strip().replace(",", "")} if mark else {}
    return {"prompt": prompt, "response": response, **final}


def _has_input(fields: dict[str, Any]) -> bool:
    value = fields.get("input")
    return value is not None and (not isinstance(value, str) or bool(value.strip()))
