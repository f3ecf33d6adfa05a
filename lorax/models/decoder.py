"""What do all causal decoders do around their layers? Arguments, positions, who sees whom, the end.

Shape suffixes: B batch, T tokens, S cache slots, D model width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lorax.models.additions import NO_VIRTUAL, Virtual
from lorax.models.attention import pair_mask
from lorax.models.cache import Cache, CausalConfig, advance, check_cache

Head = Callable[[jax.Array], jax.Array]
"""The product with the vocabulary: hidden states (..., D) to logits (..., V), a pure function."""

Readout = Callable[[jax.Array, Head], Any]
"""What is made of the last hidden states (B, T, D) and the head, in place of all the logits."""


def check_tokens(tokens: Any, max_length: int, shift: int = 0) -> None:
    """Raise ValueError unless ``tokens`` are integers (B, T) with ``shift`` + T <= ``max_length``.

    ``shift`` virtual tokens stand before them.
    """
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be integers of shape (batch, tokens), got {tokens.dtype} of shape "
            f"{tokens.shape}: add the batch axis with tokens[None], or cast to int32"
        )
    length = shift + tokens.shape[1]
    if length > max_length:
        got = f"{tokens.shape[1]} after {shift} virtual ones" if shift else f"{length}"
        raise ValueError(
            f"at most max_length={max_length} tokens fit, got {got}: cut the input, or "
            f"dataclasses.replace(config, max_length={length})"
        )


def check_indices(name: str, indices: Any, tokens: Any) -> None:
    """Raise ValueError unless ``indices``, if given, are integers of the shape of ``tokens``."""
    if indices is None:
        return
    if indices.shape != tokens.shape:
        raise ValueError(
            f"{name} must have the shape of tokens {tokens.shape}, got {indices.shape}: "
            "give one a token, or leave them out"
        )
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers, got {indices.dtype}: write {name}.astype('int32')"
        )


def check_mask(mask: Any, tokens: Any, *, pairs: bool = True) -> None:
    """Raise ValueError unless ``mask``, if given, is bool (B, T), or (B, T, T) where ``pairs``."""
    shapes = [tokens.shape] + ([(*tokens.shape, tokens.shape[1])] if pairs else [])
    if mask is not None and (mask.dtype != bool or mask.shape not in shapes):
        raise ValueError(
            f"mask must be bool of shape {' or '.join(map(str, shapes))}, got {mask.dtype} of "
            f"shape {mask.shape}: write padding.astype(bool), or segment_mask(segments)"
        )


def prepare(
    config: CausalConfig,
    tokens: jax.Array,
    positions: jax.Array | None,
    mask: jax.Array | None,
    cache: Cache | None,
    virtual: Virtual = NO_VIRTUAL,
) -> tuple[jax.Array, jax.Array | None, Cache | None]:
    """A decoder's arguments checked and completed: (positions, mask, cache).

    ``positions`` (B, T), by default those of `count_positions`; ``mask`` bool (B, 1, 1 or T, S) or
    None, holding causality itself where there is a cache; ``cache`` with the new slots claimed.
    ``virtual`` tokens before the rows are in positions and mask, unless the cache has them.

    Raises ValueError for arguments of the wrong shape or dtype, more tokens than
    ``config.max_length``, or a cache that does not fit.
    """
    check_tokens(tokens, config.max_length, virtual.shift)
    check_indices("positions", positions, tokens)
    check_mask(mask, tokens, pairs=cache is None)
    if cache is not None:
        check_cache(config, tokens.shape[0], tokens.shape[1], cache, virtual.shift)
    if positions is None:
        positions = count_positions(tokens, mask, cache)
    if cache is None:
        mask_B1TS = virtual.mask(pair_mask(mask), tokens.shape[1], causal=True)
    else:
        cache, mask_B1TS = advance(cache, tokens.shape[1], mask, virtual.ahead)
    return virtual.positions(positions), mask_B1TS, cache


def count_positions(tokens: jax.Array, mask: jax.Array | None, cache: Cache | None) -> jax.Array:
    """Positions (B, T): how many real tokens of the row came before, in the cache and here."""
    if mask is None or mask.ndim == 3:
        before_BT = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    else:
        before_BT = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - mask
    if cache is None:
        return before_BT
    return before_BT + jnp.sum(
        cache.valid[:, cache.ahead :], axis=1, keepdims=True, dtype=jnp.int32
    )


def finish(x_BTD: jax.Array, head: Head, cache: Cache | None, readout: Readout | None) -> Any:
    """Logits (B, T, V) in float32 at least, with the cache if there is one; or what `readout` says.

    A write past the cache's end is clamped by XLA and spoils older slots: then the logits are NaN.
    Raises ValueError for a ``readout`` beside a cache.
    """
    if readout is not None:
        if cache is not None:
            raise ValueError("readout is for whole sequences and there is a cache: leave one out")
        return readout(x_BTD, head)
    logits = head(x_BTD)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if cache is None:
        return logits
    return jnp.where(cache.length <= cache.valid.shape[1], logits, jnp.nan), cache
