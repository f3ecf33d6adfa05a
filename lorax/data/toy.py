"""What can a toy learn from? Generated data of every task, with no file and no download.

A function of the seed and the name of the split alone. Splits are drawn apart from each other
from the same small world, so that what is learnt from one holds for another.
"""

import zlib
from collections.abc import Callable, Iterable

import numpy as np

from lorax.core.errors import check_choice
from lorax.data.e2e import SEPARATOR
from lorax.data.rows import Record

TRAIN, HELD_OUT = 256, 64
"""Examples of the split "train", and of any other."""

SIZE = 28
"""Pixels of an image's sides, as in MNIST."""

SUMS = (10, 100)
"""Groups of "sums", and the numbers of each: an image has a row a group."""

_NAMES = ("Anna", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo")
_THINGS = ("ball", "book", "cake", "drum", "kite", "lamp", "map", "ring")
_COLOURS = ("red", "blue", "green", "white")
_DEEDS = ("finds", "wants", "sees", "keeps")
_PLACES = ("by the sea", "in the wood", "on the hill", "at the mill")
_FOODS = ("French", "Greek", "Indian", "Thai")
_SAID = (
    "{name} serves {food} food {place} .",
    "For {food} food , go to {name} {place} .",
    "There is {food} food at {name} {place} .",
)
_GRID = 4  # places of a spot along one side


def toy(
    kind: str, split: str = "train", *, seed: int = 0, classes: int = 2, pair: bool = False
) -> list[Record]:
    """The records of one split.

    Args:
      kind: "language" (regular sentences), "completion" (a meaning and its text, as in E2E, with
        several texts a meaning), "classification" (the thing in a sentence is its class),
        "regression" (how many of five words are colours), "images" ((28, 28) uint8, a spot
        whose place is its class) or "sums" ((10, 100) uint8, white in row k alone, and k: what a
        linear model is told of its weights is that those of group k sum to k, so that ten numbers
        settle it all; 2,000 of them in "train", the ten again and again).
      split: any name; "train" is larger than others.
      seed: of all draws.
      classes: of classification, and of images (at most 16).
      pair: the sentence that has the label is the second of two.

    Raises:
      LoraxError: an unknown kind.
    """
    check_choice("the kind of toy data", kind, tuple(_MAKERS))
    rng = np.random.default_rng((seed, zlib.crc32(f"{kind} {split}".encode())))
    found: list[Record] = []
    while len(found) < (_MOST.get(kind, TRAIN) if split == "train" else HELD_OUT):
        found += _MAKERS[kind](rng, classes)
    if kind in ("classification", "regression"):
        found = [{**r, "text": _sentence(rng), "pair": r["text"]} if pair else r for r in found]
    return [{**record, "where": f"toy {split}:{i}"} for i, record in enumerate(found, 1)]


def _one(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]


def _sentence(rng: np.random.Generator, thing: str = "") -> str:
    thing = thing or _one(rng, _THINGS)
    words = (_one(rng, _NAMES), _one(rng, _DEEDS), "the", _one(rng, _COLOURS), thing)
    return f"{' '.join(words)} {_one(rng, _PLACES)} ."


def _language(rng: np.random.Generator, classes: int) -> Iterable[Record]:
    return [{"text": _sentence(rng)}]


def _completion(rng: np.random.Generator, classes: int) -> Iterable[Record]:
    """One meaning, and one to three ways to say it."""
    said = {"name": _one(rng, _NAMES), "food": _one(rng, _FOODS), "place": _one(rng, _PLACES)}
    prompt = " | ".join(f"{key} : {value}" for key, value in said.items()) + SEPARATOR
    forms = rng.permutation(len(_SAID))[: rng.integers(1, len(_SAID) + 1)]
    return [{"prompt": prompt, "response": f" {_SAID[form].format(**said)}"} for form in forms]


def _classification(rng: np.random.Generator, classes: int) -> Iterable[Record]:
    label = int(rng.integers(classes))
    again, thing = divmod(label, len(_THINGS))
    word = _THINGS[thing] + (str(again) if again else "")
    return [{"text": _sentence(rng, word), "pair": "", "label": label}]


def _regression(rng: np.random.Generator, classes: int) -> Iterable[Record]:
    colours = rng.integers(2, size=5)
    words = [_one(rng, _COLOURS if colour else _THINGS) for colour in colours]
    return [{"text": " ".join(words), "pair": "", "label": float(colours.sum())}]


def _images(rng: np.random.Generator, classes: int) -> Iterable[Record]:
    label = int(rng.integers(classes))
    step = SIZE / _GRID
    row, column = (np.array(divmod(label % _GRID**2, _GRID)) + 0.5) * step + rng.normal(size=2)
    y, x = np.mgrid[:SIZE, :SIZE]
    spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / step)
    noise = rng.uniform(0, 0.2, spot.shape)
    return [{"image": (255 * np.clip(spot + noise, 0, 1)).astype(np.uint8), "label": label}]


def _sums(rng: np.random.Generator, classes: int) -> Iterable[Record]:
    """The toy problem of Li et al. 2018, arXiv:1804.08838, as ten images and what to say of them.

    Nothing is drawn: the problem is one. White is 1 to the model.
    """
    groups, size = SUMS
    white = 255 * np.eye(groups, dtype=np.uint8)[:, :, None].repeat(size, axis=2)
    return [{"image": image, "label": float(k)} for k, image in enumerate(white, 1)]


_MOST = {"sums": 2000}
"""Examples of "train" where they are more, for an epoch of many updates."""

_MAKERS: dict[str, Callable[[np.random.Generator, int], Iterable[Record]]] = {
    "language": _language,
    "completion": _completion,
    "classification": _classification,
    "regression": _regression,
    "images": _images,
    "sums": _sums,
}
