"""How does llama2.c tokenize? Its `tokenizer.bin`: scored pieces, merged best first.

The file: int32 length of the longest piece, then for every id a float32 score, an int32 length
and that many bytes. Ids 0 to 2 are unknown, BOS and EOS; 3 to 258 are the bytes; then pieces.
Source: github.com/karpathy/llama2.c, `tokenizer.py` and `run.c`.
"""

import heapq
import math
import os
import pathlib
import struct

from lorax.core.errors import LoraxError
from lorax.io.tokenizer_base import BaseTokenizer

BYTE_OFFSET = 3
"""Byte b has the id b + 3."""

_SMALLEST = BYTE_OFFSET + 256
_RECORD = struct.Struct("<fi")


class Llama2cTokenizer(BaseTokenizer):
    """The SentencePiece BPE of the LLaMA family, as llama2.c's `tokenizer.bin` states it.

    A text is a space and its characters, characters outside the vocabulary as bytes; then the
    neighbours that make the piece with the highest score are merged, the leftmost among equals,
    until none are left. The space in front is taken off again by `decode`.
    """

    def __init__(self, pieces: list[bytes], scores: list[float]):
        if len(pieces) < _SMALLEST or len(pieces) != len(scores):
            raise LoraxError(
                f"{len(pieces)} pieces and {len(scores)} scores: expected one score a piece, and "
                f"at least {_SMALLEST} pieces (3 special ids and 256 bytes)"
            )
        self.vocab_size = len(pieces)
        self.bos, self.eos, self.adds_bos = 1, 2, True
        self._pieces = pieces
        self._scores = scores
        # where two ids have the same bytes, the first is meant
        self._ids = {piece: i for i, piece in reversed(list(enumerate(pieces)))}
        self._bytes = [_byte_of(i, piece) for i, piece in enumerate(pieces)]

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = []
        for character in " " + text:
            raw = character.encode("utf-8", "replace")
            known = self._ids.get(raw)
            ids += [byte + BYTE_OFFSET for byte in raw] if known is None else [known]
        return self._merge(ids)

    def _merge(self, ids: list[int]) -> list[int]:
        """Merge neighbours, best score first: a heap over a linked list, n log n."""
        end = len(ids)
        after = list(range(1, end + 1))
        before = list(range(-1, end - 1))
        heap: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = after[left] if left >= 0 else end
            if right == end:
                return
            merged = self._ids.get(self._pieces[ids[left]] + self._pieces[ids[right]])
            if merged is not None:
                heapq.heappush(heap, (-self._scores[merged], left, ids[left], ids[right], merged))

        for i in range(end - 1):
            offer(i)
        while heap:
            _, left, left_id, right_id, merged = heapq.heappop(heap)
            right = after[left]
            # an offer is void once one of its two has gone into another merge
            if ids[left] != left_id or right == end or ids[right] != right_id:
                continue
            ids[left], ids[right] = merged, -1
            after[left] = after[right]
            if after[left] != end:
                before[after[left]] = left
            offer(before[left])
            offer(left)
        return [i for i in ids if i >= 0]

    def _decode(self, ids: list[int]) -> str:
        raw = b"".join(self._bytes[i] for i in ids)
        return raw.removeprefix(b" ").decode("utf-8", "replace")


def _byte_of(number: int, piece: bytes) -> bytes:
    """What an id prints: for those of the bytes, written `<0x41>`, the byte itself."""
    if BYTE_OFFSET <= number < _SMALLEST:
        return bytes([number - BYTE_OFFSET])
    return piece


def read_llama2c(file: str | os.PathLike[str]) -> Llama2cTokenizer:
    """The tokenizer in a `tokenizer.bin` of llama2.c.

    Raises:
      LoraxError: the file cannot be read, is cut off, or is something else.
    """
    file = pathlib.Path(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LoraxError(f"cannot read '{file}' ({error.strerror}): check the path") from None
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    while at < len(data):
        if at + _RECORD.size > len(data):
            raise _damaged(file, f"it ends within piece {len(pieces)}")
        score, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if length < 0 or at + length > len(data) or not math.isfinite(score):
            raise _damaged(file, f"piece {len(pieces)} has length {length} and score {score:g}")
        pieces.append(data[at : at + length])
        scores.append(score)
        at += length
    for number in range(BYTE_OFFSET, _SMALLEST):
        name = f"<0x{number - BYTE_OFFSET:02X}>".encode()
        if number >= len(pieces) or pieces[number] != name:
            raise _damaged(file, f"piece {number} is not the byte {name.decode()}")
    return Llama2cTokenizer(pieces, scores)


def _damaged(file: pathlib.Path, reason: str) -> LoraxError:
    return LoraxError(
        f"'{file}' is no tokenizer of llama2.c, or is damaged ({reason}): copy it again, or "
        "convert the vocabulary with llama2.c's tokenizer.py"
    )
