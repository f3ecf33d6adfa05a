"""The RoBERTa encoder: LayerNorm after each half, learned positions, GELU, and its three heads.

Shape suffixes: B batch, T tokens, D model width, N heads, H head width, V vocabulary, C classes,
L layers.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorax.models import additions, layers, mesh
from lorax.models.attention import attend, pair_mask
from lorax.models.blocks import run_layers
from lorax.models.decoder import check_indices, check_mask, check_tokens
from lorax.models.roberta_config import RobertaConfig

_dense = functools.partial(layers.dense, bias=True)
_gelu = functools.partial(nn.gelu, approximate=False)


class Attention(nn.Module):
    """Attention in both directions; biases.

    Input and output (B, T, D). Parameters ``query key value out``, each (D, D).
    """

    config: RobertaConfig
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Attend within ``x``; ``mask`` bool (B, 1, 1 or T, T), true where a key may be seen."""
        config = self.config
        shape = (*x.shape[:2], config.heads, config.head_dim)
        query_BTNH, key_BTNH, value_BTNH = (
            _dense(config, config.dim, name)(x).reshape(shape) for name in ("query", "key", "value")
        )
        mixed_BTNH = attend(
            query_BTNH, key_BTNH, value_BTNH,
            mask=mask, causal=False, attention=config.attention,
            drop=layers.attention_dropout(config.dropout, self.deterministic),
            prefix=additions.read_prefix(self, config.heads, config.head_dim),
        )  # fmt: skip
        return _dense(config, config.dim, "out")(mixed_BTNH.reshape(x.shape))


class MLP(nn.Module):
    """The feed-forward: ``down(gelu(up(x)))``, GELU by the error function; biases.

    Input and output (B, T, D). Parameters ``up`` (D, hidden), ``down`` (hidden, D).
    """

    config: RobertaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        up = _dense(self.config, self.config.hidden_dim, "up")(x)
        return _dense(self.config, self.config.dim, "down")(_gelu(up))


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each added to its input and then normalised.

    Parameters ``attention attention_norm mlp mlp_norm``.
    """

    config: RobertaConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, _: Any, mask: jax.Array | None, virtual: jax.Array | None
    ) -> tuple[jax.Array, None]:
        """Map the stream (B, T, D) to the next; the second output is `nn.scan`'s, always None.

        ``virtual`` as in `lorax.models.llama.Block`.
        """
        config = self.config
        x = additions.replace_states(self, x, virtual)
        drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        mixed_BTD = Attention(config, self.deterministic, name="attention")(x, mask)
        x = layers.layer_norm(config, "attention_norm")(x + drop(mixed_BTD))
        x = layers.layer_norm(config, "mlp_norm")(x + drop(MLP(config, name="mlp")(x)))
        return x, None


class Classifier(nn.Module):
    """Classes of a sequence from its first token: dense, tanh, dense, dropout before each.

    Input (B, T, D), output (B, C). Parameters ``dense`` (D, D), ``out`` (D, C).
    """

    config: RobertaConfig
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map hidden states (B, T, D) to logits (B, C)."""
        drop = nn.Dropout(self.config.dropout, deterministic=self.deterministic)
        first_BD = drop(x[:, 0])
        first_BD = jnp.tanh(_dense(self.config, self.config.dim, "dense")(first_BD))
        return _dense(self.config, self.config.labels, "out")(drop(first_BD))


class MaskedLM(nn.Module):
    """Which token stands at each place: dense, GELU, LayerNorm, then a product with the vocabulary.

    Input (B, T, D), output (B, T, V). Parameters ``dense`` (D, D), ``norm``, ``bias`` (V,), and
    ``out`` (D, V) unless tied, where the product is with the embedding.
    """

    config: RobertaConfig

    @nn.compact
    def __call__(self, x: jax.Array, embed: nn.Embed) -> jax.Array:
        """Map hidden states (B, T, D) to logits (B, T, V)."""
        config = self.config
        x = layers.layer_norm(config, "norm")(_gelu(_dense(config, config.dim, "dense")(x)))
        shape = (config.vocab_size,)
        bias_V = self.param("bias", nn.initializers.zeros, shape, config.param_dtype)
        head: Any = embed.attend
        if not config.tied:
            head = layers.dense(config, config.vocab_size, "out", bias=False)
        return head(x) + bias_V.astype(config.dtype)


