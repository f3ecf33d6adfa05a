"""What if the length of each column learns apart from its direction? DoRA.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, arXiv:2402.09353.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lorax.adapters.column_norms import moved_squares, squares
from lorax.adapters.lora import LoRA
from lorax.adapters.lora_init import DRAWS
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError, check_choice
from lorax.core.implicit import with_leaves
from lorax.core.leaf import LowRank, Rescaled, Roles
from lorax.core.where import ALL_LINEAR

PARTS = ("lora", "magnitude")


@dataclasses.dataclass(frozen=True)
class DoRA(Adapter):
    """A LoRA for the directions of columns and a number for each length: W = m (W0 + s A B) / n.

    n is the norm of each column of W0 + s A B, a column being what one output sums, and takes no
    part in the gradient (section 4.3 of the paper). It comes from the factors: no matrix of the
    size of W0 is formed. The delta is `{"lora": {path: Factors}, "magnitude": {path: (stack...,
    outputs...)}}`, and has out numbers more a matrix than LoRA's.

    m is stored as its distance from the norm of the column of W0, so that a step at zero starts at
    the base and weight decay pulls to it; the gradient is that of m. A column of zeros that
    nothing moved stays zero.

    Attributes:
      rank, alpha, where, exclude, scaling, dropout, dtype: as those of `LoRA`. The mask of dropout
        is on the input of A alone.
      initializer: "kaiming", "gaussian" or "orthogonal", as that of `LoRA`.
    """

    rank: int = 8
    alpha: Any = 16.0
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    scaling: str = "standard"
    initializer: str = "kaiming"
    dropout: float = 0.0
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_choice("initializer", self.initializer, DRAWS)
        lora = self.lora
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, getattr(lora, field.name))

    @property
    def lora(self) -> LoRA:
        """The LoRA of the directions."""
        return LoRA(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """The factors that `LoRA.init` draws, and magnitudes of zero.

        Raises:
          LoraxError: as `LoRA.init`; or a table that is looked up and also contracted, whose
            columns are the rows of the other use.
          LoraxTypeError: as `LoRA.init`.
        """
        stored = paths.flatten(unprepared(base)[0])
        lora = self.lora.init(key, base, roles)
        for path in lora:
            if roles and path in roles and roles[path].tied:
                raise LoraxError(
                    f"'{path}' is looked up and also multiplied the other way round, so that the "
                    "columns of one use are the rows of the other: DoRA cannot rescale them; leave "
                    "it out with exclude=, or adapt it with LoRA"
                )
        zeros = {
            path: jnp.zeros(_shape(stored[path], factors.roles), factors.B.dtype)
            for path, factors in lora.items()
        }
        return {"lora": lora, "magnitude": zeros}

    def merge(self, base: Base, delta: Delta) -> Base:
        """m (W0 + s A B) / n for every leaf of the delta, in float32, cast once."""
        return with_leaves(unprepared(base, self)[0], self.leaves(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """W0 + s A B rescaled by m / n, checked against base and config."""
        base, derived = unprepared(base, self)
        lora, magnitude = _parts(delta)
        stored, found = paths.flatten(base), {}
        for path, update in self.lora.leaves(base, lora).items():
            own = squares(stored[path], update.factors.roles) if not derived else derived[path]
            _check(path, magnitude[path], own.shape)
            gain = _gain(own, stored[path], update, magnitude[path])
            found[path] = Rescaled(gain, "outputs", update.factors.roles, update)
        return found

    def derive(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """The squared norm of every column of W0."""
        stored = paths.flatten(unprepared(base)[0])
        lora, _ = _parts(delta)
        return {path: squares(stored[path], factors.roles) for path, factors in lora.items()}

    def to_dict(self) -> dict[str, Any]:
        """As `LoRA.to_dict`, without what DoRA does not have."""
        names = {field.name for field in dataclasses.fields(self)}
        fields = {name: value for name, value in self.lora.to_dict().items() if name in names}
        return {"adapter": "DoRA", **fields}


def _gain(own: jax.Array, w: jax.Array, update: LowRank, offset: jax.Array) -> jax.Array:
    """m / n, as one and the rest: exactly one where nothing was learnt yet, in any program.

    A quotient of roots would be compiled to a product with a reciprocal root.
    """
    moved = lax.stop_gradient(moved_squares(own, w, update))
    norm = jnp.sqrt(jnp.where(moved > 0, moved, 1.0))
    longer = jnp.sqrt(own) - norm + offset.astype(own.dtype)
    return jnp.where(moved > 0, 1.0 + longer / norm, 1.0)


def _shape(leaf: Any, roles: Roles) -> tuple[int, ...]:
    return tuple(leaf.shape[axis] for axis in (*roles.stack, *roles.outputs))


def _parts(delta: Any) -> tuple[Any, Any]:
    if not isinstance(delta, Mapping) or set(delta) != set(PARTS):
        found = f"has {sorted(delta)[:3]}" if isinstance(delta, Mapping) else "is no mapping"
        raise LoraxTypeError(
            f"delta of a DoRA {found}: expected 'lora' and 'magnitude', as DoRA.init returns them; "
            "was it saved by another adapter, or are base and delta swapped?"
        )
    lora, magnitude = (delta[name] for name in PARTS)
    if isinstance(lora, Mapping) and set(lora) != set(magnitude):
        path = sorted(set(lora) ^ set(magnitude))[0]
        raise LoraxError(
            f"delta of a DoRA has '{path}' in one of 'lora' and 'magnitude' alone: expected the "
            "same leaves in both; make it with DoRA.init"
        )
    return lora, magnitude


def _check(path: str, offset: Any, shape: tuple[int, ...]) -> None:
    if tuple(offset.shape) != tuple(shape):
        raise LoraxError(
            f"magnitude at '{path}' has shape {tuple(offset.shape)} but the base needs {shape}: it "
            "belongs to another model, or it is a stack of deltas outside vmap"
        )
