"""How does a language model classify? It answers with the name of a class, the likeliest of all.

A task `completion` with `config.data.labels` reads texts with classes: the text is the prompt, the
name of its class the response, behind which nothing stands. A held-out text is then given every
name as its response, and the class of the most likely one is what the model says of it.
"""

import dataclasses
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.data.read import Records
from lorax.data.rows import Record


def chosen(config: Any) -> bool:
    """Whether responses are names of classes, of which the likeliest is the answer."""
    return config.data.task == "completion" and bool(config.data.labels)


def as_completions(found: Records, too_long: str) -> Records:
    """Texts with classes as prompts with responses; `label` stays the number of the class.

    Raises:
      LoraxError: `too_long` is "skip", by which a text might be left out with one answer alone; or
        one name begins another, which could then never be the likelier of the two.
    """
    for name in found.labels:
        if longer := [other for other in found.labels if other != name and other.startswith(name)]:
            raise LoraxError(
                f"config.data.labels has '{name}' and '{longer[0]}': expected names of which none "
                "begins another, as the likeliest of them is the answer"
            )
    if too_long == "skip":
        raise LoraxError(
            "config.data.too_long is skip, but answers are chosen among config.data.labels: set it "
            "to cut, so that every text has every answer"
        )
    rows = [_with_response(_prompted(row), found.labels[row["label"]]) for row in found.rows]
    return dataclasses.replace(found, rows=rows)


def endless(tokenizer: Any) -> Any:
    """`tokenizer` without an end of text: which name it is, is all that is asked of a response."""
    names = ("encode", "encode_batch", "bos", "adds_bos")
    known = {name: getattr(tokenizer, name) for name in names if hasattr(tokenizer, name)}
    return types.SimpleNamespace(**known, eos=None)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What may be said of each row of a held-out set.

    Attributes:
      batches: one list a class, of the same rows with the name of that class as their response.
      right: (N,) the class of each row.
    """

    batches: Sequence[Sequence[Batch]]
    right: np.ndarray


def make_choices(
    rows: Sequence[Record],
    labels: Sequence[str],
    batched: Callable[[Sequence[Record]], Sequence[Batch]],
) -> Choices:
    """Every row with every name.

    Args:
      rows: of `as_completions`.
      labels: the names.
      batched: rows as batches, in their order.
    """
    found = [batched([_with_response(row, name) for row in rows]) for name in labels]
    return Choices(found, np.asarray([row["label"] for row in rows]))


def likeliest(nats: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whether the likeliest answer is the right one, nats of the right one), (N,) each.

    Args:
      nats: (C, N) of every answer as a whole.
      right: (N,) classes.
    """
    return nats.argmin(axis=0) == right, np.take_along_axis(nats, right[None], axis=0)[0]


def _prompted(row: Record) -> Record:
    prompt = "\n".join(filter(None, (row["text"], row["pair"])))
    return {"prompt": prompt, "label": row["label"], "where": row["where"]}


def _with_response(row: Record, name: str) -> Record:
    return {**row, "response": name}
