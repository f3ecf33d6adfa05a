"""How does Hugging Face tokenize? `tokenizer.json`, or GPT-2's vocabulary and merges.

The `tokenizers` library does the work. Which ids are special stands in `tokenizer_config.json`,
`special_tokens_map.json` or `config.json` beside it, in this order; where none says, by name.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorax.core.errors import LoraxError
from lorax.io.tokenizer_base import BaseTokenizer

if TYPE_CHECKING:
    import tokenizers

SPECIAL = ("bos", "eos", "pad")

_FILES = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
_NAMES = {
    "bos": ("<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>"),
    "pad": ("<pad>",),
}


class HFTokenizer(BaseTokenizer):
    """A tokenizer of the `tokenizers` library, with its special ids.

    Special tokens written out in a text are read as such; a text is never cut or padded.
    """

    def __init__(
        self, inner: "tokenizers.Tokenizer", special: dict[str, int | None], adds_bos: bool
    ):
        # a tokenizer.json may carry both from the training script it was saved in
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos, self.eos, self.pad = (special.get(name) for name in SPECIAL)
        self.adds_bos = adds_bos and self.bos is not None

    def _encode(self, text: str) -> list[int]:
        clean = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates stop the library
        return self._inner.encode(clean, add_special_tokens=False).ids

    def _decode(self, ids: list[int]) -> str:
        return self._inner.decode(ids, skip_special_tokens=True)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, as `encode` gives them without special ids, on all cores."""
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return [found.ids for found in self._inner.encode_batch(clean, add_special_tokens=False)]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`, which exists."""
        place = pathlib.Path(folder)
        self._inner.save(str(place / "tokenizer.json"))
        names = {f"{n}_token": self._token(getattr(self, n)) for n in SPECIAL}
        table = {"add_bos_token": self.adds_bos} | {k: v for k, v in names.items() if v}
        (place / "tokenizer_config.json").write_text(json.dumps(table, indent=2) + "\n", "utf-8")

    def _token(self, number: int | None) -> str | None:
        return None if number is None else self._inner.id_to_token(number)


def read_tokenizer_json(file: pathlib.Path) -> HFTokenizer:
    """The tokenizer in a `tokenizer.json`; special ids from the files beside it.

    Raises:
      LoraxError: the library is not installed, or a file is damaged; the message names it.
    """
    library = tokenizers_for(f"reading '{file}'")
    text = _read(file)
    try:
        inner = library.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for everything
        raise _damaged(file, _first_line(error)) from None
    settings = _settings(file.parent)
    special = _special_ids(inner, settings, file.parent)
    opened = inner.encode("", add_special_tokens=True).ids
    adds_bos = special["bos"] is not None and opened[:1] == [special["bos"]]
    return HFTokenizer(inner, special, settings.get("add_bos_token", adds_bos) is True)


def read_byte_bpe(vocabulary: pathlib.Path, merges: pathlib.Path) -> HFTokenizer:
    """GPT-2's byte-level BPE from its two files, `vocab.json` and `merges.txt` or whatever name.

    Raises:
      LoraxError: the library is not installed, a file is damaged, or the vocabulary is of another
        kind.
    """
    library = tokenizers_for(f"reading '{vocabulary}'")
    pieces, pairs = _vocabulary(vocabulary), _merges(merges)
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    missing = sorted(set(alphabet) - set(pieces))
    if missing:
        raise _damaged(vocabulary, f"{len(missing)} of 256 byte characters, {missing[0]!r} first")
    try:
        inner = library.Tokenizer(library.models.BPE(vocab=pieces, merges=pairs))
    except Exception as error:  # the library raises bare Exception for everything
        raise _damaged(merges, _first_line(error)) from None
    settings = _settings(vocabulary.parent)
    prefix = settings.get("add_prefix_space") is True
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = library.decoders.ByteLevel()
    _add_tokens(library, inner, vocabulary.parent / "added_tokens.json")
    special = _special_ids(inner, settings, vocabulary.parent)
    names = [inner.id_to_token(i) for i in special.values() if i is not None]
    inner.add_special_tokens(names)
    adds_bos = special["bos"] is not None and special["bos"] != special["eos"]
    return HFTokenizer(inner, special, settings.get("add_bos_token", adds_bos) is True)


def tokenizers_for(work: str) -> Any:
    """The tokenizers library; LoraxError with how to install it where `work` needs it in vain."""
    try:
        import tokenizers
    except ImportError:
        raise LoraxError(
            f"{work} needs the tokenizers library: pip install 'lorax-flax[hf]'"
        ) from None
    return tokenizers


def _vocabulary(file: pathlib.Path) -> dict[str, int]:
    pieces = _read_json(file)
    if not all(isinstance(i, int) and i >= 0 for i in pieces.values()):
        raise _damaged(file, "an id is no integer")
    return pieces


def _merges(file: pathlib.Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(_read(file).split("\n"), 1):
        line = line.removesuffix("\r")
        # the first line may state a version; "#" is a piece like any other further down
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise _damaged(file, f"line {number} is no pair: {line[:40]!r}")
        pairs.append((left, right))
    return pairs


def _add_tokens(library: Any, inner: "tokenizers.Tokenizer", file: pathlib.Path) -> None:
    """Tokens beyond the vocabulary, from the file where transformers keeps them."""
    added = _read_json(file) if file.is_file() else {}
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        inner.add_tokens([library.AddedToken(token, normalized=False)])
        if inner.token_to_id(token) != number:
            raise _damaged(file, f"{token!r} cannot have the id {number}: ids must follow on")


def _settings(folder: pathlib.Path) -> dict[str, Any]:
    """The fields of the files beside a tokenizer; the first file that has one wins."""
    fields: dict[str, Any] = {}
    for name in _FILES:
        if (folder / name).is_file():
            found = _read_json(folder / name)
            fields = {k: v for k, v in found.items() if v is not None} | fields
    return fields


def _special_ids(
    inner: "tokenizers.Tokenizer", settings: dict[str, Any], folder: pathlib.Path
) -> dict[str, int | None]:
    return {name: _special_id(inner, name, settings, folder) for name in SPECIAL}


def _special_id(
    inner: "tokenizers.Tokenizer", name: str, settings: dict[str, Any], folder: pathlib.Path
) -> int | None:
    token = settings.get(f"{name}_token")
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str):
        number = inner.token_to_id(token)
        if number is None:
            raise _damaged(folder, f"{name}_token {token!r} is not in the vocabulary")
        return number
    number = settings.get(f"{name}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    if isinstance(number, int) and number >= 0 and inner.id_to_token(number) is not None:
        return number
    ids = (inner.token_to_id(known) for known in _NAMES[name])
    return next((i for i in ids if i is not None), None)


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise LoraxError(f"cannot read '{file}' ({error.strerror}): check the path") from None
    except UnicodeDecodeError:
        raise _damaged(file, "it is no UTF-8 text") from None


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(file))
    except json.JSONDecodeError as error:
        raise _damaged(file, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _damaged(file, "no JSON object")
    return value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]


def _damaged(file: pathlib.Path, reason: str) -> LoraxError:
    return LoraxError(f"'{file}' is no tokenizer, or is damaged ({reason}): download it again")
