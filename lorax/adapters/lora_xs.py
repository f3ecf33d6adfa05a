"""How small can what is trained be? LoRA-XS: ΔW = scale · U_r S_r R V_rᵀ, and only R (r, r) learns.

Bałazy, Banaei, Aberer and Tabor, "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of
Parameters", 2024, arXiv:2405.17604.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters import lora_init
from lorax.adapters.matrices import MatrixAdapter, Shapes, stack_of
from lorax.core import paths
from lorax.core.adapter import Base, Delta, unprepared
from lorax.core.leaf import Factors, Learnt, LowRank, Roles
from lorax.core.where import ALL_LINEAR


@dataclasses.dataclass(frozen=True)
class LoRAXS(MatrixAdapter):
    """Trains R (r, r) between the first singular vectors of each leaf: W = W0 + (alpha / r) A R B.

    With U S Vᵀ = W0, A = U_r S_r (in, r) and B = V_rᵀ (r, out), one pair a matrix of a stack. The
    delta is `{path: Learnt({"R": (stack..., r, r)})}`: r² numbers a matrix, whatever its size,
    that start at zero (the paper draws them with standard deviation 1e-5). A and B are a function
    of W0: `prepare` decomposes once for many steps, a plain base decomposes in each. The largest
    entry of every column of U is made positive, so that R means the same on every machine.

    Attributes:
      rank, alpha, where, exclude, dropout, dtype: as in `LoRA`.
    """

    rank: int = 8
    alpha: Any = 16.0
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: str | None = None

    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """R (stack..., r, r)."""
        rank = self.rank_of(path)
        lora_init.check_rank("LoRAXS", path, leaf, roles, rank)
        return {"R": (*stack_of(leaf.shape, roles), rank, rank)}

    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: Factors) -> LowRank:
        """(A R) B with its scale."""
        return between(frozen, learnt["R"], self.scale_of(path), self.dropout)

    def derive(self, base: Base, delta: Delta) -> dict[str, Factors]:
        """A (stack..., inputs..., r) and B (stack..., r, outputs...) of every leaf."""
        stored = paths.flatten(unprepared(base)[0])
        return {
            path: singular(stored[path], learnt.roles, self.rank_of(path), learnt["R"].dtype)
            for path, learnt in delta.items()
        }


def singular(leaf: Any, roles: Roles, rank: int, dtype: Any) -> Factors:
    """U_r S_r and V_rᵀ of each matrix of a leaf, the largest entry of a column of U positive."""
    u, s, vt = jnp.linalg.svd(lora_init.matrices(leaf, roles), full_matrices=False)
    u, s, vt = u[:, :, :rank], s[:, None, :rank], vt[:, :rank]
    at = jnp.argmax(jnp.abs(u), axis=1, keepdims=True)
    sign = jnp.where(jnp.take_along_axis(u, at, axis=1) < 0, -1.0, 1.0).astype(u.dtype)
    a_shape, b_shape = roles.shapes(leaf.shape, rank)
    a, b = u * s * sign, vt * jnp.swapaxes(sign, 1, 2)
    return Factors(a.reshape(a_shape).astype(dtype), b.reshape(b_shape).astype(dtype), roles)


def between(frozen: Factors, r: jax.Array, scale: Any, dropout: float) -> LowRank:
    """scale · (A R) B, where R is (stack..., rank, rank)."""
    rank = frozen.rank
    square = r.reshape(-1, rank, rank)
    a = frozen.A.reshape(square.shape[0], -1, rank)
    product = jnp.matmul(a, square.astype(a.dtype), precision="highest")
    return LowRank(
        dataclasses.replace(frozen, A=product.reshape(frozen.A.shape)), scale, dropout=dropout
    )
