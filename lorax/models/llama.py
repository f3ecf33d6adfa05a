"""A LLaMA-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases.

Shape suffixes: B batch, T tokens, S cache slots, D model width, N query heads, K key-value heads,
H head width, V vocabulary, L layers.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorax.models.layers import RMSNorm, rotary_angles, rotate
from lorax.models.llama_cache import Cache, advance, check_cache, read_layer, write_layer
from lorax.models.llama_cache import init_cache as init_cache
from lorax.models.llama_config import BYTE_1M as BYTE_1M
from lorax.models.llama_config import LLAMA_7B as LLAMA_7B
from lorax.models.llama_config import LLAMA_13B as LLAMA_13B
from lorax.models.llama_config import LLAMA_33B as LLAMA_33B
from lorax.models.llama_config import LLAMA_65B as LLAMA_65B
from lorax.models.llama_config import STORIES_15M as STORIES_15M
from lorax.models.llama_config import STORIES_110M as STORIES_110M
from lorax.models.llama_config import STORIES_260K as STORIES_260K
from lorax.models.llama_config import TINYLLAMA_1B as TINYLLAMA_1B
from lorax.models.llama_config import TOY as TOY
from lorax.models.llama_config import LlamaConfig
from lorax.models.llama_config import param_count as param_count
from lorax.models.llama_layout import stack_layers as stack_layers
from lorax.models.llama_layout import unstack_layers as unstack_layers

Rope = tuple[jax.Array, jax.Array]
Carry = tuple[jax.Array, Cache | None]


def _init(config: LlamaConfig, shrink: float = 1.0) -> nn.initializers.Initializer:
    """Normal with deviation sqrt(2 / (5 D)), divided by ``shrink``: 0.02 at D = 1000.

    GPT-2's fixed 0.02 starves narrow models: after 200 steps `BYTE_1M` stands at 2.7 nats a byte
    with it, at 1.55 with this. Source: Nguyen and Salazar, arXiv:1910.05895, section 2 (SmallInit).
    """
    return nn.initializers.normal(math.sqrt(2 / (5 * config.dim)) / shrink)


def _dense(config: LlamaConfig, features: int, name: str, *, residual: bool = False) -> nn.Dense:
    """A bias-free Dense; ``residual`` marks the last product before the residual stream.

    Those start smaller by sqrt(2 L), so that the stream's variance does not grow with the depth
    (Radford et al., "Language Models are Unsupervised Multitask Learners", section 2.3).
    """
    return nn.Dense(
        features,
        use_bias=False,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        kernel_init=_init(config, math.sqrt(2 * config.layers) if residual else 1.0),
        name=name,
    )


def _norm(config: LlamaConfig, name: str) -> RMSNorm:
    return RMSNorm(config.norm_eps, config.dtype, config.param_dtype, name=name)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions; no biases.

    Input and output (B, T, D). Parameters ``query`` (D, D), ``key`` and ``value`` (D, K H), ``out``
    (D, D). Query heads share a key-value head in runs of ``heads / kv_heads`` neighbours.

    Source: Ainslie et al., "GQA", arXiv:2305.13245.
    """

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rope: Rope,
        mask: jax.Array | None = None,
        memory: tuple[Cache, jax.Array | int] | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attend within ``x``, or over the cache once this layer's keys and values are in it.

        ``rope`` are the angles of `rotary_angles`; ``memory`` is the cache and which layer of it is
        ours; ``mask`` is bool, (B, 1, T, keys) or broadcastable to it, and must hold causality
        itself where ``memory`` is given. Returns (B, T, D) and the cache, or None without one.
        """
        config = self.config
        batch, tokens, _ = x.shape

        def heads(name: str, number: int) -> jax.Array:
            projected = _dense(config, number * config.head_dim, name)(x)
            return projected.reshape(batch, tokens, number, config.head_dim)

        query_BTNH = rotate(heads("query", config.heads), *rope)
        key_BSKH = rotate(heads("key", config.kv_heads), *rope)
        value_BSKH = heads("value", config.kv_heads)
        cache = None
        if memory is not None:
            cache, layer = memory
            cache = write_layer(cache, layer, key_BSKH, value_BSKH)
            key_BSKH, value_BSKH = read_layer(cache, layer, query_BTNH.dtype)
        mixed_BTNH = jax.nn.dot_product_attention(
            query_BTNH, key_BSKH, value_BSKH, mask=mask, is_causal=memory is None
        )
        mixed_BTD = mixed_BTNH.reshape(batch, tokens, config.dim)
        return _dense(config, config.dim, "out", residual=True)(mixed_BTD), cache


class SwiGLU(nn.Module):
    """The gated feed-forward: ``down(silu(gate(x)) * up(x))``, no biases.

    Input and output (B, T, D). Parameters ``gate`` and ``up`` (D, hidden), ``down`` (hidden, D).

    Source: Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202.
    """

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        gate = _dense(self.config, self.config.hidden_dim, "gate")(x)
        up = _dense(self.config, self.config.hidden_dim, "up")(x)
        return _dense(self.config, self.config.dim, "down", residual=True)(nn.silu(gate) * up)


class Block(nn.Module):
    """One layer: attention, then SwiGLU, each normalised first and added to the stream.

    Carries the stream (B, T, D) and the cache or None, in the form that `nn.scan` wants.
    Parameters ``attention_norm attention mlp_norm mlp``.
    """

    config: LlamaConfig

    @nn.compact
    def __call__(
        self, carry: Carry, layer: Any, rope: Rope, mask: jax.Array | None
    ) -> tuple[Carry, None]:
        """Advance the carry by this layer; the second output is `nn.scan`'s, always None.

        ``layer`` is the number of this layer, read only where the carry holds a cache.
        """
        config, (x_BTD, cache) = self.config, carry
        normed_BTD = _norm(config, "attention_norm")(x_BTD)
        memory = None if cache is None else (cache, layer)
        mixed_BTD, cache = Attention(config, name="attention")(normed_BTD, rope, mask, memory)
        x_BTD = x_BTD + mixed_BTD
        x_BTD = x_BTD + SwiGLU(config, name="mlp")(_norm(config, "mlp_norm")(x_BTD))
        return (x_BTD, cache), None


class Llama(nn.Module):
    """The decoder: token ids (B, T) in, next-token logits (B, T, V) out.

    Parameters: ``embed/embedding`` (V, D); ``layer_0 … layer_{L-1}``, or with ``config.scan`` one
    ``layers`` whose leaves have a leading layer axis (`stack_layers` converts); ``norm/scale``;
    ``lm_head/kernel`` (D, V) unless tied. All kernels are (in, out) matrices. Weights start
    normal with deviation sqrt(2 / (5 D)), those of ``out`` and ``down`` smaller by sqrt(2 L).

    Source: Touvron et al., "LLaMA", arXiv:2302.13971.
    """

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        cache: Cache | None = None,
    ) -> jax.Array | tuple[jax.Array, Cache]:
        """Logits (B, T, V) of the token after each of ``tokens``; with a cache, (logits, cache).

        ``tokens`` (B, T) integers below ``vocab_size`` (an id beyond gives NaN, as in `nn.Embed`).
        ``positions`` (B, T) integers, in tokens; by default they count the real tokens of the row,
        those in the cache included. ``mask`` is bool, on top of causality: (B, T), false where a
        token is padding, or (B, T, T), true where a query may see a key (`segment_mask` makes one
        for packed sequences; not with a cache). Logits at padding mean nothing.
        ``cache`` (from `init_cache`) holds the tokens before these: prefill and single-token
        decoding are both this call. A cache that is overfilled gives NaN logits, there and after.

        Logits are float32 (float64 if that is the compute dtype). Raises ValueError for arguments
        of the wrong shape or dtype, or more than ``max_length`` tokens.
        """
        config = self.config
        _check(config, tokens, positions, mask, cache)
        if positions is None:
            positions = _count_positions(tokens, mask, cache)
        if cache is None:
            mask_B1TS = _pair_mask(mask)
        else:
            cache, mask_B1TS = advance(cache, tokens.shape[1], mask)
        rope = rotary_angles(positions, config.head_dim, theta=config.rope_theta)
        embed = nn.Embed(
            config.vocab_size,
            config.dim,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            embedding_init=_init(config),
            name="embed",
        )
        x_BTD, cache = self._layers((embed(tokens), cache), rope, mask_B1TS)
        x_BTD = _norm(config, "norm")(x_BTD)
        head = embed.attend if config.tied else _dense(config, config.vocab_size, "lm_head")
        logits_BTV = head(x_BTD)
        logits_BTV = logits_BTV.astype(jnp.promote_types(logits_BTV.dtype, jnp.float32))
        if cache is None:
            return logits_BTV
        # A write past the end is clamped by XLA and spoils older slots: say so in the result.
        fits = cache.length <= cache.valid.shape[1]
        return jnp.where(fits, logits_BTV, jnp.nan), cache

    def _layers(self, carry: Carry, rope: Rope, mask_B1TS: jax.Array | None) -> Carry:
        """Run all layers, one by one or as a scan."""
        config = self.config
        # Inside a scan XLA cannot merge the recomputation with the forward pass anyway.
        block = nn.remat(Block, prevent_cse=not config.scan) if config.remat else Block
        if not config.scan:
            for i in range(config.layers):
                carry, _ = block(config, name=f"layer_{i}")(carry, i, rope, mask_B1TS)
            return carry
        scanned = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=config.layers,
        )
        # Without a cache no layer asks for its number: keep it out of the training program.
        numbers = None if carry[1] is None else jnp.arange(config.layers)
        carry, _ = scanned(config, name="layers")(carry, numbers, rope, mask_B1TS)
        return carry


def _pair_mask(mask: jax.Array | None) -> jax.Array | None:
    """Mask in the form of `jax.nn.dot_product_attention`: (B, 1, 1 or T, T)."""
    if mask is None:
        return None
    return mask[:, None, None, :] if mask.ndim == 2 else mask[:, None, :, :]


def _count_positions(tokens: jax.Array, mask: jax.Array | None, cache: Cache | None) -> jax.Array:
    """Positions (B, T): how many real tokens of the row came before, in the cache and here."""
    if mask is None or mask.ndim == 3:
        before_BT = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    else:
        before_BT = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - mask
    if cache is None:
        return before_BT
    return before_BT + jnp.sum(cache.valid, axis=1, keepdims=True, dtype=jnp.int32)


def _check(config: LlamaConfig, tokens: Any, positions: Any, mask: Any, cache: Any) -> None:
    """Raise ValueError, in one line with the cure, for arguments `Llama` cannot take."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be integers of shape (batch, tokens), got {tokens.dtype} of shape "
            f"{tokens.shape}: add the batch axis with tokens[None], or cast to int32"
        )
    batch, length = tokens.shape
    if length > config.max_length:
        raise ValueError(
            f"at most max_length={config.max_length} tokens fit, got {length}: cut the input, or "
            f"dataclasses.replace(config, max_length={length})"
        )
    if positions is not None and positions.shape != tokens.shape:
        raise ValueError(
            f"positions must have the shape of tokens {tokens.shape}, got {positions.shape}: "
            "give one position a token, or leave them out"
        )
    pairs = (batch, length, length)
    shapes = (tokens.shape, pairs) if cache is None else (tokens.shape,)
    if mask is not None and (mask.dtype != bool or mask.shape not in shapes):
        raise ValueError(
            f"mask must be bool of shape {' or '.join(map(str, shapes))}, got {mask.dtype} of "
            f"shape {mask.shape}: write padding.astype(bool), or segment_mask(segments)"
        )
    if cache is not None:
        check_cache(config, batch, length, cache)
