"""What may stand beside the parameters? Virtual tokens, keys and values, states, bottlenecks.

`Llama`, `GPT2` and `Roberta` read the optional Flax collection ``additions``, given as
``{"params": ..., "additions": ...}``; without it their programs are what they were. Its paths:

- ``embeddings`` (n, D): virtual tokens before every row. All real tokens see them, those of a
  packed row too, and padding. In a decoder they see one another in order and no real token; in an
  encoder they see all.
- ``infix`` (m, D): what the ids V … V + m - 1 stand for, virtual tokens inside the rows.
- ``layer_i/attention/key`` and ``…/value`` (p, K H): in that layer before all other keys and
  values, seen by everybody; keys as attention meets them, which is after rotation.
- ``layer_i/states`` (n + m, D): what replaces the stream at the virtual tokens, those before the
  rows and then those inside them, where it enters that layer.
- ``<path of a Dense>/{down,down_bias,up,up_bias}`` (D, r), (r,), (r, D), (D,), and if wanted
  ``norm_scale`` and ``norm_bias`` (D,): the product's result y becomes
  ``y + relu(LayerNorm(y) @ down + down_bias) @ up + up_bias``, without ``norm_scale`` of y itself.

In a scanned model ``layers`` stands for ``layer_i`` and its arrays have a leading axis L.

The positions of real tokens, given or counted, grow by n + p, where p is the longest of any layer.
Virtual tokens before the rows have those from p on, counted from an encoder's first. In all,
n + p + T is at most ``max_length``. Outputs are those of the T tokens of the rows, but a classifier
reads the first place, be it virtual. The first call with an empty cache puts the n virtual tokens
into it, in slots of their own; n + p + slots is at most ``max_length``.

Hugging Face's models with PEFT give the same, but count padding like tokens where PEFT embeds
the input itself or is given no positions, which shows where padding is on the left.

Shape suffixes: B batch, T tokens, S keys, D model width, K key-value heads, H head width,
V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorax.models.config import TransformerConfig

COLLECTION = "additions"

_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Virtual:
    """The virtual tokens of a model's input; without any, its methods change nothing.

    Attributes:
      embeddings: (n, D), those before every row, or None.
      infix: (m, D), those inside the rows, or None.
      prefix: p, how many keys stand before a layer's own; the most of any layer.
      states: whether some layer replaces the stream at them.
      kept: how many of those before the rows a cache holds already: none or all.
    """

    embeddings: jax.Array | None = None
    infix: jax.Array | None = None
    prefix: int = 0
    states: bool = False
    kept: int = 0

    @property
    def ahead(self) -> int:
        """How many enter the model before every row: n, or none where a cache holds them."""
        return _rows(self.embeddings) - self.kept

    @property
    def shift(self) -> int:
        """n + p, how many positions a real token stands further back."""
        return _rows(self.embeddings) + self.prefix

    def positions(self, positions_BT: jax.Array, first: int = 0) -> jax.Array:
        """Positions (B, ahead + T), from those of the real tokens (B, T) and the first of all.

        A position before the first is padding's and stays.
        """
        if not self.shift:
            return positions_BT
        own = (first + self.prefix + jnp.arange(self.ahead)).astype(positions_BT.dtype)
        own_Bn = jnp.broadcast_to(own, (positions_BT.shape[0], self.ahead))
        moved_BT = jnp.where(positions_BT < first, positions_BT, positions_BT + self.shift)
        return jnp.concatenate([own_Bn, moved_BT], axis=1)

    def mask(self, mask_B1TS: jax.Array | None, tokens: int, *, causal: bool) -> jax.Array | None:
        """The mask of n + T queries and n + S keys from that of T, (B, 1, 1 or T, S), and S.

        For whole sequences. Raises ValueError for an encoder's mask of pairs, which does not say
        what virtual tokens see.
        """
        ahead = self.ahead
        if mask_B1TS is None or not ahead:
            return mask_B1TS
        if not causal:
            if mask_B1TS.shape[2] != 1:
                raise ValueError(
                    "a mask of pairs does not say what an encoder's virtual tokens see: pass one "
                    "of shape (batch, tokens), with one text a row"
                )
            return jnp.pad(mask_B1TS, [(0, 0)] * 3 + [(ahead, 0)], constant_values=True)
        shape = (mask_B1TS.shape[0], 1, tokens, mask_B1TS.shape[3])
        # Virtual tokens, the rows on top, see no real one; all see the virtual ones before.
        real = jnp.pad(jnp.broadcast_to(mask_B1TS, shape), [(0, 0), (0, 0), (ahead, 0), (0, 0)])
        own = jnp.tri(ahead + tokens, ahead, dtype=bool)
        return jnp.concatenate([jnp.broadcast_to(own, (*real.shape[:3], ahead)), real], axis=-1)

    def embed(self, table: nn.Embed, tokens: jax.Array) -> jax.Array:
        """Vectors (B, ahead + T, D) of virtual tokens and of ids (B, T), in the table's dtype."""
        if self.infix is None:
            x_BTD = table(tokens)
        else:
            inside = tokens >= table.num_embeddings
            x_BTD = table(jnp.where(inside, 0, tokens))
            rows = jnp.where(inside, tokens - table.num_embeddings, 0)
            infix_BTD = jnp.take(self.infix.astype(x_BTD.dtype), rows, axis=0)
            x_BTD = jnp.where(inside[..., None], infix_BTD, x_BTD)
        if self.embeddings is None:
            return x_BTD
        # Of kept ones no rows at all are taken, which reads them still: adapters count on that.
        own = self.embeddings[self.kept :].astype(x_BTD.dtype)
        own_BnD = jnp.broadcast_to(own, (tokens.shape[0], *own.shape))
        return jnp.concatenate([own_BnD, x_BTD], axis=1)

    def numbers(self, tokens: jax.Array, vocab_size: int) -> jax.Array | None:
        """Which virtual token is where, (B, ahead + T), -1 at real ones; None if nobody asks."""
        if not self.states:
            return None
        own_Bn = jnp.broadcast_to(jnp.arange(self.ahead), (tokens.shape[0], self.ahead))
        first = _rows(self.embeddings)  # of those inside the rows
        inside = jnp.where(tokens >= vocab_size, tokens - vocab_size + first, -1)
        return jnp.concatenate([own_Bn, inside], axis=1)

    def real(self, x_BTD: jax.Array) -> jax.Array:
        """What of the stream (B, ahead + T, D) is of the rows' own tokens, (B, T, D)."""
        return x_BTD[:, self.ahead :] if self.ahead else x_BTD


