"""What is a tokenizer? Text to ids and back, and the ids that are not text."""

import abc
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from lorax.core.errors import LoraxError, LoraxTypeError


@runtime_checkable
class Tokenizer(Protocol):
    """What every tokenizer here is, and what `lorax.generate` asks of yours.

    Attributes:
      vocab_size: every id is below it.
      bos, eos, pad: ids that open, end and fill a text, or None.
      adds_bos: do models of this vocabulary expect every text to open with `bos`?
    """

    vocab_size: int
    bos: int | None
    eos: int | None
    pad: int | None
    adds_bos: bool

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`, with `bos` before and `eos` behind them if asked for."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens; bytes that are no UTF-8 become U+FFFD."""


class BaseTokenizer(abc.ABC):
    """The part that all tokenizers share: arguments are checked, special ids put on and taken off.

    A subclass sets the attributes of `Tokenizer` and writes `_encode` and `_decode`, which see
    neither special ids nor ids beyond the vocabulary.
    """

    vocab_size: int
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    adds_bos: bool = False

    @abc.abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str: ...

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`, with `bos` before and `eos` behind them if asked for.

        Raises:
          LoraxTypeError: `text` is not a string.
          LoraxError: a special id is asked for that this tokenizer lacks.
        """
        if not isinstance(text, str):
            raise LoraxTypeError(
                f"text is {type(text).__name__}: expected a string; decode bytes first, and "
                "encode a list one text at a time"
            )
        for name, wanted in (("bos", bos), ("eos", eos)):
            if wanted and getattr(self, name) is None:
                raise LoraxError(f"this tokenizer has no {name} id: encode with {name}=False")
        first = [self.bos] if bos and self.bos is not None else []
        last = [self.eos] if eos and self.eos is not None else []
        return [*first, *self._encode(text), *last]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens; bytes that are no UTF-8 become U+FFFD.

        `decode(encode(text))` is `text`, with or without `bos` and `eos`, up to what the
        vocabulary cannot tell apart.

        Raises:
          LoraxError: an id is negative or not below `vocab_size`, or `ids` is not one row.
        """
        array = np.asarray(ids if hasattr(ids, "__array__") else list(ids))
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise LoraxError(
                f"ids have dtype {array.dtype} and shape {array.shape}: expected one row of "
                "integers; decode a batch row by row"
            )
        wrong = array[(array < 0) | (array >= self.vocab_size)]
        if wrong.size:
            raise LoraxError(
                f"id {wrong[0]} is outside this tokenizer's vocabulary of {self.vocab_size}: the "
                "ids come from another tokenizer, or from a model with a larger vocabulary"
            )
        special = {self.bos, self.eos, self.pad}
        return self._decode([int(i) for i in array if int(i) not in special])


class ByteTokenizer(BaseTokenizer):
    """UTF-8 bytes as ids: a vocabulary of 256 and no special ids.

    Args:
      special: also have `bos` 256, `eos` 257 and `pad` 258, as a model of separate texts needs.
    """

    def __init__(self, special: bool = False):
        self.vocab_size = 256
        if special:
            self.bos, self.eos, self.pad = 256, 257, 258
            self.vocab_size, self.adds_bos = 259, True

    def _encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def _decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")
