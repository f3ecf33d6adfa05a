"""What if a few virtual tokens are all that learns? Prompt tuning (Lester et al., 2021)."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters import places
from lorax.adapters.beside import Beside
from lorax.adapters.starts import Start, check_arrays, count, draw, wide
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError, LoraxTypeError, check_choice
from lorax.core.leaf import Roles
from lorax.core.packed import formed

INITIALIZERS = ("random", "vocabulary", "text")

_PLACES = {"prompt": "additions/embeddings", "infix": "additions/infix"}


@dataclasses.dataclass(frozen=True)
class PromptTuning(Beside, Adapter):
    """Trains the embeddings of virtual tokens: before every row, and at marked places inside.

    No parameter changes: `merge` adds the collection "additions". The delta is
    `{"prompt": (tokens, D)}`, and with infix `{"infix": (infix, D)}` too, in float32 or wider. With
    infix tokens it is the prefix-embedding tuning of Hu et al., 2021 (arXiv 2106.09685, section
    5.1). Sources: Lester et al., 2021, arXiv 2104.08691; first values are PEFT's.

    Attributes:
      tokens: how many virtual tokens stand before every row.
      infix: how many the rows themselves hold; the ids V, V + 1, ... stand for them, V being the
        size of the vocabulary.
      initializer: "random", N(0, 1); "vocabulary", embeddings of ids drawn at random; "text", those
        of `token_ids`, repeated or cut to `tokens` + `infix`.
      token_ids: the text, for "text" alone.
      table: expression for the path of the embedding table (V, D).
    """

    tokens: int = 20
    infix: int = 0
    initializer: str = "random"
    token_ids: tuple[int, ...] = ()
    table: str = places.TABLE

    def __post_init__(self) -> None:
        set_field = lambda name, value: object.__setattr__(self, name, value)
        set_field("tokens", count("tokens", self.tokens))
        set_field("infix", count("infix", self.infix, least=0))
        check_choice("initializer", self.initializer, INITIALIZERS)
        set_field("token_ids", _check_ids(self.token_ids, self.initializer))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """The first virtual tokens, `{"prompt"}` or `{"prompt", "infix"}`.

        Raises:
          LoraxError: no embedding table, or several; an id of `token_ids` that it does not have.
          LoraxTypeError: a base that is not the variables of a Flax model.
        """
        table = self._table(base)
        starts = self._starts(table)
        if self.initializer == "random":
            return draw(starts, key, wide(table))
        ids = self._ids(key, table.shape[0], starts)
        rows = jnp.asarray(formed(table))
        return {name: jnp.array(rows[own], wide(table)) for name, own in ids.items()}

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """The virtual tokens, checked against base and config."""
        check_arrays(delta, self._starts(self._table(base)), "PromptTuning")
        return {_PLACES[name]: array for name, array in delta.items()}

    def to_dict(self) -> dict[str, Any]:
        """As `Adapter.to_dict`, ids as a list."""
        return super().to_dict() | {"token_ids": list(self.token_ids)}

    def _table(self, base: Base) -> Any:
        return places.table_of(self.table, places.leaves_of(base, "PromptTuning"))

    def _starts(self, table: Any) -> dict[str, Start]:
        sizes = {"prompt": self.tokens, "infix": self.infix}
        return {n: Start((rows, table.shape[1]), normal=1.0) for n, rows in sizes.items() if rows}

    def _ids(
        self, key: jax.Array, vocabulary: int, starts: Mapping[str, Start]
    ) -> dict[str, jax.Array]:
        """Which rows of the table each array starts as."""
        if self.initializer == "vocabulary":
            return {
                name: jax.random.randint(
                    paths.key_for(key, f"additions/{name}"), start.shape[:1], 0, vocabulary
                )
                for name, start in starts.items()
            }
        for number in self.token_ids:
            if number >= vocabulary:
                raise LoraxError(
                    f"token_ids hold {number} and the table has {vocabulary} rows: expected ids of "
                    "this model's vocabulary; encode the text with its own tokenizer"
                )
        rows = [self.token_ids[i % len(self.token_ids)] for i in range(self.tokens + self.infix)]
        ids = {"prompt": jnp.array(rows[: self.tokens]), "infix": jnp.array(rows[self.tokens :])}
        return {name: ids[name] for name in starts}


def _check_ids(token_ids: Any, initializer: str) -> tuple[int, ...]:
    """The ids as plain integers: some for "text", none for the others."""
    wanted = "expected the ids of a text, such as token_ids=(464, 3280)"
    if isinstance(token_ids, str) or not isinstance(token_ids, Sequence):
        raise LoraxTypeError(f"token_ids is {token_ids!r}: {wanted}")
    try:
        ids = tuple(operator.index(number) for number in token_ids)
    except TypeError:
        raise LoraxTypeError(f"token_ids is {token_ids!r}: {wanted}") from None
    if bool(ids) != (initializer == "text"):
        raise LoraxError(
            f"token_ids has {len(ids)} ids with initializer={initializer!r}: expected some, as "
            "tokenizer.encode(text) gives them, with initializer='text', and none with the others"
        )
    if ids and min(ids) < 0:
        raise LoraxError(f"token_ids hold {min(ids)}: {wanted}")
    return ids
