"""What does a program say of each example? Classes or values, beside what would have been right.

Shape suffixes: B rows, C classes, N examples.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError
from lorax.core.trace import check_program
from lorax.data.batch import Batch
from lorax.evaluation.language import check_batch, cross_entropies


class Answers(NamedTuple):
    """``predictions`` (N,) and ``labels`` (N,), int32 classes or float32 values, in the order of
    the batches; ``loss``, the mean cross-entropy in nats, of values the mean squared error."""

    predictions: np.ndarray
    labels: np.ndarray
    loss: float


def make_evaluate_examples(fn: Callable[..., jax.Array]) -> Callable[..., Answers]:
    """The answers of a classifier, or of a regression, compiled once a shape of batch.

    Keep what it returns: calling it again, with other parameters say, compiles nothing.

    Args:
      fn: `fn(*params, inputs)`: `model.apply`, or `lorax.adapt(model.apply, adapter)`, which takes
        base and delta. Where targets are integers it returns logits (B, C), and the likeliest class
        is the answer; where they are floats, values (B, 1) or (B,). For a batch with `segments` it
        is called with the keyword `mask` (B, T), false at padding.

    Returns:
      `evaluate(batches, *params, check=None) -> Answers`. Rows whose mask is false only fill up a
      batch and are left out. `check` is called after each batch; what it raises ends the
      evaluation. It raises a LoraxError where no row counts or outputs have another shape, and a
      LoraxTypeError for what is no batch.
    """
    check_program(fn)

    @jax.jit
    def answers(params: tuple[Any, ...], batch: Batch) -> tuple[jax.Array, jax.Array]:
        segments = getattr(batch, "segments", None)
        keywords = {} if segments is None else {"mask": segments != 0}
        outputs = fn(*params, batch.inputs, **keywords)
        targets_B = jnp.asarray(batch.targets)
        classes = bool(jnp.issubdtype(targets_B.dtype, jnp.integer))
        _check_outputs(outputs, targets_B, classes)
        if classes:
            predicted = jnp.argmax(outputs, axis=-1).astype(jnp.int32)
            return predicted, cross_entropies(outputs, targets_B)
        values_B = outputs.reshape(targets_B.shape).astype(jnp.float32)
        return values_B, jnp.square(values_B - targets_B)

    def evaluate(
        batches: Iterable[Batch], *params: Any, check: Callable[[], None] | None = None
    ) -> Answers:
        parts = []
        for batch in batches:
            check_batch(batch)
            mask_B = np.asarray(batch.mask).astype(bool)
            found = (*answers(params, batch), batch.targets)
            parts.append([np.asarray(part)[mask_B] for part in found])
            if check is not None:
                check()
        if not sum(len(part[0]) for part in parts):
            raise LoraxError(
                "no example of the held-out set counts: expected at least one whose mask is true; "
                "look for an empty split"
            )
        predictions, losses, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Answers(predictions, labels, float(losses.astype(np.float64).mean()))

    return evaluate


def _check_outputs(outputs: Any, targets_B: jax.Array, classes: bool) -> None:
    shape, rows = getattr(outputs, "shape", None), targets_B.shape
    wanted = f"{(*rows, 'classes')}" if classes else f"{(*rows, 1)} or {rows}"
    fits = shape is not None and (
        len(shape) == 2 and shape[:1] == rows if classes else shape in (rows, (*rows, 1))
    )
    if len(rows) != 1 or not fits:
        raise LoraxError(
            f"the program returned {shape or type(outputs).__name__} for targets of shape {rows}: "
            f"expected {wanted}; give the model a head for its task"
        )
