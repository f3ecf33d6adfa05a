"""What do adapters share that change no parameter? What they add stands beside the parameters."""

import abc
from typing import Any

import jax

from lorax.core.adapter import Base, Delta, unprepared
from lorax.core.additions import with_additions
from lorax.core.implicit import with_leaves


class Beside(abc.ABC):
    """What makes an `Adapter` of its `init` and its `additions`: leaves stay what they are.

    To be named before `Adapter` among the bases of a class.

    Attributes:
      tokens: how many virtual tokens stand before every row, a field of those that put any there.
    """

    tokens: int = 0

    @abc.abstractmethod
    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """As `Adapter.additions`."""

    def merge(self, base: Base, delta: Delta) -> Base:
        """The base with the collection "additions" beside its parameters, which are as they were.

        Of a quantised base every leaf is formed.
        """
        plain = with_leaves(unprepared(base)[0], {})
        return with_additions(plain, self.additions(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """None: no parameter changes."""
        return {}

    @property
    def virtual_tokens(self) -> int:
        """As `Adapter.virtual_tokens`: keys and values of a prefix take places as tokens do."""
        return self.tokens
