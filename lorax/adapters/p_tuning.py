"""What if a small network makes the virtual tokens? P-tuning (Liu et al., 2021)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from lorax.adapters import places
from lorax.adapters.beside import Beside
from lorax.adapters.networks import dense, dense_starts, lstm, lstm_starts
from lorax.adapters.starts import Start, check_arrays, count, draw, wide
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import check_choice
from lorax.core.leaf import Roles

ENCODERS = ("mlp", "lstm")


@dataclasses.dataclass(frozen=True)
class PTuning(Beside, Adapter):
    """Virtual tokens before every row, made by an encoder from embeddings that learn with it.

    No parameter changes: `merge` adds the collection "additions". The delta maps "embedding"
    (tokens, D) and the arrays of the encoder, "first/kernel" and so on, in float32 or wider; all of
    it is kept, so training goes on from a saved one. Sources: Liu et al., 2021, arXiv 2103.10385;
    encoders, first values and counts are those of PEFT.

    Attributes:
      tokens: n, how many virtual tokens stand before every row.
      encoder: "mlp": dense layers D-h-h-D with ReLU between, "first", "second", "third"; "lstm":
        two bidirectional layers of width h, then "first" (2 h, 2 h), ReLU, "second" (2 h, D).
      hidden: h; 0 means D.
      table: expression for the path of the embedding table, whose width is D.
    """

    tokens: int = 20
    encoder: str = "mlp"
    hidden: int = 0
    table: str = places.TABLE

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", count("tokens", self.tokens))
        check_choice("encoder", self.encoder, ENCODERS)
        object.__setattr__(self, "hidden", count("hidden", self.hidden, least=0))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """Embeddings N(0, 1), and an encoder as torch would start it.

        Raises:
          LoraxError: no embedding table, or several.
          LoraxTypeError: a base that is not the variables of a Flax model.
        """
        table = self._table(base)
        return draw(self._starts(table), key, wide(table))

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """The encoded virtual tokens (n, D)."""
        check_arrays(delta, self._starts(self._table(base)), "PTuning")
        return {"additions/embeddings": self.encoded(delta)}

    def encoded(self, delta: Delta) -> jax.Array:
        """What the encoder makes of the embeddings, (n, D): all that a trained model needs."""
        x = delta["embedding"]
        names = ["first", "second", "third"]
        if self.encoder == "lstm":
            x, names = lstm(delta, x), names[:2]
        for name in names[:-1]:
            x = jax.nn.relu(dense(delta, name, x))
        return dense(delta, names[-1], x)

    def _table(self, base: Base) -> Any:
        return places.table_of(self.table, places.leaves_of(base, "PTuning"))

    def _starts(self, table: Any) -> dict[str, Start]:
        width = table.shape[1]
        hidden = self.hidden or width
        starts = {"embedding": Start((self.tokens, width), normal=1.0)}
        if self.encoder == "lstm":
            return {
                **starts,
                **lstm_starts(width, hidden),
                **dense_starts("first", 2 * hidden, 2 * hidden),
                **dense_starts("second", 2 * hidden, width),
            }
        return {
            **starts,
            **dense_starts("first", width, hidden),
            **dense_starts("second", hidden, hidden),
            **dense_starts("third", hidden, width),
        }
