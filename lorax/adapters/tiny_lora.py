"""Is one number enough? TinyLoRA: R = Σ v_i P_i in the place of LoRA-XS's R, with P_i random.

Morris, Mireshghallah, Ibrahim and Mahloujifar, "Learning to Reason in 13 Parameters", 2026,
arXiv:2602.04118.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.lora_init import check_rank
from lorax.adapters.lora_xs import between, singular
from lorax.adapters.matrices import MatrixAdapter, Shapes, frozen_key, stack_of
from lorax.adapters.starts import count
from lorax.core import paths
from lorax.core.adapter import Base, Delta, unprepared
from lorax.core.errors import LoraxTypeError
from lorax.core.leaf import Factors, Learnt, LowRank, Roles
from lorax.core.where import ALL_LINEAR


@dataclasses.dataclass(frozen=True)
class TinyLoRA(MatrixAdapter):
    """Trains v (u,): W = W0 + A (Σ v_i P_i) B, with the A and B of `LoRAXS` and P_i (r, r) frozen.

    With `shared`, one v serves every leaf, so that u numbers learn in all; the delta is
    `{"v": (u,), "leaves": {path: Learnt({})}}`, whose second part holds the roles and no number.
    Else every matrix has a v of its own, `{path: Learnt({"v": (stack..., u)})}`. v starts at zero.
    P is normal with standard deviation 1/sqrt(r), drawn for each matrix from `seed` and the leaf's
    path; it is never stored, and like A and B it is made once by `prepare`.

    Attributes:
      rank: r; the paper takes 2.
      numbers: u.
      shared: whether all leaves share v.
      where, exclude, dropout, dtype: as in `LoRA`; there is no alpha.
      seed: of P, apart from every other seed.
    """

    rank: int = 2
    numbers: int = 16
    shared: bool = True
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "numbers", count("numbers", self.numbers))
        if not isinstance(self.shared, bool):
            raise LoraxTypeError(f"shared is {self.shared!r}: expected True or False")

    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """v (stack..., u)."""
        check_rank("TinyLoRA", path, leaf, roles, self.rank_of(path))
        return {"v": (*stack_of(leaf.shape, roles), self.numbers)}

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """v of zeros; nothing is drawn. Raises as `LoRA.init`."""
        delta = super().init(key, base, roles)
        if not self.shared:
            return delta
        dtype = jnp.result_type(*(learnt["v"].dtype for learnt in delta.values()))
        leaves = {path: dataclasses.replace(own, arrays={}) for path, own in delta.items()}
        return {"v": jnp.zeros(self.numbers, dtype), "leaves": leaves}

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """(A R) B of every leaf, checked against base and config."""
        return super().leaves(base, self._spread(base, delta))

    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: Any) -> LowRank:
        """(A R) B with R = Σ v_i P_i."""
        factors, p = frozen
        r = jnp.einsum("...u,...uij->...ij", learnt["v"], p, precision="highest")
        return between(factors, r, 1.0, self.dropout)

    def derive(self, base: Base, delta: Delta) -> dict[str, tuple[Factors, jax.Array]]:
        """A and B of every leaf as `LoRAXS` has them, and P (stack..., u, r, r)."""
        stored = paths.flatten(unprepared(base)[0])
        if self.shared and not all(isinstance(own, Learnt) for own in delta.values()):
            delta = jax.eval_shape(lambda delta: self._spread(base, delta), delta)
        return {path: self._drawn(path, stored[path], own) for path, own in delta.items()}

    def _drawn(self, path: str, leaf: Any, learnt: Learnt) -> tuple[Factors, jax.Array]:
        v, rank = learnt["v"], self.rank_of(path)
        p = jax.random.normal(frozen_key(self.seed, path), (*v.shape, rank, rank), jnp.float32)
        factors = singular(leaf, learnt.roles, rank, v.dtype)
        return factors, (p / math.sqrt(rank)).astype(v.dtype)

    def _spread(self, base: Base, delta: Delta) -> Delta:
        """The delta with a v at every leaf."""
        if not self.shared:
            return delta
        known = isinstance(delta, Mapping) and set(delta) == {"v", "leaves"}
        if not known or not paths.is_array(delta["v"]) or delta["v"].shape != (self.numbers,):
            raise LoraxTypeError(
                f"delta is no pair of 'v' ({self.numbers},) and 'leaves': expected that of a "
                "shared TinyLoRA, as its init returns it; was it saved with another config, or "
                "are base and delta swapped?"
            )
        stored = paths.flatten(unprepared(base)[0])
        found = {}
        for path, own in delta["leaves"].items():
            stack = stack_of(stored[path].shape, own.roles) if path in stored else ()
            v = jnp.broadcast_to(delta["v"], (*stack, self.numbers))
            found[path] = dataclasses.replace(own, arrays={"v": v})
        return found