NO_VIRTUAL = Virtual()


def read_virtual(model: nn.Module, config: TransformerConfig, kept: int = 0) -> Virtual:
    """The virtual tokens that a model was given, checked. Called inside its compact method.

    ``kept`` of those before the rows are in a cache. Raises ValueError, in one line, for an array
    of the wrong shape, and for a cache that was begun with others.
    """
    own = _own(model)
    layers = [_mapping(layer) for name, layer in own.items() if name.startswith("layer")]
    keys = [_array(_mapping(layer.get("attention")), "key") for layer in layers]
    virtual = Virtual(
        own.get("embeddings"),
        own.get("infix"),
        prefix=max((key.shape[-2] for key in keys if key is not None), default=0),
        states=any("states" in layer for layer in layers),
        kept=kept,
    )
    for name, value in (("embeddings", virtual.embeddings), ("infix", virtual.infix)):
        if value is not None:
            _check(model, name, value, (_rows(value), config.dim))
    if kept not in (0, _rows(virtual.embeddings)):
        raise ValueError(
            f"the cache was begun with {kept} virtual tokens and there are "
            f"{_rows(virtual.embeddings)}: begin with an empty one from init_cache"
        )
    every = _rows(virtual.embeddings) + _rows(virtual.infix)
    for layer in layers:
        if "states" in layer:
            stack = (config.layers,) if config.scan else ()
            _check(model, "a layer's states", layer["states"], (*stack, every, config.dim))
    return virtual


