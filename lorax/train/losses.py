"""What is minimised, and in which units is it told? Cross-entropy of the next token.

Shape suffixes: B batch, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lorax.core.adapter import Adapter
from lorax.core.engine import adapt
from lorax.core.errors import LoraxTypeError


def cross_entropy(
    logits_BTV: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean over the real tokens of `-log softmax(logits)[target]`, in nats, and their number.

    Args:
      logits_BTV: (..., V), any floating dtype; computed in float32 at least.
      targets_BT: (...) integers below V; entry t is what follows input t, so the shift has been
        made already.
      mask_BT: (...), true or non-zero where a target counts; None means everywhere.

    Returns:
      Two float32 scalars. Without a single real token the mean is 0, not NaN.
    """
    logits = logits_BTV.astype(jnp.promote_types(logits_BTV.dtype, jnp.float32))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets_BT)
    if mask_BT is None:
        return nats.mean(), jnp.asarray(nats.size, jnp.float32)
    mask = mask_BT.astype(nats.dtype)
    count = mask.sum()
    # where, not a product: NaN or inf at padding times zero would still be NaN
    total = jnp.where(mask > 0, nats * mask, 0).sum()
    return total / jnp.maximum(count, 1), count


def next_token_loss(
    fn: Callable[..., jax.Array], adapter: Adapter, on_fallback: str = "warn"
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """The loss of a language model under an adapter, as `make_step` wants it.

    Args:
      fn: `fn(params, inputs_BT) -> logits_BTV`, `model.apply` for instance.
      adapter: what is adapted; its dropout, if any, is on, with the step's key.
      on_fallback: as for `lorax.adapt`.

    Returns:
      `loss(delta, base, batch, key) -> (nats a token, {"tokens": how many})`; a batch has the
      fields `inputs`, `targets` and `mask`, each (B, T), as `lorax.data.batch.Batch` does; one
      without them is a LoraxTypeError.
    """

    def loss(
        delta: Any, base: Any, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        _check_batch(batch)
        apply = adapt(fn, adapter, on_fallback=on_fallback, dropout_key=key)
        logits = apply(base, delta, batch.inputs)
        value, count = cross_entropy(logits, batch.targets, batch.mask)
        return value, {"tokens": count}

    return loss


def _check_batch(batch: Any) -> None:
    if not all(hasattr(batch, name) for name in ("inputs", "targets", "mask")):
        raise LoraxTypeError(
            f"batch is a {type(batch).__name__}: expected one with the fields inputs, targets and "
            "mask; make it with lorax.data.batch.Batch(inputs, targets, mask)"
        )


def bits_per_byte(nats: float, tokens: float, size: float) -> float:
    """Nats a token as bits a byte: `nats · tokens / (size · ln 2)`.

    Comparable between tokenisers, unlike perplexity. `tokens` is how many were predicted and
    `size` how many bytes of text they stand for; the two are equal for a model of bytes.
    """
    return nats * tokens / (size * math.log(2))
