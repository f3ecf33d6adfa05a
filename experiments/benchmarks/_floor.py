"""What is the least that a training step with a frozen base could compute?

Forward and backward of the bare model, down to the first layer's input, and no adapter.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax


def loss_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Mean next-token cross-entropy."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return losses.mean()


def floor_loss(
    apply: Callable[..., Any], loss_of: Callable[..., jax.Array] = loss_of
) -> Callable[..., Any]:
    """The plain loss as a function of something added to the first layer's input.

    Args:
      apply: `apply(base, tokens) -> logits`.
      loss_of: `loss_of(logits, tokens)`; tokens may be a batch, which `apply` is then given too.
    """

    def loss(shift: jax.Array, base: Any, tokens: jax.Array) -> jax.Array:
        def add(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            lookup = isinstance(context.module, nn.Embed) and context.method_name == "__call__"
            return out + shift if lookup else out

        with nn.intercept_methods(add):
            return loss_of(apply(base, tokens), tokens)

    return loss
