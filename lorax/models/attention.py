"""How do queries, keys and values mix? Who may see whom, who computes it, and dropout.

Shape suffixes: B batch, T queries, S keys, N query heads, K key-value heads,
G = N / K, H head width.
"""

from collections.abc import Callable
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

_16_BITS = ("bfloat16", "float16")


def implementation(
    attention: str,
    *,
    backend: str,
    dtype: DTypeLike,
    head_dim: int,
    tokens: int,
    keys: int,
    masked: bool,
) -> Literal["xla", "cudnn"]:
    """Who computes attention: "xla" or "cudnn".

    ``attention`` "auto" means cuDNN's flash attention on a GPU (``backend`` "gpu") with 16-bit
    compute, within what every cuDNN supports: heads of at most 128 channels in eights, as many
    ``keys`` as ``tokens`` (no cache, no prefix), and an even number of them where a mask is given.

    Raises ValueError for "cudnn" off a GPU or in more than 16 bits.
    """
    small = jnp.dtype(dtype).name in _16_BITS
    if attention == "cudnn" and not (backend == "gpu" and small):
        raise ValueError(
            f'attention="cudnn" needs a GPU and 16-bit compute, got {backend} and '
            f'{jnp.dtype(dtype).name}: set dtype="bfloat16" on a GPU, or attention="auto"'
        )
    if attention != "auto":
        return cast(Literal["xla", "cudnn"], attention)
    shapes = head_dim <= 128 and head_dim % 8 == 0 and tokens == keys
    even = tokens % 2 == 0 or not masked
    return "cudnn" if backend == "gpu" and small and shapes and even else "xla"


def attend(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    *,
    mask: jax.Array | None,
    causal: bool,
    attention: str = "auto",
    drop: Callable[[jax.Array], jax.Array] | None = None,
    prefix: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Scaled dot-product attention, (B, T, N, H) in the dtype of the query.

    Query heads share a key-value head in runs of N / K neighbours. ``mask`` bool (B, 1, 1 or T, S),
    true where a query may see a key; ``causal`` also hides later keys. ``attention`` as in
    `implementation`. ``drop`` is applied to the weights (B, K, G, T, S), after the softmax, which
    no fused implementation does: with it the weights are formed one by one.
    ``prefix`` are keys and values (P, K, H) before those of every row, which every query sees.

    Source: Vaswani et al., arXiv:1706.03762, eq. 1; Ainslie et al., "GQA", arXiv:2305.13245.
    """
    if prefix is not None:
        key_BSKH, value_BSKH, mask = _with_prefix(
            prefix, key_BSKH, value_BSKH, mask, query_BTNH.shape[1] if causal else None
        )
        causal = False
    if drop is not None:
        return _with_dropout(query_BTNH, key_BSKH, value_BSKH, mask, causal, drop)
    (_, tokens, _, head_dim), keys = query_BTNH.shape, key_BSKH.shape[1]
    by = implementation(
        attention,
        backend=jax.default_backend(),
        dtype=query_BTNH.dtype,
        head_dim=head_dim,
        tokens=tokens,
        keys=keys,
        masked=mask is not None,
    )
    if by == "cudnn" and mask is not None:  # it takes no mask that is the same for all queries
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], tokens, keys))
    return jax.nn.dot_product_attention(
        query_BTNH, key_BSKH, value_BSKH, mask=mask, is_causal=causal, implementation=by
    )


def _with_prefix(
    prefix: tuple[jax.Array, jax.Array],
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: jax.Array | None,
    tokens: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Keys, values and mask with the prefix first; causality of ``tokens`` queries in the mask."""
    batch, keys = key_BSKH.shape[:2]

    def joined(own_PKH: jax.Array, others_BSKH: jax.Array) -> jax.Array:
        own_BPKH = jnp.broadcast_to(own_PKH.astype(others_BSKH.dtype), (batch, *own_PKH.shape))
        return jnp.concatenate([own_BPKH, others_BSKH], axis=1)

    if tokens is not None:
        earlier = jnp.tri(tokens, keys, dtype=bool)[None, None]
        mask = earlier if mask is None else mask & earlier
    if mask is not None:
        mask = jnp.pad(mask, [(0, 0)] * 3 + [(prefix[0].shape[0], 0)], constant_values=True)
    return joined(prefix[0], key_BSKH), joined(prefix[1], value_BSKH), mask


def _with_dropout(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: jax.Array | None,
    causal: bool,
    drop: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """The equation written out, with ``drop`` on its weights."""
    batch, tokens, _, head_dim = query_BTNH.shape
    _, keys, kv_heads, _ = key_BSKH.shape
    query_BTKGH = query_BTNH.reshape(batch, tokens, kv_heads, -1, head_dim)
    wide = jnp.promote_types(query_BTNH.dtype, jnp.float32)
    scores_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", query_BTKGH, key_BSKH, preferred_element_type=wide
    ) / jnp.sqrt(jnp.asarray(head_dim, wide))
    # Large but finite: a row that sees nothing has even weights, and gradients that are numbers.
    least = 0.7 * jnp.finfo(wide).min
    if mask is not None:
        scores_BKGTS = jnp.where(mask[:, :, None], scores_BKGTS, least)
    if causal:
        scores_BKGTS = jnp.where(jnp.tri(tokens, keys, dtype=bool), scores_BKGTS, least)
    weights_BKGTS = drop(jax.nn.softmax(scores_BKGTS).astype(value_BSKH.dtype))
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, value_BSKH).reshape(query_BTNH.shape)


def pair_mask(mask: jax.Array | None) -> jax.Array | None:
    """A model's ``mask`` (B, T) or (B, T, T) in the form of `attend`: (B, 1, 1 or T, T)."""
    if mask is None:
        return None
    return mask[:, None, None, :] if mask.ndim == 2 else mask[:, None, :, :]


def segment_mask(segments: jax.Array) -> jax.Array:
    """Mask for packed sequences: a token sees only tokens of its own segment.

    ``segments`` (B, T) integers, one id a packed sequence, 0 for padding. Returns a bool mask
    (B, T, T), true where query (axis 1) may see key (axis 2); causality is the model's business.
    Padding sees nothing and is seen by nothing.

    Raises ValueError unless ``segments`` is a two-axis integer array.
    Source: Raffel et al., "T5", arXiv:1910.10683, section 3.1.2 (packing).
    """
    if segments.ndim != 2 or not jnp.issubdtype(segments.dtype, jnp.integer):
        raise ValueError(
            f"segments must be integers of shape (batch, tokens), got {segments.dtype} of shape "
            f"{segments.shape}: give each packed sequence an id from 1, and padding 0"
        )
    return (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] != 0)