class Roberta(nn.Module):
    """The encoder with its head: token ids (B, T) in; hidden states, classes or tokens out.

    Parameters: ``embed positions types`` with ``embedding`` (rows, D), ``embed_norm``; per layer
    ``attention/{query,key,value,out} attention_norm mlp/{up,down} mlp_norm``, under ``layer_0 …``
    or, with ``config.scan``, under ``layers`` whose leaves have a leading layer axis
    (`stack_layers` converts); ``classifier`` or ``lm_head``. All kernels are (in, out) matrices.
    Weights start normal with deviation sqrt(2 / (5 D)), biases at 0. Beside them it reads the
    collection of `lorax.models.additions`.

    Source: Liu et al., "RoBERTa", arXiv:1907.11692; Devlin et al., "BERT", arXiv:1810.04805.
    """

    config: RobertaConfig

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        *,
        mask: jax.Array | None = None,
        positions: jax.Array | None = None,
        types: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Hidden states (B, T, D), class logits (B, C) or token logits (B, T, V), by the head.

        ``tokens`` (B, T) integers below ``vocab_size``. ``mask`` is bool: (B, T), false at padding
        (default: where the token is ``pad_id``), or (B, T, T), true where a query may see a key.
        ``positions`` (B, T) are rows of the table; by default ``pad_id`` plus the count of tokens
        other than ``pad_id`` up to and including this one, and ``pad_id`` itself at those, whatever
        the mask. ``types`` (B, T) are token types, by default 0. ``deterministic=False`` drops out
        at ``config.dropout`` and then needs ``rngs={"dropout": key}``.

        Logits are float32 at least, hidden states in the compute dtype. Raises ValueError for
        arguments of the wrong shape or dtype, or more than ``max_length`` tokens.
        """
        config = self.config
        virtual = additions.read_virtual(self, config)
        check_tokens(tokens, config.max_length, virtual.shift)
        check_indices("positions", positions, tokens)
        check_indices("types", types, tokens)
        check_mask(mask, tokens)
        real_BT = tokens != config.pad_id
        if positions is None:
            positions = config.pad_id + jnp.cumsum(real_BT, axis=1, dtype=jnp.int32) * real_BT
        positions = virtual.positions(positions, first=config.pad_id + 1)
        mask_B1TT = pair_mask(real_BT if mask is None else mask)
        mask_B1TT = virtual.mask(mask_B1TT, tokens.shape[1], causal=False)
        embed = layers.embed(config, config.vocab_size, "embed")
        x_BTD = virtual.embed(embed, tokens)
        x_BTD = x_BTD + layers.embed(config, config.position_rows, "positions")(positions)
        types = jnp.zeros_like(tokens) if types is None else types
        types = jnp.pad(types, ((0, 0), (virtual.ahead, 0))) if virtual.ahead else types
        x_BTD = x_BTD + layers.embed(config, config.types, "types")(types)
        x_BTD = layers.layer_norm(config, "embed_norm")(mesh.stream(x_BTD))
        x_BTD = nn.Dropout(config.dropout, deterministic=deterministic)(x_BTD)
        x_BTD = run_layers(
            Block, config, x_BTD, mask_B1TT, virtual.numbers(tokens, config.vocab_size),
            deterministic=deterministic,
        )  # fmt: skip
        if config.head == "none":
            return virtual.real(x_BTD)
        if config.head == "classification":
            logits = Classifier(config, deterministic, name="classifier")(x_BTD)
        else:
            logits = MaskedLM(config, name="lm_head")(virtual.real(x_BTD), embed)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
