"""What is the same for every method? The texts, the model, the evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data import python_text, text
from lorax.data.batch import Batch
from lorax.evaluation.language import make_evaluate_language
from lorax.models import Llama, LlamaConfig


@dataclasses.dataclass(frozen=True)
class Corpus:
    """One text, its training part and its held-out part, which share no document.

    Attributes:
      train, held_out: (N,) uint8.
      files: number of documents in each.
      batches: held-out windows that every method is evaluated on.
    """

    train: np.ndarray
    held_out: np.ndarray
    files: tuple[int, int]
    batches: list[Batch]

    def __str__(self) -> str:
        evaluated = sum(int(batch.mask.sum()) for batch in self.batches)
        return (
            f"{len(self.train):,} bytes in {self.files[0]} documents; held out "
            f"{len(self.held_out):,} bytes in {self.files[1]} others, of which {evaluated:,} are "
            "evaluated"
        )


@dataclasses.dataclass(frozen=True)
class Setting:
    """Model and texts of one run.

    Attributes:
      model: the bare program, which knows nothing of adapters.
      english, python: the old and the new text.
      measure: `measure(params) -> {"english": bits a byte, "python": bits a byte}`, held out.
    """

    model: Llama
    english: Corpus
    python: Corpus
    measure: Callable[[Any], dict[str, float]]


def make_setting(config: Any) -> Setting:
    """Texts read and split, model built; nothing is trained and nothing written.

    Raises:
      LoraxError: the config makes no model, or Python came without its texts.
    """
    try:
        model = Llama(LlamaConfig(**config.model))
        english = _corpus(text.without_repeats(python_text.english()), config.data)
        python = _corpus(python_text.python_source(), config.data)
    except (ValueError, TypeError) as error:
        raise LoraxError(f"config cannot be used: {error}") from None
    return Setting(model, english, python, _measure(model, english, python))


def _corpus(documents: Mapping[str, bytes], data: Any) -> Corpus:
    train, held_out = text.split(documents, data.hold_out_every)
    stream = text.stream(held_out)
    windows = text.spread_windows(
        stream, batch=data.batch, length=data.length, count=data.eval_bytes
    )
    return Corpus(text.stream(train), stream, (len(train), len(held_out)), windows)


def _measure(model: Llama, english: Corpus, python: Corpus) -> Callable[[Any], dict[str, float]]:
    """One program for every method: adapted weights come merged, in the shapes of the base."""
    evaluate = make_evaluate_language(model.apply)

    def bits(params: Any, corpus: Corpus) -> float:
        size = sum(int(batch.mask.sum()) for batch in corpus.batches)  # a token is a byte
        return evaluate(corpus.batches, params, size=size)["bits_per_byte"]

    return lambda params: {"english": bits(params, english), "python": bits(params, python)}
