"""What do adapters share that change no parameter? What they add stands beside the parameters."""

from typing import Any

from lorax.core.adapter import Adapter, Base, Delta, unprepared
from lorax.core.additions import with_additions
from lorax.core.implicit import with_leaves


class Beside(Adapter):
    """An adapter that is its `init` and its `additions`; the base's leaves stay what they are."""

    def merge(self, base: Base, delta: Delta) -> Base:
        """The base with the collection "additions" beside its parameters, which are as they were.

        Of a quantised base every leaf is formed.
        """
        plain = with_leaves(unprepared(base)[0], {})
        return with_additions(plain, self.additions(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """None: no parameter changes."""
        return {}
