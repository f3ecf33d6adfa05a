"""Which tokenizer does a directory or a file hold? `load_tokenizer`."""

import os
import pathlib
from collections.abc import Callable

from lorax.core.errors import LoraxError
from lorax.io.place import place
from lorax.io.tokenizer_base import BaseTokenizer as BaseTokenizer
from lorax.io.tokenizer_base import ByteTokenizer as ByteTokenizer
from lorax.io.tokenizer_base import Tokenizer as Tokenizer
from lorax.io.tokenizer_hf import HFTokenizer as HFTokenizer
from lorax.io.tokenizer_hf import read_byte_bpe, read_tokenizer_json
from lorax.io.tokenizer_llama2c import Llama2cTokenizer as Llama2cTokenizer
from lorax.io.tokenizer_llama2c import read_llama2c

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""Names of the two files of a byte-level BPE: Hugging Face's, then OpenAI's."""


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer in a directory or a file, or None for a directory without one.

    A directory is searched for `tokenizer.json`, then for `vocab.json` with `merges.txt` or
    `encoder.json` with `vocab.bpe` (byte-level BPE), then for llama2.c's `tokenizer.bin` or a
    single `tok*.bin`. A file may be any of these, either of a pair standing for both, and a
    `.json` or `.bin` of another name. Bytes need no file: `ByteTokenizer()`.

    Raises:
      LoraxError: the path does not exist, the file is of no known kind, or it is damaged; the
        message names the file.
    """
    path = place(path, "path")
    if path.is_dir():
        return _from_directory(path)
    if not path.is_file():
        raise LoraxError(
            f"no tokenizer at '{path}': expected a directory or a file; check the path"
        )
    for pair in PAIRS:
        if path.name in pair:
            return read_byte_bpe(*_both(path.parent, pair))
    readers: dict[str, Callable[[pathlib.Path], Tokenizer]] = {
        ".json": read_tokenizer_json,
        ".bin": read_llama2c,
    }
    if path.suffix not in readers:
        raise LoraxError(
            f"'{path}' is no tokenizer that can be read: expected tokenizer.json, vocab.json with "
            "merges.txt, or llama2.c's tokenizer.bin; save a SentencePiece model as tokenizer.json"
        )
    return readers[path.suffix](path)


def _from_directory(folder: pathlib.Path) -> Tokenizer | None:
    if (folder / "tokenizer.json").is_file():
        return read_tokenizer_json(folder / "tokenizer.json")
    for pair in PAIRS:
        # one file of a pair is an unfinished download
        if any((folder / name).is_file() for name in pair):
            return read_byte_bpe(*_both(folder, pair))
    found = sorted(folder.glob("tok*.bin"))
    named = [file for file in found if file.name == "tokenizer.bin"] or found
    if len(named) > 1:
        raise LoraxError(
            f"'{folder}' holds {len(named)} tokenizers, {named[0].name} and {named[1].name} among "
            "them: expected one; pass the file instead of the directory"
        )
    return read_llama2c(named[0]) if named else None


def _both(folder: pathlib.Path, pair: tuple[str, str]) -> tuple[pathlib.Path, pathlib.Path]:
    for name in pair:
        if not (folder / name).is_file():
            raise LoraxError(
                f"'{folder}' lacks {name}: expected {pair[0]} and {pair[1]} together; download both"
            )
    return folder / pair[0], folder / pair[1]
