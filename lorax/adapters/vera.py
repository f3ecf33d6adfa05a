"""How far do two vectors a matrix go? VeRA: ΔW = A diag(d) B diag(b), A and B frozen and shared.

Kopiczko, Blankevoort and Asano, "VeRA: Vector-based Random Matrix Adaptation", 2023,
arXiv:2310.11454.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.matrices import MatrixAdapter, Shapes, frozen_key, stack_of
from lorax.core import paths
from lorax.core.adapter import Base, Delta, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Factors, Learnt, LowRank, Roles
from lorax.core.where import ALL_LINEAR


@dataclasses.dataclass(frozen=True)
class VeRA(MatrixAdapter):
    """Trains d (r,) and b (out,) of each selected leaf: W = W0 + A diag(d) B diag(b).

    The delta is `{path: Learnt({"d", "b"})}`, d (stack..., r) and b (stack..., outputs...): r + out
    numbers a matrix. There is one endless A and one endless B, drawn from `seed`: a leaf (in, out)
    takes the first `in` rows and `out` columns, whatever else is adapted, and the layers of a stack
    share them. They are never stored: `prepare` draws them once for many steps, a plain base draws
    them in each. Those of another program go in as `Prepared(base, {path: Factors(A, B)}, adapter)`
    with A (inputs..., r) and B (r, outputs...).

    Attributes:
      rank: r; it costs few numbers, so it is larger than LoRA's.
      where, exclude, dropout, dtype: as in `LoRA`; there is no alpha.
      d_initial: where d starts; b starts at zero.
      seed: of A and B. Both are uniform with variance 2 / fan-in, as PEFT has them: A in
        ±sqrt(6 / in), with the leaf's own fan-in where PEFT has the largest, and B in ±sqrt(6 / r).
        None says that they come with the base, so that a plain base is an error and never another
        draw.
    """

    rank: int = 256
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: str | None = None
    d_initial: float = 0.1
    seed: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        value = self.d_initial
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LoraxTypeError(f"d_initial is {value!r}: expected a number, such as 0.1")
        if not math.isfinite(value) or value == 0:
            raise LoraxError(
                f"d_initial is {value}: expected a finite number other than 0, as b starts at 0 "
                "and would learn nothing"
            )
        object.__setattr__(self, "d_initial", float(value))

    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """d (stack..., r) and b (stack..., outputs...)."""
        stack = stack_of(leaf.shape, roles)
        outputs = tuple(leaf.shape[axis] for axis in roles.outputs)
        return {"d": (*stack, self.rank_of(path)), "b": (*stack, *outputs)}

    def start(
        self, key: jax.Array, shapes: Shapes, fan_in: int, dtype: Any
    ) -> dict[str, jax.Array]:
        """d of `d_initial` and b of zeros; nothing is drawn."""
        return {
            "d": jnp.full(shapes["d"], self.d_initial, dtype),
            "b": jnp.zeros(shapes["b"], dtype),
        }

    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: Factors) -> LowRank:
        """(A diag(d)) (B diag(b)), the vectors on the frozen factors."""
        roles, d, b = learnt.roles, learnt["d"], learnt["b"]
        stacked, rank = len(roles.stack), d.shape[-1]
        wanted = tuple(leaf.shape[axis] for axis in roles.inputs), b.shape[stacked:]
        shapes = (*wanted[0], rank), (rank, *wanted[1])
        found = tuple(frozen.A.shape), tuple(frozen.B.shape)
        if found != shapes:
            raise LoraxError(
                f"frozen A and B of '{path}' have shapes {found[0]} and {found[1]}: expected "
                f"{shapes[0]} and {shapes[1]}, of one matrix of the leaf; correct those in Prepared"
            )
        d = jnp.expand_dims(d, tuple(range(stacked, stacked + len(roles.inputs))))
        factors = Factors(frozen.A * d, frozen.B * jnp.expand_dims(b, stacked), roles)
        return LowRank(factors, 1.0, dropout=self.dropout)

    def derive(self, base: Base, delta: Delta) -> dict[str, Factors]:
        """A and B of every leaf, without its stack; leaves of one shape share the arrays."""
        stored = paths.flatten(unprepared(base)[0])
        tables = self._tables(stored, delta)
        cut: dict[Any, tuple[jax.Array, jax.Array]] = {}
        found = {}
        for path, learnt in delta.items():
            roles, shape, rank = learnt.roles, stored[path].shape, self.rank_of(path)
            inputs, outputs = (
                tuple(shape[axis] for axis in axes) for axes in (roles.inputs, roles.outputs)
            )
            dtype = jnp.dtype(learnt["d"].dtype)
            key = inputs, outputs, rank, dtype
            if key not in cut:
                fan_in, fan_out = math.prod(inputs), math.prod(outputs)
                a = math.sqrt(6 / fan_in) * tables[rank][:fan_in, 0]
                b = math.sqrt(6 / rank) * tables[rank][:fan_out, 1].T
                a, b = a.reshape(*inputs, rank), b.reshape(rank, *outputs)
                cut[key] = a.astype(dtype), b.astype(dtype)
            found[path] = Factors(*cut[key], roles)
        return found

    def _tables(self, stored: Mapping[str, Any], delta: Delta) -> dict[int, jax.Array]:
        """The beginning of the endless A and, transposed, of B, by rank: (longest side, 2, r)."""
        longest: dict[int, int] = {}
        for path, learnt in delta.items():
            rank, sides = self.rank_of(path), learnt.roles.matrix(stored[path].shape)[1:]
            longest[rank] = max(longest.get(rank, 0), *sides)
        key = frozen_key(self.seed, "VeRA")
        return {rank: _rows(key, count, rank) for rank, count in longest.items()}


def _rows(key: jax.Array, count: int, rank: int) -> jax.Array:
    """Uniform in ±1, a row from the key of its own number, so that more do not change fewer."""
    draw = lambda number: jax.random.uniform(
        jax.random.fold_in(key, number), (2, rank), jnp.float32, -1.0, 1.0
    )
    return jax.vmap(draw)(jnp.arange(count))
