"""What is the gradient of a batch, also of one that is computed in parts to save memory?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError
from lorax.train.parts import cut

Delta = Any
Base = Any
Metrics = dict[str, jax.Array]
Loss = Callable[[Delta, Base, Any, jax.Array], tuple[jax.Array, Metrics]]
Gradients = Callable[[Delta, Base, Any, jax.Array], tuple[tuple[jax.Array, Metrics], Delta]]

COUNTS = ("tokens", "examples")
"""The metrics that say how much a loss is the mean over."""


def value_and_grad(loss: Loss, accumulate: int = 1) -> Gradients:
    """`((value, metrics), gradient)` of `loss` with respect to the delta.

    Args:
      loss: `loss(delta, base, batch, key) -> (mean over what counts, metrics)`.
      accumulate: equal parts in which a batch is computed, one after the other. Value, metrics and
        gradient are those of the whole batch however much counts in each part, since a part weighs
        as its metric "tokens" or "examples"; these two are summed, all other metrics are such
        means. Sums are float32 at least. Each part has a key of its own; one part has that of the
        batch, and then this is `jax.value_and_grad` and nothing more.

    Raises:
      LoraxError: `accumulate` is no integer above 0; when called, a batch that it does not divide,
        or a loss that does not say how much counts.
    """
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise LoraxError(f"accumulate is {accumulate!r}: expected an integer, at least 1")
    whole = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        return whole

    def in_parts(delta: Delta, base: Base, batch: Any, key: jax.Array) -> Any:
        def add(total: Delta, now: Any) -> tuple[Delta, Any]:
            number, part = now
            (value, metrics), grads = whole(delta, base, part, jax.random.fold_in(key, number))
            count = _count(metrics)
            return jax.tree.map(lambda t, g: t + count * g, total, grads), (value, metrics)

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, _wide(x)), delta)
        numbered = jnp.arange(accumulate), cut(batch, accumulate)
        total, (values, metrics) = jax.lax.scan(add, zeros, numbered)
        counts = _count(metrics)
        everything = jnp.maximum(counts.sum(), 1)
        mean = lambda x: (x.T * (counts / everything)).sum(-1).T
        joined = {name: x.sum(0) if name in COUNTS else mean(x) for name, x in metrics.items()}
        grads = jax.tree.map(lambda t, x: (t / everything).astype(x.dtype), total, delta)
        return (mean(values), joined), grads

    return in_parts


def _wide(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _count(metrics: Metrics) -> jax.Array:
    found = [metrics[name] for name in COUNTS if name in metrics]
    if len(found) != 1:
        raise LoraxError(
            f"the loss reports {', '.join(metrics) or 'no metrics'}: to be computed in parts it "
            "must say how much counts; expected one of the metrics 'tokens' and 'examples'"
        )
    return found[0]
