"""How do records become examples? Text through a tokenizer, and what too long a text does.

A tokenizer is anything with `encode(text) -> ids`, `eos`, `bos` and `adds_bos`; where it has
`encode_batch(texts)`, that is used. With BOS below only where the tokenizer `adds_bos`, and EOS
where it has one:

  language        the texts as one stream, EOS (else a blank line) between two, in windows of
                  `length` targets: each behind its own BOS; without BOS they overlap by a token,
                  so that all but the very first are targets once
  completion      BOS prompt response EOS; response and EOS are learnt
  classification, regression
                  BOS text EOS, and for pairs as RoBERTa has it BOS text EOS EOS pair EOS; with no
                  BOS a single EOS between them, with neither a line end
  images          pixels from 0 to 1, no tokens
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lorax.core.errors import LoraxError, check_choice
from lorax.data.example import Example, labelled, next_tokens
from lorax.data.rows import ROLES, Record


class Encoded(NamedTuple):
    """``examples``; how many too long records were ``cut`` and ``skipped``; and the UTF-8
    ``bytes`` of the texts or responses that are learnt, for bits per byte (0 for labels)."""

    examples: list[Example]
    cut: int = 0
    skipped: int = 0
    bytes: int = 0


def encode(
    records: Sequence[Record], tokenizer: Any, *, task: str, length: int, too_long: str = "error"
) -> Encoded:
    """The examples of `records`, in their order; of a language, its windows.

    Args:
      records: of `lorax.data.read`; those with an `image` need no tokenizer.
      task: "language", "completion", "classification" or "regression".
      length: the most tokens of an example, special ones included.
      too_long: what becomes of a longer one. "error" names its file and line; "skip" leaves it
        out; "cut" takes from the longer text of a pair, from the beginning of a prompt and only
        then from the end of its response.

    Raises:
      LoraxError: a record is too long, none is left, or `length` leaves no room for text.
    """
    check_choice("task", task, tuple(ROLES))
    if length < 1 or not records:
        raise LoraxError(
            f"cannot encode {len(records)} records in length {length}: expected 1 or more of each"
        )
    if "image" in records[0]:
        return Encoded([_image(record) for record in records])
    limit = _Limit(length, too_long)
    encoder = {"language": _language, "completion": _completions}.get(task, _labelled)
    examples = list(encoder(records, tokenizer, limit))
    if not examples:
        raise LoraxError(
            f"nothing is left of {len(records)} records: expected at least one of up to {length} "
            "tokens, and of more than one; raise length, or give more text"
        )
    return Encoded(examples, limit.cut, limit.skipped, limit.bytes)


@dataclasses.dataclass
class _Limit:
    """The most tokens of an example, what is done about longer ones, and the count of it all."""

    length: int
    too_long: str
    cut: int = 0
    skipped: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        check_choice("too_long", self.too_long, ("error", "cut", "skip"))

    def admits(self, record: Record, needed: int, learnt: str = "") -> bool:
        """Is an example made of a record of so many tokens, cut if need be? Counts `learnt`."""
        if needed > self.length:
            if self.too_long == "error":
                raise LoraxError(
                    f"{record.get('where', 'a record')}: {needed} tokens, the most is "
                    f"{self.length}: raise length, as far as the model reads, or set too_long to "
                    "cut or skip"
                )
            self.cut += self.too_long == "cut"
            self.skipped += self.too_long == "skip"
            if self.too_long == "skip":
                return False
        self.bytes += len(learnt.encode("utf-8", "replace"))
        return True


def _image(record: Record) -> Example:
    return labelled(record["image"].astype(np.float32) / 255, record["label"])


def _language(records: Sequence[Record], tokenizer: Any, limit: _Limit) -> Iterator[Example]:
    front, end = _special(tokenizer)
    between = end or list(tokenizer.encode("\n\n"))
    texts = [record["text"] for record in records]
    pieces: list[list[int]] = []
    for record, ids in zip(records, _ids(tokenizer, texts), strict=True):
        limit.admits(record, 0, record["text"])
        pieces += [between, ids] if pieces else [ids]
    # what stands before a target: BOS in every window, or the last target of the window before
    stream = np.concatenate([np.asarray(piece, np.int32) for piece in ([], *pieces)])
    context = len(front)
    for start in range(0, len(stream) - 1 + context, limit.length):
        window = stream[start : start + limit.length + 1 - context]
        yield next_tokens(np.concatenate([np.asarray(front, np.int32), window]))


def _completions(records: Sequence[Record], tokenizer: Any, limit: _Limit) -> Iterator[Example]:
    front, end = _special(tokenizer)
    prompts = _ids(tokenizer, [record["prompt"] for record in records])
    responses = _ids(tokenizer, [record["response"] for record in records])
    for record, prompt, response in zip(records, prompts, responses, strict=True):
        # of all ids the last is a target and no token
        over = len(front) + len(prompt) + len(response) + len(end) - 1 - limit.length
        if limit.admits(record, limit.length + over, record["response"]):
            # something stays in front of the response, or its first token would not be learnt
            spare = max(0, len(prompt) - (not front))
            context = [*front, *prompt[min(max(over, 0), spare) :]]
            ids = [*context, *response, *end][: limit.length + 1]
            yield next_tokens(ids, learn=len(context))


def _labelled(records: Sequence[Record], tokenizer: Any, limit: _Limit) -> Iterator[Example]:
    front, end = _special(tokenizer)
    between = (end * 2 if front else end) or list(tokenizer.encode("\n"))
    texts = _ids(tokenizer, [record["text"] for record in records])
    pairs = _ids(tokenizer, [record["pair"] for record in records])
    for record, text, pair in zip(records, texts, pairs, strict=True):
        middle = between if record["pair"] else []
        room = limit.length - len(front) - len(middle) - len(end)
        if room < 1 + bool(middle):
            raise LoraxError(f"length is {limit.length}: no room for text beside special tokens")
        if limit.admits(record, limit.length - room + len(text) + len(pair)):
            second = min(len(pair), max(room // 2, room - len(text)))
            ids = [*front, *text[: room - second], *middle, *pair[:second], *end]
            yield labelled(ids, record["label"])


def _special(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What opens an example, and what ends it: one id or none."""
    opens = tokenizer.adds_bos and tokenizer.bos is not None
    return [tokenizer.bos] if opens else [], [] if tokenizer.eos is None else [tokenizer.eos]


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Of each text; equal ones are encoded once: a prompt comes with many responses."""
    distinct = list(dict.fromkeys(texts))
    if hasattr(tokenizer, "encode_batch"):
        found = tokenizer.encode_batch(distinct)
    else:
        found = [tokenizer.encode(text) for text in distinct]
    by_text = dict(zip(distinct, found, strict=True))
    return [by_text[text] for text in texts]
