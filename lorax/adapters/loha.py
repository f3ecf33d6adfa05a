"""Can two small products make a large rank? LoHa: ΔW = scale · (A1 B1) ∘ (A2 B2), entry by entry.

Hyeon-Woo, Ye-Bin and Oh, "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
Learning", 2021, arXiv:2108.06098; named LoHa by LyCORIS (Yeh et al., 2023, arXiv:2309.14859).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.matrices import MatrixAdapter, Shapes, uniforms, whole
from lorax.core.leaf import Factors, Learnt, LowRank, Roles, Shift
from lorax.core.where import ALL_LINEAR, check_whole


@dataclasses.dataclass(frozen=True)
class LoHa(MatrixAdapter):
    """Trains two pairs of factors of each selected leaf: W = W0 + (alpha / r) (A1 B1) ∘ (A2 B2).

    The delta is `{path: Learnt({"A1", "B1", "A2", "B2"})}`, A (stack..., inputs..., r) and
    B (stack..., r, outputs...): 2 r (in + out) numbers a matrix, for a ΔW of rank up to r². The
    product of two matrices entry by entry is that of their factors' row-wise Kronecker products, so
    ΔW has factors of rank r². They are used while they are smaller than the leaf,
    r² (in + out) <= in · out; beyond that ΔW is formed, which reports tell.

    Attributes:
      rank, alpha, where, exclude, dtype: as in `LoRA`. There is no dropout: PEFT's masks ranks.

    It starts as PEFT's does: A1 uniform in ±1/sqrt(in), B1 and B2 in ±1/sqrt(r), A2 zero.
    """

    rank: int = 8
    alpha: Any = 16.0
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    dtype: str | None = None

    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """Those of A and B, twice."""
        a, b = roles.shapes(leaf.shape, self.rank_of(path))
        if not self._factored(path, leaf, roles):
            check_whole(path, leaf, "LoHa of this rank")
        return {"A1": a, "B1": b, "A2": a, "B2": b}

    def start(
        self, key: jax.Array, shapes: Shapes, fan_in: int, dtype: Any
    ) -> dict[str, jax.Array]:
        """Random but for A2, which is zero and has a gradient."""
        side = 1 / math.sqrt(shapes["A1"][-1])
        bounds = {"A1": 1 / math.sqrt(fan_in), "B1": side, "B2": side}
        return uniforms(key, bounds, shapes, dtype) | {"A2": jnp.zeros(shapes["A2"], dtype)}

    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: None) -> LowRank | Shift:
        """Factors of rank r², or the whole update where they would be the larger."""
        roles, rank, scale = learnt.roles, self.rank_of(path), self.scale_of(path)
        count, fan_in, fan_out = roles.matrix(leaf.shape)
        wide = jnp.promote_types(learnt["A1"].dtype, jnp.float32)
        a1, a2 = (learnt[name].reshape(count, fan_in, rank).astype(wide) for name in ("A1", "A2"))
        b1, b2 = (learnt[name].reshape(count, rank, fan_out).astype(wide) for name in ("B1", "B2"))
        if not self._factored(path, leaf, roles):
            first, second = (jnp.matmul(a, b, precision="highest") for a, b in ((a1, b1), (a2, b2)))
            why = f"LoHa's factors of rank {rank**2} would be larger than the leaf"
            return Shift(whole(scale * (first * second), leaf, roles), why)
        a_shape, b_shape = roles.shapes(leaf.shape, rank**2)
        a = a1[:, :, :, None] * a2[:, :, None, :]
        b = b1[:, :, None, :] * b2[:, None, :, :]
        return LowRank(Factors(a.reshape(a_shape), b.reshape(b_shape), roles), scale)

    def _factored(self, path: str, leaf: Any, roles: Roles) -> bool:
        _, fan_in, fan_out = roles.matrix(leaf.shape)
        return self.rank_of(path) ** 2 * (fan_in + fan_out) <= fan_in * fan_out
