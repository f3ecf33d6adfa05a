"""What if every layer attends to keys and values that learn? Prefix tuning (Li and Liang, 2021)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters import places
from lorax.adapters.beside import Beside
from lorax.adapters.networks import dense, dense_starts
from lorax.adapters.starts import Start, check_arrays, count, draw, wide
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import check_choice
from lorax.core.leaf import Roles

INITIALIZERS = ("random", "zero")


@dataclasses.dataclass(frozen=True)
class PrefixTuning(Beside, Adapter):
    """Trains keys and values that stand before those of the tokens, in every layer.

    No parameter changes: `merge` adds the collection "additions". A row of the prefix holds all
    layers: [layer 0's key, its value, layer 1's key, ...], each of width d_kv, which is less than
    D under grouped-query attention. The delta is `{"prefix": (tokens, 2 L d_kv)}`; with `hidden` it
    is an "embedding" (tokens, d_kv) and the dense layers "first" and "second" with tanh between
    that make the prefix, and all of it is kept, so training goes on from a saved one. Sources: Li
    and Liang, 2021, arXiv 2101.00190; layout, first values and counts are those of PEFT.

    Attributes:
      tokens: n, how many keys and values a layer gets.
      hidden: width of the network that makes the prefix; 0 means that the prefix itself learns.
      initializer: "random", N(0, 1), or a network as torch starts it; "zero": keys and values
        start at zero, which still take a share of the attention.
      attention: expression for the paths of the modules that get a prefix.
    """

    tokens: int = 20
    hidden: int = 0
    initializer: str = "random"
    attention: str = places.ATTENTION

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", count("tokens", self.tokens))
        object.__setattr__(self, "hidden", count("hidden", self.hidden, least=0))
        check_choice("initializer", self.initializer, INITIALIZERS)

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """The first prefix, or the network that makes it.

        Raises:
          LoraxError: `attention` matches no module, or modules of different widths.
          LoraxTypeError: a base that is not the variables of a Flax model.
        """
        stored = self._stored(base)
        found = places.attentions(self.attention, stored)
        return draw(self._starts(found), key, wide(stored[f"{found[0].path}/out/kernel"]))

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """Keys and values (n, d_kv) of every layer, stacked (L, n, d_kv) where the layers are."""
        found = places.attentions(self.attention, self._stored(base))
        check_arrays(delta, self._starts(found), "PrefixTuning")
        layers = sum(attention.count for attention in found)
        prefix = self.prefix(delta).reshape(self.tokens, layers, 2, found[0].kv_width)
        every = jnp.moveaxis(prefix, 0, 2)  # (L, 2, n, d_kv)
        additions = {}
        for attention, own in places.of_all_layers(found):
            keys, values = jnp.moveaxis(every[own], -3, 0)
            additions[places.beside(attention.path, "key")] = keys
            additions[places.beside(attention.path, "value")] = values
        return additions

    def prefix(self, delta: Delta) -> jax.Array:
        """Keys and values of all layers, (n, 2 L d_kv): all that a trained model needs."""
        if not self.hidden:
            return delta["prefix"]
        return dense(delta, "second", jnp.tanh(dense(delta, "first", delta["embedding"])))

    def _stored(self, base: Base) -> dict[str, Any]:
        return places.leaves_of(base, "PrefixTuning")

    def _starts(self, found: list[places.Attention]) -> dict[str, Start]:
        width = found[0].kv_width
        row = 2 * width * sum(attention.count for attention in found)
        zero = self.initializer == "zero"
        if not self.hidden:
            return {"prefix": Start((self.tokens, row), normal=0.0 if zero else 1.0)}
        second = dense_starts("second", self.hidden, row)
        if zero:
            second = {name: Start(start.shape) for name, start in second.items()}
        return {
            "embedding": Start((self.tokens, width), normal=1.0),
            **dense_starts("first", width, self.hidden),
            **second,
        }
