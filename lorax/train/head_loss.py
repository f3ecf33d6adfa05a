"""What do the targets cost, and how without the logits of a whole batch at once?

Shape suffixes: B batch, T tokens, D model width, V classes or vocabulary, N tokens of a chunk.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lorax.train.frozen_head import Costs as Costs
from lorax.train.frozen_head import frozen_costs
from lorax.train.parts import cut


def costs(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, label_smoothing: float = 0.0
) -> Costs:
    """What `targets` cost under `logits`.

    Args:
      logits: (..., V), any floating dtype; computed in float32 at least.
      targets: (...) integers below V.
      mask: (...), true or non-zero where a target counts.
      label_smoothing: eps; the loss is the cross-entropy with (1 - eps) on the target and eps
        spread evenly over all V, the target among them:
        `(1 - eps) · -log p[target] + eps · mean over V of -log p`.

    Source: Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567, section 7.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    mask = mask.astype(logits.dtype)
    # where, not a product: NaN or inf at padding times zero would still be NaN
    total = lambda each: jnp.where(mask > 0, each * mask, 0).sum()
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    loss = nats
    if label_smoothing:
        own = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        loss = nats + label_smoothing * (own - logits.mean(-1))
    return Costs(total(loss), total(nats), mask.sum())


def chunked_costs(
    hidden_BTD: jax.Array,
    head: Callable[[jax.Array], jax.Array],
    targets_BT: jax.Array,
    mask_BT: jax.Array,
    chunk: int,
    label_smoothing: float = 0.0,
    *,
    frozen: bool = False,
) -> Costs:
    """`costs` of `head(hidden)`, with as many logits at a time as `chunk` tokens have.

    The logits of a chunk are computed again in the backward pass, a third product with the
    vocabulary where there are two, and forgotten in between. Chunks take tokens in strides, so
    that each of them spans a batch that is split over devices; what is missing in the last row of
    strides is padding, which does not count.

    Args:
      hidden_BTD: the last hidden states.
      head: a pure function, (N, D) to (N, V); what it closes over is differentiated too.
      targets_BT, mask_BT, label_smoothing: as for `costs`.
      chunk: at least 1.
      frozen: the head is one of `lorax.train.frozen_head.Head` and does not learn. Chunks are then
        of the vocabulary, and there are two products; in reverse mode only. The gradient of a head
        that is differentiated all the same is right, by three.
    """
    if not frozen:
        return _by_tokens(hidden_BTD, head, targets_BT, mask_BT, chunk, label_smoothing)
    tokens = targets_BT.size
    flat = (
        x.reshape(tokens, *x.shape[targets_BT.ndim :]) for x in (hidden_BTD, targets_BT, mask_BT)
    )
    hidden_ND, targets_N, mask_N = flat
    definition = functools.partial(_by_tokens, chunk=chunk, label_smoothing=label_smoothing)
    return frozen_costs(
        hidden_ND, head, targets_N, mask_N, -(-tokens // chunk), label_smoothing, definition
    )  # fmt: skip


def _by_tokens(
    hidden: jax.Array,
    head: Callable[[jax.Array], jax.Array],
    targets: jax.Array,
    mask: jax.Array,
    chunk: int,
    label_smoothing: float,
) -> Costs:
    """As `chunked_costs`; tokens may have any number of axes."""
    tokens = targets.size
    chunks = -(-tokens // chunk)
    padding = -tokens % chunks

    def rows(x: jax.Array) -> jax.Array:
        flat = x.reshape(tokens, *x.shape[targets.ndim :])
        return jnp.pad(flat, [(0, padding), *[(0, 0)] * (flat.ndim - 1)])

    # inside a scan XLA cannot merge the recomputation with the forward pass anyway
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(chunk: tuple[jax.Array, jax.Array, jax.Array]) -> Costs:
        hidden_ND, targets_N, mask_N = chunk
        return costs(head(hidden_ND), targets_N, mask_N, label_smoothing)

    each = jax.lax.map(one, cut(jax.tree.map(rows, (hidden, targets, mask)), chunks))
    return jax.tree.map(jnp.sum, each)
