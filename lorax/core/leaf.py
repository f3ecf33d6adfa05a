"""What is an adapted leaf? Roles of its axes, its factors, and its implicit value.

An implicit leaf stands for W = W0 + sum_k scale_k · A_k B_k without forming the product. Every
axis of W carries a label; a factor carries the labels of the axes it has, so that "is this axis
in A, in B, or in both (a stack axis)" is a question of membership. One more label, `RANK`, is
shared by the two factors of a term and contracted between them.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError

RANK = "rank"
Label = Any  # an axis number of the stored leaf, a fresh integer, or RANK


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which axes of a leaf are stack, input and output, learnt from how a program uses it.

    Attributes:
      stack: axes that only enumerate independent matrices: scanned layers, experts.
      inputs: axes that a product contracts with the activations, or that a lookup indexes.
      outputs: axes that appear in the result.
      kind: "dot", "conv", "gather" (a lookup), "other" (no product), "unused" or "ambiguous".
      why: for an ambiguous leaf, the uses that disagree.

    `kind` and `why` say where the roles come from; equality and hash ignore them.
    """

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kind: str = dataclasses.field(default="dot", compare=False)
    why: str = dataclasses.field(default="", compare=False)

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Raises LoraxError unless the three groups are a partition of the axes of `shape`."""
        axes = sorted((*self.stack, *self.inputs, *self.outputs))
        if axes != list(range(len(shape))) or not self.inputs or not self.outputs:
            raise LoraxError(
                f"roles of '{path}' are stack={self.stack}, inputs={self.inputs}, "
                f"outputs={self.outputs}: expected each of its {len(shape)} axes once, with at "
                "least one input and one output; correct the entry in roles="
            )

    def shapes(self, shape: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A, (stack..., inputs..., rank), and of B, (stack..., rank, outputs...)."""
        stack, inputs, outputs = (
            tuple(shape[axis] for axis in group)
            for group in (self.stack, self.inputs, self.outputs)
        )
        return (*stack, *inputs, rank), (*stack, rank, *outputs)

    def matrix(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The leaf as a batch of matrices: (number of stacked, fan-in, fan-out)."""
        sizes = (
            math.prod(shape[axis] for axis in group)
            for group in (self.stack, self.inputs, self.outputs)
        )
        return tuple(sizes)  # type: ignore[return-value]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """A and B of one leaf: the part of a delta that learns. A pytree of exactly two arrays.

    Attributes:
      A: (stack..., inputs..., rank).
      B: (stack..., rank, outputs...).
      roles: how the axes of A and B lie in the leaf; static, so it is part of the tree structure
        and travels through `jax.tree.map`, gradients and optimizer state.
    """

    A: jax.Array
    B: jax.Array
    roles: Roles = dataclasses.field(metadata={"static": True})

    @property
    def rank(self) -> int:
        """The length of the axis that A and B share."""
        return self.A.shape[-1]


@dataclasses.dataclass(frozen=True)
class LowRank:
    """What an adapter says of one leaf: W0 + scale · ((A0 + A) (B0 + B) - A0 B0).

    Attributes:
      factors: A and B.
      scale: a number, or a traced scalar when many adapters run at once.
      offset: A0 and B0, for initialisations that start from a part of W0; None means zero, and
        the update is scale · A B.
      dropout: rate on the input of A; traced where the scale is.
    """

    factors: Factors
    scale: Any
    offset: Factors | None = None
    dropout: Any = 0.0


@dataclasses.dataclass(frozen=True)
class Shift:
    """What an adapter says of a leaf that moves with others: W0 + update.

    The numbers that learn are shared by several leaves, so none of them is a leaf's own.

    Attributes:
      update: ΔW in the shape of the leaf, in float32 or wider.
    """

    update: jax.Array


@dataclasses.dataclass(frozen=True)
class Term:
    """A B with the label of every axis of A and of B."""

    a: jax.Array
    a_axes: tuple[Label, ...]
    b: jax.Array
    b_axes: tuple[Label, ...]

    @property
    def sides(self) -> tuple[tuple[jax.Array, tuple[Label, ...]], ...]:
        """The two factors, each with its labels."""
        return (self.a, self.a_axes), (self.b, self.b_axes)


@dataclasses.dataclass(frozen=True)
class Implicit:
    """A view of an adapted leaf inside a program: w + scale · sum of the terms.

    Attributes:
      path: of the stored leaf.
      w: the same view of W0.
      axes: a label for each axis of `w`.
      origins: for each axis of `w`, the axes of the stored leaf that it comes from.
      stack: stored axes that scan or a lookup took away (they enumerate matrices).
      dropped: stored axes that a squeeze took away.
      terms: what is added to `w`, on the same labels.
      scale: of all terms together.
      dropout: rate on the input of A; a number, or a traced scalar, as the scale.
    """

    path: str
    w: jax.Array
    axes: tuple[Label, ...]
    origins: tuple[frozenset[int], ...]
    stack: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    terms: tuple[Term, ...] = ()
    scale: Any = 1.0
    dropout: Any = 0.0

    @property
    def drops(self) -> bool:
        """Whether the rate of dropout may be other than zero."""
        return may_drop(self.dropout)

    def pieces(self) -> list[tuple[Any, tuple[Label, ...]]]:
        """Every traced array of this leaf with its labels: W0, each A and B, scale, dropout."""
        found: list[tuple[Any, tuple[Label, ...]]] = [(self.w, self.axes)]
        for term in self.terms:
            found += term.sides
        numbers = (self.scale, self.dropout)
        return [*found, *((number, ()) for number in numbers if not _is_plain(number))]

    def rebuild(self, arrays: Sequence[Any], drop: Label = None) -> "Implicit":
        """The same leaf on other arrays, in the order of `pieces`; label `drop` is gone."""
        kept = [i for i, label in enumerate(self.axes) if label != drop]
        terms = tuple(
            Term(
                arrays[1 + 2 * i],
                tuple(label for label in term.a_axes if label != drop),
                arrays[2 + 2 * i],
                tuple(label for label in term.b_axes if label != drop),
            )
            for i, term in enumerate(self.terms)
        )
        numbers = iter(arrays[1 + 2 * len(terms) :])
        return dataclasses.replace(
            self,
            w=arrays[0],
            axes=tuple(self.axes[i] for i in kept),
            origins=tuple(self.origins[i] for i in kept),
            terms=terms,
            scale=self.scale if _is_plain(self.scale) else next(numbers),
            dropout=self.dropout if _is_plain(self.dropout) else next(numbers),
        )

    def remember(self, stack: frozenset[int]) -> "Implicit":
        """The same view, knowing that these stored axes enumerate matrices."""
        return dataclasses.replace(self, stack=self.stack | stack)

    def map_axis(self, label: Label, change: Callable[[Any, int], Any]) -> "Implicit":
        """`change(array, axis)` on w and on every factor that carries `label`."""
        arrays = [
            change(array, labels.index(label)) if label in labels else array
            for array, labels in self.pieces()
        ]
        return self.rebuild(arrays)


def may_drop(rate: Any) -> bool:
    """Whether a rate of dropout may be other than zero; a traced one may."""
    return not _is_plain(rate) or rate > 0


def _is_plain(number: Any) -> bool:
    return isinstance(number, int | float)


def implicit(path: str, w: jax.Array, low_rank: LowRank) -> Implicit:
    """The implicit value of a whole stored leaf `w`.

    With an offset the update is A B0 + (A0 + A) B: no A0 B0 is formed only to be subtracted, and
    zero factors give exactly zero however A0 and B0 were rounded.
    """
    factors, offset = low_rank.factors, low_rank.offset
    roles = factors.roles
    axes = (*roles.stack, *roles.inputs, RANK), (*roles.stack, RANK, *roles.outputs)
    pairs = [(factors.A, factors.B)]
    if offset is not None:
        pairs = [(factors.A, offset.B), (offset.A + factors.A, factors.B)]
    return dataclasses.replace(
        bare(path, w),
        terms=tuple(Term(a, axes[0], b, axes[1]) for a, b in pairs),
        scale=low_rank.scale,
        dropout=low_rank.dropout,
    )


def bare(path: str, w: jax.Array) -> Implicit:
    """A leaf that is only watched: no terms."""
    origins = tuple(frozenset((axis,)) for axis in range(w.ndim))
    return Implicit(path=path, w=w, axes=tuple(range(w.ndim)), origins=origins)


def merged(leaf: Implicit) -> jax.Array:
    """w + scale · (sum of the terms) in the shape and dtype of `leaf.w`: the definition.

    Computed in float32 (float64 for float64 leaves), cast once at the end. Where the sum of the
    terms is exactly zero every bit of w stays.
    """
    if not leaf.terms:
        return leaf.w
    dtype = jnp.promote_types(leaf.w.dtype, jnp.float32)
    update = sum(product(term, leaf.axes, dtype) for term in leaf.terms)
    update = jnp.asarray(leaf.scale, dtype) * update
    return _add(leaf.w.astype(dtype), update).astype(leaf.w.dtype)


def dense(path: str, w: jax.Array, leaf: Any) -> jax.Array:
    """The plain array that stands in the place of `w`, in its dtype.

    Args:
      path: of the stored leaf `w`.
      leaf: what an adapter says of it: a `LowRank`, a `Shift`, or an array that takes its place.
    """
    if isinstance(leaf, LowRank):
        return merged(implicit(path, w, leaf))
    if isinstance(leaf, Shift):
        dtype = jnp.promote_types(w.dtype, leaf.update.dtype)
        return _add(w.astype(dtype), leaf.update.astype(dtype)).astype(w.dtype)
    return jnp.asarray(leaf).astype(w.dtype)


@jax.custom_jvp
def _add(w: jax.Array, update: jax.Array) -> jax.Array:
    # -0.0 + 0.0 is 0.0: without the choice a zero update would not leave every bit of w alone
    return jnp.where(update == 0, w, w + update)


@_add.defjvp
def _add_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    # the derivative of a sum, which that of `where` is not at a zero update
    return _add(*primals), tangents[0] + tangents[1]


def product(term: Term, axes: tuple[Label, ...], dtype: Any) -> jax.Array:
    """A B of one term with its axes in the order of `axes`, in `dtype`."""
    numbers = {label: number for number, label in enumerate((*axes, RANK))}
    a_axes, b_axes = ([numbers[label] for label in side] for _, side in term.sides)
    return jnp.einsum(
        term.a.astype(dtype),
        a_axes,
        term.b.astype(dtype),
        b_axes,
        [numbers[label] for label in axes],
        precision=jax.lax.Precision.HIGHEST,
    )
