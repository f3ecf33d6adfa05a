"""What if small networks stand inside the layers? Adapters (Houlsby et al., 2019)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from lorax.adapters import places
from lorax.adapters.beside import Beside
from lorax.adapters.starts import Start, check_arrays, count, draw, wide
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError
from lorax.core.leaf import Roles
from lorax.core.where import check_order, check_paths, check_patterns, check_used

HOULSBY = (r".*/attention/out/kernel", r".*/mlp/down/kernel")
"""Adapter^H: after attention and after the feed-forward (Houlsby et al., arXiv 1902.00751)."""

AFTER_MLP = (r".*/mlp/down/kernel",)
"""Adapter^P (Pfeiffer et al., arXiv 2005.00247): after the feed-forward alone. With `norm` it is
Adapter^L (Lin et al., arXiv 2004.03829)."""

_KERNEL = "/kernel"
_DEVIATION = 0.01


@dataclasses.dataclass(frozen=True)
class Bottleneck(Beside, Adapter):
    """A bottleneck after some products: y becomes y + relu(y Down + b) Up + c.

    No parameter changes: `merge` adds the collection "additions". The delta is
    `{path: {"down": (D, r), "down_bias": (r,), "up": (r, D), "up_bias": (D,)}}`, the paths being
    those of the kernels, D the width of their result, a leading L where the kernel has one; with
    `norm` also "norm_scale" and "norm_bias" (D,), of a LayerNorm of y before Down. Up and biases
    start at zero, so nothing is added at first. 2 D r + r + D numbers a kernel, 2 D more with norm.

    Attributes:
      rank: r, the width of the bottleneck.
      where: expressions for the kernels after whose product it stands: `HOULSBY` by default, or
        `AFTER_MLP`.
      exclude: expressions for kernels to leave out of `where`.
      norm: whether y is normalised first.
    """

    rank: int = 8
    where: tuple[str, ...] = HOULSBY
    exclude: tuple[str, ...] = ()
    norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", count("rank", self.rank))
        object.__setattr__(self, "where", check_patterns("where", self.where))
        object.__setattr__(self, "exclude", check_patterns("exclude", self.exclude))
        object.__setattr__(self, "norm", bool(self.norm))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """Down N(0, 0.01²), the scale of the norm one, everything else zero.

        Raises:
          LoraxError: a pattern without a match, or a match that is no kernel (in, out) or that the
            program never uses.
          LoraxTypeError: a base that is not the variables of a Flax model.
        """
        stored = places.leaves_of(base, "Bottleneck")
        delta = {}
        for path in self._paths(stored):
            check_used(path, roles)
            starts = self._starts(path, stored[path])
            delta[path] = draw(starts, key, wide(stored[path]), prefix=path)
        return delta

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """The arrays of every bottleneck, checked against base and config."""
        stored = places.leaves_of(base, "Bottleneck")
        check_order(base, stored, delta)
        check_paths(delta, self._paths(stored), stored)
        additions: dict[str, jax.Array] = {}
        for path, own in delta.items():
            check_arrays(own, self._starts(path, stored[path]), "Bottleneck", f" at '{path}'")
            module = path.removesuffix(_KERNEL)
            additions |= {places.beside(module, name): array for name, array in own.items()}
        return additions

    def to_dict(self) -> dict[str, Any]:
        """As `Adapter.to_dict`, patterns as lists."""
        return super().to_dict() | {"where": list(self.where), "exclude": list(self.exclude)}

    def _paths(self, stored: Mapping[str, Any]) -> list[str]:
        left_out = paths.excluded(self.exclude, stored)
        return [path for path in paths.select(self.where, stored) if path not in left_out]

    def _starts(self, path: str, kernel: Any) -> dict[str, Start]:
        shape, rank = tuple(kernel.shape), self.rank
        if not path.endswith(_KERNEL) or len(shape) not in (2, 3):
            raise LoraxError(
                f"'{path}' has shape {shape}: Bottleneck stands after the product with a 'kernel' "
                "(in, out), or (layers, in, out) of a scan; narrow where="
            )
        stack, width = shape[:-2], shape[-1]
        starts = {
            "down": Start((*stack, width, rank), normal=_DEVIATION),
            "down_bias": Start((*stack, rank)),
            "up": Start((*stack, rank, width)),
            "up_bias": Start((*stack, width)),
        }
        if self.norm:
            starts["norm_scale"] = Start((*stack, width), constant=1.0)
            starts["norm_bias"] = Start((*stack, width))
        return starts
