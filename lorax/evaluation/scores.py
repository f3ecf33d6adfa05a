"""How good are predictions? Accuracy, F1, Matthews, Pearson, Spearman, exact match; a baseline."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from lorax.core.errors import LoraxError, check_choice


def task_scores(names: Sequence[str], predictions: Any, labels: Any) -> dict[str, float]:
    """The scores that a task names, in its order.

    Args:
      names: of `SCORES`: accuracy, f1, matthews, pearson, spearman.
      predictions: (N,) classes, or values for the two correlations.
      labels: (N,), what would have been right.

    Raises:
      LoraxError: an unknown name, no examples, different numbers of both, or a NaN.
    """
    for name in names:
        check_choice("score", name, tuple(SCORES))
    return {name: SCORES[name](predictions, labels) for name in names}


def accuracy(predictions: Any, labels: Any) -> float:
    """The share of predictions (N,) that equal their label, 0 to 1."""
    predicted, right = _checked(predictions, labels)
    return float(np.mean(predicted == right))


def f1(predictions: Any, labels: Any) -> float:
    """The harmonic mean of precision and recall, 0 to 1.

    With no other class than 0 and 1, that of class 1, as GLUE counts MRPC and QQP; with others, the
    mean over the classes that occur on either side. A class that is never predicted has 0.
    """
    predicted, right = _checked(predictions, labels)
    classes = np.union1d(predicted, right)
    average = "binary" if set(classes.tolist()) <= {0, 1} else "macro"
    return float(_sklearn().f1_score(right, predicted, average=average, zero_division=0.0))


def matthews(predictions: Any, labels: Any) -> float:
    """Matthews' correlation of classes, -1 to 1; 0 where either side has one class alone."""
    predicted, right = _checked(predictions, labels)
    if _constant(predicted) or _constant(right):
        return 0.0
    return float(_sklearn().matthews_corrcoef(right, predicted))


def pearson(predictions: Any, labels: Any) -> float:
    """The linear correlation of values, -1 to 1; 0 where either side is constant."""
    predicted, right = (side.astype(np.float64) for side in _checked(predictions, labels))
    if _constant(predicted) or _constant(right):
        return 0.0
    # scaled first: squares of very large or small values leave float64
    predicted, right = (_centred(side) for side in (predicted, right))
    norms = np.linalg.norm(predicted) * np.linalg.norm(right)
    return float(np.clip(predicted @ right / norms, -1, 1))


def spearman(predictions: Any, labels: Any) -> float:
    """Pearson's correlation of ranks, equal values sharing theirs; 0 where a side is constant."""
    predicted, right = _checked(predictions, labels)
    return pearson(_ranks(predicted), _ranks(right))


SCORES: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""The scores of `task_scores` by name."""


def majority(labels: Any) -> int:
    """The class that most of `labels` (N,) have, the lowest among equals: the least to beat.

    Raises:
      LoraxError: there are none.
    """
    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    if not len(classes):
        raise LoraxError("there are no labels, so none is the most frequent: expected one or more")
    return int(classes[np.argmax(counts)])


def exact_match(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    numeric: bool = False,
) -> float:
    """The share of texts that equal their reference, or one of their references, 0 to 1.

    Both sides lose white space at their ends, and runs of it become one space; case and
    punctuation count. With `numeric` both sides are read by `number_in`, and a prediction without
    a number is wrong.

    Raises:
      LoraxError: no texts, different numbers of both, or (`numeric`) a reference without a number.
    """
    if len(predictions) != len(references) or not len(predictions):
        raise LoraxError(
            f"{len(predictions)} predictions for {len(references)} references: expected as many, "
            "and at least one"
        )
    read: Callable[[str], Any] = number_in if numeric else lambda text: " ".join(text.split())
    hits = 0
    for prediction, group in zip(predictions, references, strict=True):
        wanted = [read(text) for text in ([group] if isinstance(group, str) else group)]
        if None in wanted:
            raise LoraxError(f"reference {group!r} holds no number: score it with numeric=False")
        hits += read(prediction) in wanted
    return hits / len(predictions)


def number_in(text: str) -> Decimal | None:
    """The number of an answer: the first behind ``####`` where that stands, else the last one.

    Commas between digits are dropped, so that 1,234.50 equals 1234.5; None where there is none.
    The mark is that of GSM8K (Cobbe et al., arXiv:2110.14168).
    """
    _, mark, marked = text.partition("####")
    found = re.findall(r"(?<!\d)-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", marked if mark else text)
    return Decimal(found[0 if mark else -1].replace(",", "")) if found else None


def _checked(predictions: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    predicted, right = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != right.shape or right.ndim != 1 or not right.size:
        raise LoraxError(
            f"predictions have shape {predicted.shape} and labels {right.shape}: expected one "
            "prediction a label, and at least one"
        )
    for name, side in (("predictions", predicted), ("labels", right)):
        if side.dtype.kind not in "biuf" or not np.all(np.isfinite(side)):
            raise LoraxError(f"{name} hold something else than finite numbers: look for NaN")
    return predicted, right


def _constant(values: np.ndarray) -> bool:
    return bool(np.all(values == values[0]))


def _centred(values: np.ndarray) -> np.ndarray:
    values = values / np.max(np.abs(values))
    values = values - values.mean()
    return values / np.max(np.abs(values))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _sklearn() -> Any:
    try:
        import sklearn.metrics
    except ImportError:
        raise LoraxError(
            "F1 and Matthews' correlation need scikit-learn: pip install 'lorax-flax[eval]'"
        ) from None
    return sklearn.metrics