def replace_states(layer: nn.Module, x_BTD: jax.Array, numbers_BT: jax.Array | None) -> jax.Array:
    """The stream as it enters a layer, whose ``states``, if any, replace it at virtual tokens.

    ``numbers_BT`` as `Virtual.numbers` gives them. Called inside a compact method.
    """
    states = _own(layer).get("states")
    if states is None or numbers_BT is None:
        return x_BTD
    rows_BTD = jnp.take(states.astype(x_BTD.dtype), jnp.maximum(numbers_BT, 0), axis=0)
    return jnp.where(numbers_BT[..., None] >= 0, rows_BTD, x_BTD)


def read_prefix(
    attention: nn.Module, heads: int, head_dim: int
) -> tuple[jax.Array, jax.Array] | None:
    """The keys and values (p, K, H) before an attention's own, or None. For `attend`.

    Called inside a compact method. Raises ValueError, in one line, for arrays of the wrong shape.
    """
    own = _own(attention)
    key, value = _array(own, "key"), _array(own, "value")
    if key is None and value is None:
        return None
    shape = (_rows(key), heads * head_dim)
    key, value = _check(attention, "key", key, shape), _check(attention, "value", value, shape)
    return key.reshape(-1, heads, head_dim), value.reshape(-1, heads, head_dim)


def apply_bottleneck(dense: nn.Module, y: jax.Array) -> jax.Array:
    """What a Dense gives, ``y`` (..., D), and what its bottleneck, if any, adds to that.

    Called inside the Dense. Raises ValueError, in one line, for an array of the wrong shape.

    Source: Houlsby et al., arXiv:1902.00751, section 2.1; normalised: Lin et al.,
    arXiv:2004.03829, section 3.1.
    """
    own = _own(dense)
    if "down" not in own and "up" not in own:
        return y
    width, rank = y.shape[-1], _rows(own.get("up"))
    shapes = {"down": (width, rank), "down_bias": (rank,), "up": (rank, width), "up_bias": (width,)}
    if "norm_scale" in own:
        shapes |= {"norm_scale": (width,), "norm_bias": (width,)}
    part = {
        name: _check(dense, name, own.get(name), shape).astype(y.dtype)
        for name, shape in shapes.items()
    }
    x = y
    if "norm_scale" in own:
        x = _normalised(y) * part["norm_scale"] + part["norm_bias"]
    return y + nn.relu(x @ part["down"] + part["down_bias"]) @ part["up"] + part["up_bias"]


def _normalised(y: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 over the last axis, statistics in float32 at least."""
    wide = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + _EPSILON)).astype(y.dtype)


def _own(module: nn.Module) -> Mapping[str, Any]:
    """What the collection has for a module."""
    return _mapping(module.variables.get(COLLECTION))


def _mapping(found: Any) -> Mapping[str, Any]:
    # Where an attention has a "key" of its own, the Dense of that name finds an array.
    return found if isinstance(found, Mapping) else {}


def _array(own: Mapping[str, Any], name: str) -> jax.Array | None:
    # And where the Dense has a bottleneck, the attention finds a mapping.
    value = own.get(name)
    return None if isinstance(value, Mapping) else value


def _rows(array: Any) -> int:
    return array.shape[0] if getattr(array, "shape", ()) else 0


def _check(module: nn.Module, name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """The value; ValueError unless it has the shape."""
    found = getattr(value, "shape", None)
    if found != shape:
        path = "/".join((COLLECTION, *module.path))
        raise ValueError(
            f"{name} in {path} must have shape {shape}, got {found or 'nothing'}: "
            "give it that shape"
        )
    return value
