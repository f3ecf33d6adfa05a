"""What does CLINC150 hold? Sentences and what is wanted by them, all splits in one JSON file.

Larson et al., "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction", 2019,
arXiv:1909.02027: {"train": [[text, intent], ...], "val": ..., "test": ...}, 150 intents.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from lorax.core.errors import LoraxError, check_choice
from lorax.core.paths import nearest
from lorax.data import source
from lorax.data.rows import Row


def read_clinc(name: str, labels: Sequence[str]) -> Iterator[Row]:
    """The rows of a split, with the columns text and label.

    Args:
      name: `file.json:split`.
      labels: the intents that are wanted, rows of others are left out; empty for all.

    Raises:
      LoraxError: a name of another form, a file that is missing or no such JSON, no such split, or
        an intent that no row has.
    """
    path, _, split = name.rpartition(":")
    if not path:
        raise LoraxError(f"'{name}' names no split: expected file.json:split, data.json:train say")
    pairs = _pairs(path, split)
    there = sorted({intent for _, intent in pairs})
    for label in labels:
        if label not in there:
            near = (*nearest(label, there, 1), *there)[0]
            raise LoraxError(f"no row of '{name}' has the intent '{label}': did you mean '{near}'?")
    for number, (text, intent) in enumerate(pairs):
        if not labels or intent in labels:
            yield Row(f"{path}, {split} {number}", {"text": text, "label": intent})


def _pairs(path: str, split: str) -> list[tuple[str, str]]:
    try:
        data = json.loads(source.read_text(path))
    except ValueError as error:
        raise LoraxError(f"'{path}' is no JSON ({str(error)[:80]}): copy the file again") from None
    if not isinstance(data, dict) or not all(map(_is_split, data.values())):
        raise LoraxError(
            f"'{path}' is not CLINC150: expected an object of splits, lists of [text, intent]"
        )
    check_choice(f"the split of '{path}'", split, tuple(data))
    return [(text, intent) for text, intent in data[split]]


def _is_split(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        for pair in value
    )
