"""The GPT-2 decoder: LayerNorm first, learned positions, one fused query-key-value product, GELU.

Shape suffixes: B batch, T tokens, S keys, D model width, N heads, H head width, V vocabulary,
L layers, P positions.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lorax.models import additions, layers, mesh
from lorax.models.attention import attend
from lorax.models.blocks import run_layers
from lorax.models.cache import Cache, init_cache, remember
from lorax.models.decoder import Readout, finish, prepare
from lorax.models.gpt2_config import GPT2Config

Carry = tuple[jax.Array, Cache | None]

_dense = functools.partial(layers.dense, bias=True)


class Attention(nn.Module):
    """Causal attention with as many key-value heads as query heads; biases.

    Input and output (B, T, D). Parameters ``qkv`` (D, 3 D), whose columns are all queries, then all
    keys, then all values, and ``out`` (D, D).
    """

    config: GPT2Config
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        memory: tuple[Cache, jax.Array | int] | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attend within ``x``, or over the cache once this layer's keys and values are in it.

        ``mask`` and ``memory`` as in `lorax.models.llama.Attention`. Returns (B, T, D) and the
        cache, or None without one.
        """
        config = self.config
        batch, tokens, dim = x.shape
        fused_BTE = _dense(config, 3 * dim, "qkv")(x)
        query_BTNH, key_BSNH, value_BSNH = (
            part.reshape(batch, tokens, config.heads, config.head_dim)
            for part in jnp.split(fused_BTE, 3, axis=-1)
        )
        key_BSNH, value_BSNH, cache = remember(memory, key_BSNH, value_BSNH)
        mixed_BTNH = attend(
            query_BTNH, key_BSNH, value_BSNH,
            mask=mask, causal=memory is None, attention=config.attention,
            drop=layers.attention_dropout(config.dropout, self.deterministic),
            prefix=additions.read_prefix(self, config.heads, config.head_dim),
        )  # fmt: skip
        return _dense(config, dim, "out", residual=True)(mixed_BTNH.reshape(x.shape)), cache


class MLP(nn.Module):
    """The feed-forward: ``down(gelu(up(x)))``, GELU by its tanh approximation; biases.

    Input and output (B, T, D). Parameters ``up`` (D, hidden), ``down`` (hidden, D).
    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415, section 2.
    """

    config: GPT2Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        up = _dense(self.config, self.config.hidden_dim, "up")(x)
        return _dense(self.config, self.config.dim, "down", residual=True)(nn.gelu(up))


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each normalised first and added to the stream.

    Carries the stream (B, T, D) and the cache or None. Parameters ``attention_norm attention
    mlp_norm mlp``.
    """

    config: GPT2Config
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, carry: Carry, layer: Any, mask: jax.Array | None, virtual: jax.Array | None
    ) -> tuple[Carry, None]:
        """Advance the carry by this layer, whose number ``layer`` is read only with a cache.

        ``virtual`` as in `lorax.models.llama.Block`.
        """
        config, (x_BTD, cache) = self.config, carry
        x_BTD = additions.replace_states(self, x_BTD, virtual)
        drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        memory = None if cache is None else (cache, layer)
        normed_BTD = layers.layer_norm(config, "attention_norm")(x_BTD)
        attention = Attention(config, self.deterministic, name="attention")
        mixed_BTD, cache = attention(normed_BTD, mask, memory)
        x_BTD = x_BTD + drop(mixed_BTD)
        normed_BTD = layers.layer_norm(config, "mlp_norm")(x_BTD)
        x_BTD = x_BTD + drop(MLP(config, name="mlp")(normed_BTD))
        return (x_BTD, cache), None


class GPT2(nn.Module):
    """The decoder: token ids (B, T) in, next-token logits (B, T, V) out.

    Parameters: ``embed/embedding`` (V, D) and ``positions/embedding`` (P, D); per layer
    ``attention_norm attention/{qkv,out} mlp_norm mlp/{up,down}``, under ``layer_0 …`` or, with
    ``config.scan``, under ``layers`` whose leaves have a leading layer axis (`stack_layers`
    converts); ``norm``; ``lm_head/kernel`` (D, V) unless tied. All kernels are (in, out) matrices.
    Weights start as in `Llama`, biases at 0. Beside them it reads the collection of
    `lorax.models.additions`.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """

    config: GPT2Config

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

        ``tokens``, ``positions``, ``mask`` and ``cache`` as in `Llama`; a position beyond
        ``max_length`` gives NaN. ``deterministic=False`` drops out at ``config.dropout`` and then
        needs ``rngs={"dropout": key}``. ``readout`` as in `Llama`.

        Logits are float32 (float64 if that is the compute dtype). Raises ValueError for arguments
        of the wrong shape or dtype, or more than ``max_length`` tokens.
        """
        config = self.config
        kept = 0 if cache is None else cache.ahead
        virtual = additions.read_virtual(self, config, kept)
        positions, mask_B1TS, cache = prepare(config, tokens, positions, mask, cache, virtual)
        embed = layers.embed(config, config.vocab_size, "embed")
        x_BTD = virtual.embed(embed, tokens)
        x_BTD = x_BTD + layers.embed(config, config.max_length, "positions")(positions)
        x_BTD = nn.Dropout(config.dropout, deterministic=deterministic)(mesh.stream(x_BTD))
        x_BTD, cache = run_layers(
            Block, config, (x_BTD, cache), mask_B1TS, virtual.numbers(tokens, config.vocab_size),
            numbered=cache is not None, deterministic=deterministic,
        )  # fmt: skip
        x_BTD = layers.layer_norm(config, "norm")(virtual.real(x_BTD))
        head = layers.vocabulary_head(config, embed, "lm_head")
        return finish(x_BTD, head, cache, readout)
