"""What if only B learns? LoRA-FA: ΔW = scale · A B with A frozen, so x A needs no wide residual.

Zhang, Zhang, Shi, Chu and Li, "LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language
Models Fine-tuning", 2023, arXiv:2308.03303.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.matrices import MatrixAdapter, Shapes, frozen_key
from lorax.core import paths
from lorax.core.adapter import Base, Delta, unprepared
from lorax.core.errors import check_choice
from lorax.core.leaf import Factors, Learnt, LowRank, Roles
from lorax.core.where import ALL_LINEAR

INITIALIZERS = ("kaiming", "gaussian")


@dataclasses.dataclass(frozen=True)
class LoRAFA(MatrixAdapter):
    """Trains B (r, out) of each selected leaf beside a frozen random A: W = W0 + (alpha / r) A B.

    The delta is `{path: Learnt({"B": (stack..., r, outputs...)})}`, zero at the start: r · out
    numbers a matrix. A is drawn from `seed` and the leaf's path, never stored: `prepare` draws it
    once for many steps, a plain base draws it in each. The gradient of B needs x A, (tokens, r),
    and nothing as wide as x.

    Attributes:
      rank, alpha, where, exclude, dropout, dtype: as in `LoRA`.
      seed: of A, apart from every other seed.
      initializer: of A: "kaiming", uniform in ±1/sqrt(in), or "gaussian", normal with standard
        deviation 1/r. A lookup's is that of any matrix.
    """

    rank: int = 8
    alpha: Any = 16.0
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: str | None = None
    seed: int = 0
    initializer: str = "kaiming"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("initializer", self.initializer, INITIALIZERS)

    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """B (stack..., r, outputs...)."""
        return {"B": roles.shapes(leaf.shape, self.rank_of(path))[1]}

    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: jax.Array) -> LowRank:
        """A B with its scale."""
        factors = Factors(frozen, learnt["B"], learnt.roles)
        return LowRank(factors, self.scale_of(path), dropout=self.dropout)

    def derive(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """A of every leaf, drawn: (stack..., inputs..., r)."""
        stored = paths.flatten(unprepared(base)[0])
        return {path: self._drawn(path, stored[path], own) for path, own in delta.items()}

    def _drawn(self, path: str, leaf: Any, learnt: Learnt) -> jax.Array:
        rank, key = self.rank_of(path), frozen_key(self.seed, path)
        shape, _ = learnt.roles.shapes(leaf.shape, rank)
        if self.initializer == "gaussian":
            drawn = jax.random.normal(key, shape, jnp.float32) / rank
        else:
            bound = 1.0 / math.sqrt(learnt.roles.matrix(leaf.shape)[1])
            drawn = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        return drawn.astype(learnt["B"].dtype)
