"""A LLaMA-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases.

Shape suffixes: B batch, T tokens, S cache slots, D model width, N query heads, K key-value heads,
H head width, V vocabulary, L layers.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from lorax.models import additions, layers, mesh
from lorax.models.attention import attend
from lorax.models.blocks import run_layers
from lorax.models.cache import Cache, init_cache, remember
from lorax.models.decoder import Readout, finish, prepare
from lorax.models.layers import RMSNorm
from lorax.models.llama_config import LlamaConfig
from lorax.models.rotary import rotary_angles, rotate

Rope = tuple[jax.Array, jax.Array]
Carry = tuple[jax.Array, Cache | None]

_dense = functools.partial(layers.dense, bias=False)


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
        key_BSKH, value_BSKH, cache = remember(memory, key_BSKH, value_BSKH)
        mixed_BTNH = attend(
            query_BTNH, key_BSKH, value_BSKH,
            mask=mask, causal=memory is None, attention=config.attention,
            prefix=additions.read_prefix(self, config.kv_heads, config.head_dim),
        )  # fmt: skip
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
        self,
        carry: Carry,
        layer: Any,
        rope: Rope,
        mask: jax.Array | None,
        virtual: jax.Array | None,
    ) -> tuple[Carry, None]:
        """Advance the carry by this layer; the second output is `nn.scan`'s, always None.

        ``layer`` is the number of this layer, read only where the carry holds a cache; ``virtual``
        those of the virtual tokens, read only where the layer has states for them.
        """
        config, (x_BTD, cache) = self.config, carry
        x_BTD = additions.replace_states(self, x_BTD, virtual)
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
    Beside them it reads the collection of `lorax.models.additions`.

    Source: Touvron et al., "LLaMA", arXiv:2302.13971.
    """

    config: LlamaConfig

    def init_cache(
        self, batch: int, length: int | None = None, dtype: DTypeLike | None = None
    ) -> Cache:
        """An empty `Cache` for ``batch`` rows of up to ``length`` tokens, as `init_cache` makes."""
        return init_cache(self.config, batch, length, dtype)

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        cache: Cache | None = None,
        deterministic: bool = True,
        readout: Readout | None = None,
    ) -> Any:
        """Logits (B, T, V) of the token after each of ``tokens``; with a cache, (logits, cache).

        ``tokens`` (B, T) integers below ``vocab_size`` (an id beyond gives NaN, as in `nn.Embed`).
        ``positions`` (B, T) integers, in tokens; by default they count the real tokens of the row,
        those in the cache included. ``mask`` is bool, on top of causality: (B, T), false where a
        token is padding, or (B, T, T), true where a query may see a key (`segment_mask` makes one
        for packed sequences; not with a cache). Logits at padding mean nothing.
        ``cache`` (from `init_cache`) holds the tokens before these: prefill and single-token
        decoding are both this call. A cache that is overfilled gives NaN logits, there and after.
        ``deterministic`` is taken as the other models take it; this one has no dropout.
        ``readout`` replaces the logits by what it makes of the last hidden states (B, T, D) and the
        head, a pure function from (..., D) to (..., V), a few tokens at a time say; not with a
        cache.

        Logits are float32 (float64 if that is the compute dtype). Raises ValueError for arguments
        of the wrong shape or dtype, or more than ``max_length`` tokens.
        """
        config = self.config
        kept = 0 if cache is None else cache.ahead
        virtual = additions.read_virtual(self, config, kept)
        positions, mask_B1TS, cache = prepare(config, tokens, positions, mask, cache, virtual)
        rope = rotary_angles(
            positions, config.head_dim, theta=config.rope_theta, scaling=config.rope_scaling
        )
        embed = layers.embed(config, config.vocab_size, "embed")
        carry = (mesh.stream(virtual.embed(embed, tokens)), cache)
        x_BTD, cache = run_layers(
            Block, config, carry, rope, mask_B1TS, virtual.numbers(tokens, config.vocab_size),
            numbered=cache is not None,
        )  # fmt: skip
        x_BTD = _norm(config, "norm")(virtual.real(x_BTD))
        head = layers.vocabulary_head(config, embed, "lm_head")
        return finish(x_BTD, head, cache, readout)
