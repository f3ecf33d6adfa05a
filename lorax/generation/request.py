"""What was asked for, and can it be done? Prompts and settings, checked, then cut to shapes."""

import dataclasses
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.paths import key_for
from lorax.generation.choose import Draw
from lorax.generation.program import Program
from lorax.generation.sampling import Plan, Request

SMALLEST_BUCKET = 16
"""Prompts and answers are padded to a power of two, and to no less than this."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of `lorax.generate`, which explains them; checked when made.

    Raises:
      LoraxError: a setting out of range, or two that exclude each other.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    ngram_prompt: bool = True
    batch_size: int | None = None
    key: jax.Array | None = None

    def __post_init__(self) -> None:
        self._check_wholes()
        self._check_numbers()
        self._check_beams()
        if self.temperature > 0:
            if self.key is None:
                raise LoraxError(
                    f"temperature={self.temperature} needs a key to draw with: pass "
                    "key=jax.random.key(0)"
                )
            key_for(self.key, "")

    def plan(self, new_slots: int) -> Plan:
        """What the loop is compiled for."""
        return Plan(
            new=new_slots,
            truncate=self.top_k is not None or self.top_p is not None,
            ngram=operator.index(self.no_repeat_ngram),
            ngram_prompt=bool(self.ngram_prompt),
            beams=operator.index(self.beams),
        )

    def draw(self, numbers: Sequence[int], rows: int) -> Draw | None:
        """How the prompts with these numbers are drawn, None for greedily.

        A row's key is that of its prompt's number, whatever else is in the batch.
        """
        if self.key is None or self.temperature == 0:
            return None
        filled = [*numbers, *[numbers[0]] * (rows - len(numbers))]
        most = np.iinfo(np.int32).max
        return Draw(
            keys=jax.vmap(jax.random.fold_in, (None, 0))(self.key, np.asarray(filled, np.uint32)),
            temperature=jnp.float32(self.temperature),
            top_k=jnp.int32(most if self.top_k is None else min(self.top_k, most)),
            top_p=jnp.float32(1.0 if self.top_p is None else self.top_p),
        )

    def _check_wholes(self) -> None:
        least = {"max_new_tokens": 1, "beams": 1, "no_repeat_ngram": 0, "top_k": 1, "batch_size": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is None and name in ("top_k", "batch_size"):
                continue
            if _index(value) is None or value < smallest:
                raise LoraxError(f"{name} is {value!r}: expected an integer, at least {smallest}")

    def _check_numbers(self) -> None:
        if not _is_number(self.temperature) or self.temperature < 0:
            raise LoraxError(
                f"temperature is {self.temperature!r}: expected 0 for the likeliest token, or more "
                "to sample"
            )
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise LoraxError(
                f"top_p is {self.top_p!r}: expected a share above 0 and up to 1, such as 0.9"
            )
        if not _is_number(self.length_penalty):
            raise LoraxError(
                f"length_penalty is {self.length_penalty!r}: expected a number, such as 0.8"
            )

    def _check_beams(self) -> None:
        set_ones = {
            "temperature": self.temperature > 0,
            "top_k": self.top_k is not None,
            "top_p": self.top_p is not None,
        }
        for name, is_set in set_ones.items():
            if is_set and self.beams > 1:
                raise LoraxError(
                    f"beams={self.beams} does not go with {name}={getattr(self, name)}: beam "
                    f"search draws nothing; set beams=1 or leave {name} out"
                )
        if self.beams == 1 and self.length_penalty != 1:
            raise LoraxError(
                f"length_penalty={self.length_penalty} with beams=1 changes nothing: pass beams=4, "
                "or leave length_penalty out"
            )
        for name in ("top_k", "top_p"):
            if set_ones[name] and not set_ones["temperature"]:
                raise LoraxError(
                    f"{name}={getattr(self, name)} with temperature=0 draws nothing: pass "
                    f"temperature=1.0 and a key, or leave {name} out"
                )


def as_list(prompts: Any) -> list[Any]:
    """The prompts as a list.

    Raises:
      LoraxTypeError: one string, ids that are no list of prompts, or nothing that can be iterated
        over.
    """
    if isinstance(prompts, str | bytes) or not hasattr(prompts, "__iter__"):
        raise LoraxTypeError(
            f"prompts is {type(prompts).__name__}: expected a list of prompts; write [prompt]"
        )
    prompts = list(prompts)
    if prompts and all(_index(item) is not None for item in prompts):
        ids = ", ".join(map(str, prompts[:3])) + (", ..." if len(prompts) > 3 else "")
        raise LoraxTypeError(
            f"prompts is one row of ids: expected a list of prompts; write [[{ids}]]"
        )
    return prompts


def read_prompt(number: int, prompt: Any, tokenizer: Any, bos: bool | None) -> list[int]:
    """The ids of one prompt, a string or ids already.

    Args:
      number: which prompt it is, for messages.
      prompt: a string, or a row of ids.
      tokenizer: encodes strings; may be None for ids.
      bos: whether the tokenizer's `bos` opens a string; None for what the tokenizer says.

    Raises:
      LoraxError, LoraxTypeError: an empty prompt, no row, a string without a tokenizer.
    """
    if isinstance(prompt, str):
        if tokenizer is None:
            raise LoraxError(
                f"prompt {number} is a string and there is no tokenizer: pass tokenizer=, or ids"
            )
        wanted = getattr(tokenizer, "adds_bos", False) if bos is None else bos
        ids = tokenizer.encode(prompt, bos=True) if wanted else tokenizer.encode(prompt)
    else:
        array = np.asarray(prompt)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise LoraxTypeError(
                f"prompt {number} has dtype {array.dtype} and shape {array.shape}: expected a row "
                "of token ids, or a string"
            )
        ids = array.tolist()
    if not ids:
        raise LoraxError(
            f"prompt {number} is empty: expected at least one token; begin with the model's BOS"
        )
    return list(ids)


def read_stop(stop: Any, tokenizer: Any, program: Program) -> np.ndarray:
    """The ids that end a row: those given, or by default the tokenizer's `eos`.

    Raises:
      LoraxError, LoraxTypeError: a text, or an id outside the vocabulary.
    """
    if stop is None:
        eos = getattr(tokenizer, "eos", None)
        stop = () if eos is None else (eos,)
    one = isinstance(stop, str) or _index(stop) is not None or not hasattr(stop, "__iter__")
    ids = [stop] if one else list(stop)
    for number in ids:
        if _index(number) is None:
            raise LoraxTypeError(
                f"stop holds {number!r}: expected token ids, a stop text is not supported; pass "
                "the ids that end an answer, or cut the answer's text at it"
            )
    _check_ids("stop", ids, program.vocab_size)
    return np.asarray(ids, np.int32)


def check_prompts(prompts: Sequence[list[int]], max_new_tokens: int, program: Program) -> None:
    """Raises LoraxError for a prompt that the program cannot take, as far as it is known."""
    for i, ids in enumerate(prompts):
        _check_ids(f"prompt {i}", ids, program.vocab_size)
        length, limit = len(ids) + max_new_tokens, program.max_length
        if limit is not None and length > limit:
            beside = f" beside {n} virtual tokens" if (n := program.virtual_tokens) else ""
            raise LoraxError(
                f"prompt {i} has {len(ids)} tokens and max_new_tokens={max_new_tokens} makes "
                f"{length}: expected at most max_length={limit}{beside}; cut the prompt or ask for "
                "fewer"
            )


def shape_of(longest: int, new: int, max_length: int | None) -> tuple[int, int]:
    """Slots for the prompts and for the new tokens: powers of two, so that few shapes compile.

    Where that is beyond `max_length`, no more new slots than asked for, and as many for the prompts
    as fit: again the same shape for many prompts.
    """
    prompt_slots, new_slots = _bucket(longest), _bucket(new)
    if max_length is not None and prompt_slots + new_slots > max_length:
        new_slots = new
        prompt_slots = min(prompt_slots, max_length - new)
    return prompt_slots, new_slots


def batches(prompts: Sequence[list[int]], batch_size: int | None) -> Iterator[list[int]]:
    """Which prompts go together: their numbers, those of like length side by side."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = batch_size or max(len(order), 1)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def make_request(
    prompts: Sequence[list[int]], rows: int, width: int, limit: int, stop: np.ndarray
) -> Request:
    """The arrays of a batch of `rows`; where prompts are fewer, the first fills up, not live."""
    filled = [*prompts, *[prompts[0]] * (rows - len(prompts))]
    tokens = np.zeros((rows, width), np.int32)
    for row, ids in zip(tokens, filled, strict=True):
        row[: len(ids)] = ids
    return Request(
        prompts=jnp.asarray(tokens),
        lengths=jnp.asarray([len(ids) for ids in filled], jnp.int32),
        live=jnp.arange(rows) < len(prompts),
        limit=jnp.int32(limit),
        stop=jnp.asarray(stop),
    )


def _check_ids(name: str, ids: Sequence[int], vocab_size: int | None) -> None:
    for i in ids:
        if i < 0 or (vocab_size is not None and i >= vocab_size):
            size = "" if vocab_size is None else f" of {vocab_size}"
            raise LoraxError(
                f"{name} has the id {i}, outside the model's vocabulary{size}: use the model's own "
                "tokenizer"
            )


def _bucket(number: int) -> int:
    return max(SMALLEST_BUCKET, 1 << (number - 1).bit_length())


def _index(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and math.isfinite(value)
