"""What do the targets cost under a head that does not learn? Two products with its table.

The gradient of the hidden states is made in the forward pass, a block of the vocabulary at a time,
so that neither logits nor their gradient exist for all of it and nothing is computed again.

Shape suffixes: N tokens, D model width, V vocabulary, K of it in a block.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

ALIGNED = 128
"""Blocks are a multiple of this, which products like."""


class Costs(NamedTuple):
    """Sums over the targets that count, as float32 scalars.

    ``loss`` is what is minimised, ``nats`` of `-log softmax(logits)[target]`, equal without label
    smoothing; ``counted`` says how many they are.
    """

    loss: jax.Array
    nats: jax.Array
    counted: jax.Array


class Head(Protocol):
    """A product with the vocabulary that is a pytree, a dataclass, of its table alone."""

    @property
    def table(self) -> jax.Array:
        """(V, D) or (D, V); also with some of the vocabulary."""

    @property
    def axis(self) -> int:
        """Where V is in the table."""

    @property
    def name(self) -> str:
        """What the path of the table's leaf ends in: "lm_head/kernel"."""

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Logits (N, V) of hidden states (N, D)."""


Definition = Callable[[jax.Array, Any, jax.Array, jax.Array], Costs]


class _Slopes(NamedTuple):
    """The gradient of ``nats`` by the hidden states, and what ``loss`` has beyond it; (N, D)."""

    nats: jax.Array
    smoothing: jax.Array | None


def frozen_costs(
    hidden_ND: jax.Array,
    head: Any,
    targets_N: jax.Array,
    mask_N: jax.Array,
    blocks: int,
    label_smoothing: float,
    definition: Definition,
) -> Costs:
    """`definition(hidden, head, targets, mask)`, cheaper where only `hidden` is differentiated.

    Where anything else is, the table say, and where nothing is, the definition is computed itself.
    Reverse mode only.

    Args:
      hidden_ND, targets_N, mask_N, label_smoothing: as for `lorax.train.head_loss.costs`.
      head: a `Head`.
      blocks: into how many the vocabulary is cut, about.
      definition: the costs by other means.

    Source: running maxima and sums as in Milakov and Gimelshein, "Online normalizer calculation
    for softmax", arXiv:1805.02867.
    """

    def forward(*primals: Any) -> tuple[Costs, Any]:
        hidden, head, targets, mask = jax.tree.map(lambda primal: primal.value, primals)
        if any(primal.perturbed for primal in jax.tree.leaves(primals[1:])):
            return jax.vjp(definition, hidden, head, targets, mask)
        return _both(hidden, head, targets, mask, blocks, label_smoothing)

    def backward(kept: Any, cotangents: Costs) -> tuple[Any, ...]:
        if not isinstance(kept, _Slopes):
            return kept(jax.tree.map(_instantiated, cotangents))
        by_loss, by_nats = (_instantiated(c) for c in cotangents[:2])
        wide = by_loss.dtype
        gradient = (by_loss + by_nats) * kept.nats.astype(wide)
        if kept.smoothing is not None:
            gradient += by_loss * kept.smoothing.astype(wide)
        return gradient.astype(kept.nats.dtype), None, None, None

    run = jax.custom_vjp(definition)
    run.defvjp(forward, backward, symbolic_zeros=True)
    return run(hidden_ND, head, targets_N, mask_N)


def _instantiated(cotangent: Any) -> jax.Array:
    if isinstance(cotangent, SymbolicZero):
        return jnp.zeros(cotangent.shape, cotangent.dtype)
    return cotangent


def _both(
    hidden_ND: jax.Array,
    head: Head,
    targets_N: jax.Array,
    mask_N: jax.Array,
    blocks: int,
    label_smoothing: float,
) -> tuple[Costs, _Slopes]:
    """The costs and their gradients.

    The target's own column is left out of the sums: its gradient p - 1 would cancel in 16 bits.
    """
    wide = jnp.promote_types(jax.eval_shape(head, hidden_ND).dtype, jnp.float32)
    own_ND = jnp.take(head.table, targets_N, head.axis)
    own_ND = (own_ND if head.axis == 0 else own_ND.T).astype(wide)
    own_N = (hidden_ND.astype(head.table.dtype).astype(wide) * own_ND).sum(-1)
    highest_N, others_N, mixed_ND = _sums(hidden_ND, head, targets_N, own_N, blocks)
    target_N = jnp.exp(own_N - highest_N)
    total_N = others_N + target_N

    mask_N = mask_N.astype(wide)
    # where, not a product: NaN or inf at padding times zero would still be NaN
    counts = lambda x: jnp.where(mask_N[:, None] > 0, mask_N[:, None] * x, 0)
    nats_N = jnp.log(total_N) + highest_N - own_N
    nats = counts(nats_N[:, None]).sum()
    slope_ND = (mixed_ND - others_N[:, None] * own_ND) / total_N[:, None]
    slopes = _Slopes(counts(slope_ND).astype(hidden_ND.dtype), None)
    if not label_smoothing:
        return Costs(nats, nats, mask_N.sum()), slopes
    mean_D = head.table.mean(head.axis, dtype=wide)
    beyond_ND = label_smoothing * (own_ND - mean_D)
    beyond = counts((beyond_ND * hidden_ND.astype(wide)).sum(-1, keepdims=True)).sum()
    slopes = slopes._replace(smoothing=counts(beyond_ND).astype(hidden_ND.dtype))
    return Costs(nats + beyond, nats, mask_N.sum()), slopes


def _sums(
    hidden_ND: jax.Array, head: Head, targets_N: jax.Array, own_N: jax.Array, blocks: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Over all of the vocabulary but the target, in one pass over blocks of it.

    Returns:
      The highest logit (N,), the target's among them; the sum of e^(logit - highest), (N,); and of
      that times the logit's own vector, (N, D).
    """
    total, wide = head.table.shape[head.axis], own_N.dtype
    size = -(-total // blocks)
    size = min(total, -(-size // ALIGNED) * ALIGNED)

    def add(carry: Any, number: jax.Array) -> tuple[Any, None]:
        highest_N, others_N, mixed_ND = carry
        first = number * size
        start = jnp.minimum(first, total - size)  # the last block overlaps the one before
        block = lax.dynamic_slice_in_dim(head.table, start, size, head.axis)
        columns_K = start + jnp.arange(size)
        logits_NK = dataclasses.replace(head, table=block)(hidden_ND).astype(wide)  # type: ignore[type-var]
        skipped_NK = (columns_K < first) | (columns_K == targets_N[:, None])
        logits_NK = jnp.where(skipped_NK, -jnp.inf, logits_NK)
        new_N = jnp.maximum(highest_N, logits_NK.max(-1))
        shares_NK = jnp.exp(logits_NK - new_N[:, None])
        shrunk_N = jnp.exp(highest_N - new_N)
        others_N = others_N * shrunk_N + shares_NK.sum(-1)
        product = functools.partial(lax.dot_general, preferred_element_type=wide)
        contracted = (((1,), (head.axis,)), ((), ()))
        mixed_NK = product(shares_NK.astype(block.dtype), block, contracted)
        mixed_ND = mixed_ND * shrunk_N[:, None] + mixed_NK
        return (new_N, others_N, mixed_ND), None

    nothing = jnp.zeros_like(own_N), jnp.zeros(hidden_ND.shape, wide)
    return lax.scan(add, (own_N, *nothing), jnp.arange(-(-total // size)))[0]
