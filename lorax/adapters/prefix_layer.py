"""What if virtual tokens learn a state for every layer? Prefix-layer tuning (Hu et al., 2021)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from lorax.adapters import places
from lorax.adapters.beside import Beside
from lorax.adapters.starts import Start, check_arrays, count, draw, wide
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.leaf import Roles


@dataclasses.dataclass(frozen=True)
class PrefixLayer(Beside, Adapter):
    """Trains what virtual tokens are where they enter each layer, in place of what was computed.

    No parameter changes: `merge` adds the collection "additions". The delta is
    `{"states": (L, tokens + infix, D)}` in float32 or wider, those before the rows first. What
    enters the first layer stands for the embedding with its position, so that the first layer is
    as the others. Source: Hu et al., 2021, arXiv 2106.09685, section 5.1.

    Attributes:
      tokens: how many virtual tokens stand before every row.
      infix: how many the rows themselves hold; the ids V, V + 1, ... stand for them, V being the
        size of the vocabulary.
      attention: expression for the paths of the layers' attention, which tells the layers.
    """

    tokens: int = 8
    infix: int = 0
    attention: str = places.ATTENTION

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", count("tokens", self.tokens))
        object.__setattr__(self, "infix", count("infix", self.infix, least=0))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """States N(0, 1).

        Raises:
          LoraxError: `attention` matches no module, or modules of different widths.
          LoraxTypeError: a base that is not the variables of a Flax model.
        """
        stored = self._stored(base)
        found = places.attentions(self.attention, stored)
        return draw(self._starts(found), key, wide(stored[f"{found[0].path}/out/kernel"]))

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """The states of every layer, and those of the first as embeddings of the virtual tokens."""
        found = places.attentions(self.attention, self._stored(base))
        check_arrays(delta, self._starts(found), "PrefixLayer")
        states = delta["states"]
        additions = {"additions/embeddings": states[0, : self.tokens]}
        if self.infix:
            additions["additions/infix"] = states[0, self.tokens :]
        for attention, own in places.of_all_layers(found):
            layer = attention.path.rpartition("/")[0]
            additions[places.beside(layer, "states")] = states[own]
        return additions

    def _stored(self, base: Base) -> dict[str, Any]:
        return places.leaves_of(base, "PrefixLayer")

    def _starts(self, found: list[places.Attention]) -> dict[str, Start]:
        layers = sum(attention.count for attention in found)
        return {"states": Start((layers, self.tokens + self.infix, found[0].width), normal=1.0)}
