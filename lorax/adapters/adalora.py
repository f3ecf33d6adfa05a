"""Which matrices deserve which rank? AdaLoRA: triplets compete for a budget that shrinks.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023,
arXiv:2303.10512.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters import rank_budget
from lorax.adapters.matrices import MatrixAdapter, Shapes, stack_of
from lorax.adapters.starts import count
from lorax.core.adapter import Delta
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors, Learnt, LowRank, Roles
from lorax.core.where import ALL_LINEAR, has_overrides

START = 0.02
"""Deviation of the first P and Q, PEFT's."""


@dataclasses.dataclass(frozen=True)
class AdaLoRA(MatrixAdapter):
    """ΔW = alpha / r · P diag(E) Q, whose r triplets a matrix compete for a shrinking budget.

    The delta is `{path: Learnt(P, E, Q)}`: P (stack..., inputs..., r), E (stack..., r) and Q
    (stack..., r, outputs...); E starts at zero. After each update those triplets whose importance
    is least in all matrices together have their E set to zero, so many that `budget` are left; they
    may come back as long as the budget shrinks. Importance is the smoothed sensitivity |w · dL/dw|
    times its smoothed variation, of E itself and, on average, of the numbers of P and Q (equations
    8 to 12).

    The optimizer has to be one of `lorax.train.optim.settled`, and the loss one of
    `lorax.train.losses`, which adds `penalty`.

    Attributes:
      rank: r, of every matrix at first.
      target_rank: triplets a matrix that are left at the end, on average; at most `rank`.
      alpha, where, exclude, dropout, dtype: as those of `LoRA`.
      warmup: updates before the budget begins to shrink.
      final: updates at the end during which it stays what it is.
      every: updates from one choice of triplets to the next while it shrinks.
      beta1, beta2: of the smoothing of sensitivity and of its variation.
      orthogonality: weight of the penalty.
    """

    rank: int = 12
    target_rank: int = 8
    alpha: Any = 16.0
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: str | None = None
    warmup: int = 0
    final: int = 0
    every: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise LoraxError(f"{name} is {getattr(self, name)}: expected a share below 1")
        if self.orthogonality < 0:
            raise LoraxError(f"orthogonality is {self.orthogonality}: expected 0 or more")

    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """P (stack..., inputs..., r), E (stack..., r), Q (stack..., r, outputs...)."""
        p, q = roles.shapes(leaf.shape, self.rank)
        return {"P": p, "E": (*stack_of(leaf.shape, roles), self.rank), "Q": q}

    def start(
        self, key: jax.Array, shapes: Shapes, fan_in: int, dtype: Any
    ) -> dict[str, jax.Array]:
        """P and Q normal with deviation `START`, E zero."""
        keys = dict(zip("PQ", jax.random.split(key), strict=True))
        drawn = {n: START * jax.random.normal(keys[n], shapes[n], dtype) for n in keys}
        return {**drawn, "E": jnp.zeros(shapes["E"], dtype)}

    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: Any) -> LowRank:
        """P diag(E) and Q as the factors."""
        e = learnt["E"]
        e = e.reshape(*e.shape[:-1], *[1] * len(learnt.roles.inputs), self.rank)
        pair = Factors(learnt["P"] * e, learnt["Q"], learnt.roles)
        return LowRank(pair, self.scale_of(path), dropout=self.dropout)

    def penalty(self, delta: Delta) -> jax.Array:
        """`orthogonality` times the mean of ‖PᵀP - I‖ and ‖QQᵀ - I‖ over all matrices (eq. 4)."""
        norms = [rank_budget.not_orthogonal(learnt) for learnt in delta.values()]
        return self.orthogonality * jnp.mean(jnp.concatenate(norms))

    def budget(self, count: int, now: Any, steps: int) -> jax.Array:
        """Triplets left after update `now`, counted from 0, of `count` matrices; an integer.

        All of them for `warmup` updates, then by a cubic to `target_rank` a matrix (eq. 13).
        """
        return rank_budget.budget(
            count * self.rank, count * self.target_rank, self.warmup, self.final, now, steps
        )

    def watch(self, delta: Delta) -> Any:
        """Smoothed sensitivity and variation of every number, from zero."""
        return rank_budget.Importance.zeros(delta)

    def settle(
        self, delta: Delta, old: Delta, grads: Delta, memory: Any, now: Any, steps: int
    ) -> tuple[Delta, Any]:
        """The delta with the E of the least important triplets set to zero, and their record.

        Raises:
          LoraxError: the run has too few updates for `warmup` and `final`.
        """
        if self.warmup + self.final >= steps:
            raise LoraxError(
                f"AdaLoRA has warmup={self.warmup} and final={self.final} in a run of {steps} "
                "updates: expected fewer in all, so that the budget can shrink between them"
            )
        memory = memory.after(old, grads, self.beta1, self.beta2)
        left = self.budget(rank_budget.matrices(delta), now, steps)
        best = rank_budget.best(memory.scores(), left)
        last = steps - self.final - 1  # after which the choice stays what it is
        chooses = ((now >= self.warmup) & (now % self.every == 0)) | (now == last)
        settled = {}
        for path, learnt in delta.items():
            stays = jnp.where(now > last, old[path]["E"] != 0, ~chooses | best[path])
            arrays = {**learnt.arrays, "E": jnp.where(stays, learnt["E"], 0)}
            settled[path] = dataclasses.replace(learnt, arrays=arrays)
        return settled, memory


def _check_counts(adapter: AdaLoRA) -> None:
    for name, least in (("target_rank", 1), ("warmup", 0), ("final", 0), ("every", 1)):
        object.__setattr__(adapter, name, count(name, getattr(adapter, name), least))
    if adapter.target_rank > adapter.rank:
        raise LoraxError(
            f"target_rank is {adapter.target_rank}: expected 1 to rank={adapter.rank}, from which "
            "the budget shrinks"
        )
    if has_overrides(adapter.where):
        raise LoraxError(
            "where of an AdaLoRA has overrides: expected patterns alone; ranks are what it finds"
        )
