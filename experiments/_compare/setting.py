"""What is the same for every method? The pretrained model, the texts, the evaluation."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lorax.core.errors import LoraxError
from lorax.data import python_text, source, tokens
from lorax.data.batch import Batch
from lorax.evaluation.language import make_evaluate_language
from lorax.io import pretrained
from lorax.io.tokenizer import ByteTokenizer, Tokenizer
from lorax.models.llama import Llama
from lorax.models.llama_config import TOY

TOY_NAME = "toy"
"""In a config: a random model of bytes, or text that ships with Python."""

TOY_CHARACTERS = 4_000
PARTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Model and texts of one study.

    Attributes:
      fn: the bare program of (params, tokens).
      base: its frozen parameters.
      train: (N,) token ids.
      evaluated: held-out windows by name: "validation", "test", "retention".
      bos: the id that stands before every window.
      measure: `measure(params) -> {name: nats a token}` over `evaluated`.
    """

    fn: Callable[..., Any]
    base: Any
    train: np.ndarray
    evaluated: dict[str, list[Batch]]
    bos: int
    measure: Callable[[Any], dict[str, float]]

    def batches(self, config: Any) -> Iterator[Batch]:
        """The training batches, the same for every method."""
        data = config.data
        return tokens.batches(
            self.train, bos=self.bos, batch=data.batch, length=data.length, seed=config.seed.data
        )


def make_setting(config: Any) -> Setting:
    """Model loaded, texts encoded and split; nothing is trained and nothing written.

    Raises:
      LoraxError: a file is missing or damaged, or a part is shorter than a window.
    """
    fn, base, tokenizer = _model(config)
    data, bos = config.data, tokenizer.bos or 0
    text = _text(data.text)
    encode = lambda part: np.asarray(tokenizer.encode(part), np.int32)
    cut = {
        name: encode(text[int(start * len(text)) : int(end * len(text))])
        for name, (start, end) in PARTS.items()
    }
    kept = _text(data.retention)[: data.retention_characters].replace("\n", " ")
    cut["retention"] = encode(kept)
    for name, ids in cut.items():
        if len(ids) < data.length:
            raise LoraxError(
                f"config.data: the {name} part has {len(ids)} tokens, fewer than one window of "
                f"{data.length}: give more text, or lower config.data.length"
            )
    evaluated = {name: _full_windows(cut[name], bos, data) for name in cut if name != "train"}
    return Setting(fn, base, cut["train"], evaluated, bos, _measure(fn, evaluated))


def _model(config: Any) -> tuple[Callable[..., Any], Any, Tokenizer]:
    if config.base == TOY_NAME:
        model, example = Llama(TOY), np.zeros((1, 4), np.int32)
        base = jax.jit(model.init)(jax.random.key(config.seed.init), example)
        return model.apply, base, ByteTokenizer()
    loaded = pretrained.load(source.find(config.base))
    if loaded.tokenizer is None:
        raise LoraxError(f"'{config.base}' has no tokenizer beside it: put its files there")
    return loaded.model.apply, loaded.base, loaded.tokenizer


def _text(name: str) -> str:
    if name != TOY_NAME:
        return source.read_text(name)
    documents = python_text.english()
    return documents[min(documents)].decode("utf-8", "replace")[:TOY_CHARACTERS]


def _full_windows(ids: np.ndarray, bos: int, data: Any) -> list[Batch]:
    whole = ids[: len(ids) // data.length * data.length]
    return tokens.consecutive_windows(whole, bos=bos, batch=data.batch, length=data.length)


def _measure(
    fn: Callable[..., Any], evaluated: dict[str, list[Batch]]
) -> Callable[[Any], dict[str, float]]:
    """One program for every method: adapted weights come merged, in the shapes of the base."""
    evaluate = make_evaluate_language(fn)
    return lambda params: {
        name: evaluate(batches, params)["loss"] for name, batches in evaluated.items()
    }
