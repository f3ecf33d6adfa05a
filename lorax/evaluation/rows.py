"""What does each held-out row cost? Its nats and tokens, for what is compared row by row.

Shape suffixes: B rows, T tokens, V vocabulary, N rows in all.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError
from lorax.core.trace import check_program
from lorax.data.batch import Batch
from lorax.evaluation.language import check_batch, cross_entropies, keywords


class Rows(NamedTuple):
    """``nats`` (N,) float64, the sum of `-log softmax(logits)[target]` of each row, and ``tokens``
    (N,) int64 that count there, in the order of the batches."""

    nats: np.ndarray
    tokens: np.ndarray


def make_evaluate_rows(fn: Callable[..., jax.Array]) -> Callable[..., Rows]:
    """As `lorax.evaluation.language.make_evaluate_language`, but row by row.

    Args:
      fn: as there.

    Returns:
      `evaluate(batches, *params, check=None) -> Rows`, compiled once a shape of batch. Rows of
      which no token counts only fill up a batch and are left out. It raises a LoraxError where none
      is left, and a LoraxTypeError for what is no batch.
    """
    check_program(fn)

    @jax.jit
    def sums(params: tuple[Any, ...], batch: Batch) -> jax.Array:
        logits_BTV = fn(*params, batch.inputs, **keywords(batch))
        nats_BT = cross_entropies(logits_BTV, batch.targets)
        return jnp.where(batch.mask, nats_BT, 0).sum(axis=1)

    def evaluate(
        batches: Iterable[Batch], *params: Any, check: Callable[[], None] | None = None
    ) -> Rows:
        nats, tokens = [np.zeros(0)], [np.zeros(0, np.int64)]
        for batch in batches:
            check_batch(batch)
            tokens_B = np.asarray(batch.mask).astype(bool).sum(axis=1)
            nats.append(np.asarray(sums(params, batch), np.float64)[tokens_B > 0])
            tokens.append(tokens_B[tokens_B > 0])
            if check is not None:
                check()
        found = Rows(np.concatenate(nats), np.concatenate(tokens))
        if not found.tokens.size:
            raise LoraxError(
                "no token of the held-out set counts: expected at least one whose mask is true; "
                "look for an empty split, or answers cut off at the length"
            )
        return found

    return evaluate
