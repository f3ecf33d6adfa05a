"""Can a Kronecker product make a large matrix? LoKr: ΔW = scale · W1 ⊗ W2, or W1 ⊗ (A2 B2).

Yeh, Hsieh, Gao, Yang, Oh and Gong, "Navigating Text-To-Image Customization: From LyCORIS
Fine-Tuning to Model Evaluation", 2023, arXiv:2309.14859.
"""

import dataclasses
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.matrices import MatrixAdapter, Shapes, stack_of, uniforms, whole
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Factors, Learnt, LowRank, Roles, Shift
from lorax.core.where import ALL_LINEAR, check_whole


@dataclasses.dataclass(frozen=True)
class LoKr(MatrixAdapter):
    """Trains the parts of a Kronecker product for each leaf: W = W0 + (alpha / r) W1 ⊗ (A2 B2).

    The sides are split, in = in1 · in2 and out = out1 · out2. The delta is `{path: Learnt({"W1",
    "A2", "B2"})}`: W1 (stack..., in1, out1), A2 (stack..., in2, r), B2 (stack..., r, out2), so
    in1 out1 + r (in2 + out2) numbers a matrix. Where r is at least half of the larger of in2 and
    out2, the second matrix is one array `W2` (stack..., in2, out2), as in PEFT. PEFT's
    decompose_both, which factors W1 as well, is read as their product.

    W1 ⊗ (A2 B2) = (I ⊗ A2)(W1 ⊗ B2) = (W1 ⊗ A2)(I ⊗ B2), so ΔW has factors of rank r · min(in1,
    out1). They are used while they are smaller than the leaf; beyond that, and with W2, ΔW is
    formed, which reports tell.

    Attributes:
      rank, alpha, where, exclude, dtype: as in `LoRA`. There is no dropout: PEFT's masks ranks.
      factor: in1 and out1 where it divides the side; else, and for -1, the largest divisor up to it
        (-1: any) that is at most the other part.

    It starts as PEFT's does: W1 zero, A2 and W2 uniform in ±1/sqrt(in2), B2 in ±1/sqrt(r).
    """

    rank: int = 8
    alpha: Any = 16.0
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    dtype: str | None = None
    factor: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factor", _factor(self.factor))

    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """W1, and A2 with B2 or W2."""
        rank, stack = self.rank_of(path), stack_of(leaf.shape, roles)
        (in1, in2), (out1, out2) = self._sides(leaf, roles)
        if not self._factored(path, leaf, roles):
            check_whole(path, leaf, "LoKr of this rank and factor")
        first = {"W1": (*stack, in1, out1)}
        if 2 * rank >= max(in2, out2):
            return first | {"W2": (*stack, in2, out2)}
        return first | {"A2": (*stack, in2, rank), "B2": (*stack, rank, out2)}

    def start(
        self, key: jax.Array, shapes: Shapes, fan_in: int, dtype: Any
    ) -> dict[str, jax.Array]:
        """Random but for W1, which is zero and has a gradient."""
        bounds = {n: 1 / math.sqrt(shape[-2]) for n, shape in shapes.items() if n != "W1"}
        return uniforms(key, bounds, shapes, dtype) | {"W1": jnp.zeros(shapes["W1"], dtype)}

    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: None) -> LowRank | Shift:
        """Factors of a Kronecker product, or the product where they would be the larger."""
        roles, scale = learnt.roles, self.scale_of(path)
        wide = jnp.promote_types(learnt["W1"].dtype, jnp.float32)
        one = {
            name: array.reshape(-1, *array.shape[-2:]).astype(wide)
            for name, array in learnt.arrays.items()
        }
        w1, kron = one["W1"], jax.vmap(jnp.kron)
        if not self._factored(path, leaf, roles):
            w2 = one.get("W2")
            if w2 is None:
                w2 = jnp.matmul(one["A2"], one["B2"], precision="highest")
            why = "LoKr's factors would be larger than the leaf"
            return Shift(whole(scale * kron(w1, w2), leaf, roles), why)
        count, in1, out1 = w1.shape
        unit = jnp.broadcast_to(jnp.eye(min(in1, out1), dtype=wide), (count, *2 * [min(in1, out1)]))
        left, right = (unit, w1) if in1 <= out1 else (w1, unit)
        a, b = kron(left, one["A2"]), kron(right, one["B2"])
        a_shape, b_shape = roles.shapes(leaf.shape, a.shape[-1])
        return LowRank(Factors(a.reshape(a_shape), b.reshape(b_shape), roles), scale)

    def _sides(self, leaf: Any, roles: Roles) -> list[tuple[int, int]]:
        return [split(side, self.factor) for side in roles.matrix(leaf.shape)[1:]]

    def _factored(self, path: str, leaf: Any, roles: Roles) -> bool:
        (in1, in2), (out1, out2) = self._sides(leaf, roles)
        rank = self.rank_of(path) * min(in1, out1)
        small = rank * (in1 * in2 + out1 * out2) <= in1 * in2 * out1 * out2
        return small and 2 * self.rank_of(path) < max(in2, out2)


def split(side: int, factor: int) -> tuple[int, int]:
    """`side` as a product of two: (factor, the rest), or the most even one with first part at most
    `factor`, where -1 is any."""
    if factor > 0 and side % factor == 0:
        return factor, side // factor
    most = math.isqrt(side) if factor < 0 else min(factor, math.isqrt(side))
    first = next(number for number in range(most, 0, -1) if side % number == 0)
    return first, side // first


def _factor(value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise LoraxTypeError(f"factor is {value!r}: expected an integer, such as factor=8, or -1")
    if number < 1 and number != -1:
        raise LoraxError(f"factor is {number}: expected at least 1, or -1 for one near the root")
    return number
