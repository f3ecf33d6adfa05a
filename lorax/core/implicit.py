"""What is an adapted leaf inside a program? Its implicit value, and the definition of merging.

An implicit leaf stands for W = (W0 + sum_k scale_k · A_k B_k) · gain without forming the product.
Every axis of W carries a label; a factor carries the labels of the axes it has, so that "is this
axis in A, in B, or in both (a stack axis)" is a question of membership, and so does the gain. One
more label, `RANK`, is shared by the two factors of a term and contracted between them. Where W0 is
quantised, its codes and scales carry labels in the same way.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core import paths
from lorax.core.leaf import LowRank, Rescaled, Shift
from lorax.core.packed import Packed, formed, is_packed

RANK = "rank"
Label = Any  # an axis number of the stored leaf, a fresh integer, RANK, or `Runs` of another label
Pair = tuple[Any, tuple[Label, ...]]


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
    """A view of an adapted leaf inside a program: (w + scale · sum of the terms) · gain.

    Attributes:
      path: of the stored leaf.
      w: the same view of W0, an array or `Packed`.
      axes: a label for each axis of `w`.
      origins: for each axis of `w`, the axes of the stored leaf that it comes from.
      stack: stored axes that scan or a lookup took away (they enumerate matrices).
      dropped: stored axes that a squeeze took away.
      terms: what is added to `w`, on the same labels.
      scale: of all terms together.
      dropout: rate on the input of A; a number, or a traced scalar, as the scale.
      gain: what multiplies the sum, with its labels; None for nothing.
    """

    path: str
    w: Any
    axes: tuple[Label, ...]
    origins: tuple[frozenset[int], ...]
    stack: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    terms: tuple[Term, ...] = ()
    scale: Any = 1.0
    dropout: Any = 0.0
    gain: Pair | None = None

    @property
    def adapted(self) -> bool:
        """Whether the view may differ from that of W0; else the leaf is quantised, or watched."""
        return bool(self.terms) or self.gain is not None

    @property
    def drops(self) -> bool:
        """Whether the rate of dropout may be other than zero."""
        return may_drop(self.dropout)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of this view, quantised or not."""
        if isinstance(self.w, Packed):
            return tuple(self.w.sizes[label] for label in self.axes)
        return self.w.shape

    def pieces(self) -> list[Pair]:
        """Every traced array of this leaf with its labels: W0 (its codes and scale where it is
        quantised), each A and B, the gain, scale, dropout."""
        found: list[Pair] = [(self.w, self.axes)]
        if isinstance(self.w, Packed):
            found = list(self.w.sides)
        for term in self.terms:
            found += term.sides
        found += [] if self.gain is None else [self.gain]
        numbers = (self.scale, self.dropout)
        return [*found, *((number, ()) for number in numbers if not _is_plain(number))]

    def rebuild(self, arrays: Sequence[Any], drop: Label = None) -> "Implicit":
        """The same leaf on other arrays, in the order of `pieces`; label `drop` is gone."""
        without = lambda labels: tuple(label for label in labels if label != drop)
        pairs = zip(arrays, self.pieces(), strict=True)
        kept = [i for i, label in enumerate(self.axes) if label != drop]
        return self.on(
            [(array, without(labels)) for array, (_, labels) in pairs],
            [self.axes[i] for i in kept],
            [self.origins[i] for i in kept],
        )

    def on(
        self, pairs: Sequence[Pair], axes: Sequence[Label], origins: Sequence[frozenset[int]]
    ) -> "Implicit":
        """The same leaf on other arrays with other labels, in the order of `pieces`."""
        queue = iter(pairs)
        if isinstance(self.w, Packed):
            w: Any = self.w.on([next(queue), next(queue)])
        else:
            w, labels = next(queue)
            order = [labels.index(label) for label in axes]
            w = w if order == sorted(order) else jnp.transpose(w, order)
        terms = tuple(Term(*next(queue), *next(queue)) for _ in self.terms)
        return dataclasses.replace(
            self,
            w=w,
            axes=tuple(axes),
            origins=tuple(origins),
            terms=terms,
            gain=None if self.gain is None else next(queue),
            scale=self.scale if _is_plain(self.scale) else next(queue)[0],
            dropout=self.dropout if _is_plain(self.dropout) else next(queue)[0],
        )

    def whole(self, label: Label) -> bool:
        """Whether this axis can neither be cut nor regrouped: scales count runs of it."""
        return isinstance(self.w, Packed) and self.w.runs(label)

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


def rescaled(path: str, w: jax.Array, leaf: Rescaled) -> Implicit:
    """The implicit value of a whole stored leaf `w` that is rescaled."""
    view = bare(path, w) if leaf.update is None else implicit(path, w, leaf.update)
    return dataclasses.replace(view, gain=(leaf.gain, leaf.axes))


def bare(path: str, w: jax.Array) -> Implicit:
    """A leaf without terms: one that is only watched, or is quantised."""
    origins = tuple(frozenset((axis,)) for axis in range(w.ndim))
    view = Packed.of(path, w) if is_packed(w) else w
    return Implicit(path=path, w=view, axes=tuple(range(w.ndim)), origins=origins)


def merged(leaf: Implicit) -> jax.Array:
    """(w + scale · sum of the terms) · gain in the shape and dtype of `leaf.w`: the definition.

    Computed in float32 (float64 for float64 leaves), cast once at the end. Where the sum of the
    terms is exactly zero, and the gain one, every bit of w stays.
    """
    w = leaf.w.formed(leaf.axes) if isinstance(leaf.w, Packed) else leaf.w
    if not leaf.adapted:
        return w
    dtype = jnp.promote_types(w.dtype, jnp.float32)
    total = w.astype(dtype)
    if leaf.terms:
        update = sum(product(term, leaf.axes, dtype) for term in leaf.terms)
        total = _add(total, jnp.asarray(leaf.scale, dtype) * update)
    if leaf.gain is not None:
        total = total * along(leaf.gain, leaf.axes, dtype)
    return total.astype(w.dtype)


def along(pair: Pair, axes: Sequence[Label], dtype: Any) -> jax.Array:
    """A labelled array with one axis for each of `axes`, of length one where it has none.

    Raises:
      ValueError: it has a label that is not among `axes`.
    """
    array, labels = pair
    order = [labels.index(label) for label in axes if label in labels]
    if len(order) < len(labels):
        raise ValueError(f"labels {labels} are not among {tuple(axes)}")
    sizes = dict(zip(labels, array.shape, strict=True))
    shape = [sizes.get(label, 1) for label in axes]
    return jnp.transpose(array, order).reshape(shape).astype(dtype)


def dense(path: str, w: jax.Array, leaf: Any) -> jax.Array:
    """The plain array that stands in the place of `w`, in its dtype.

    Args:
      path: of the stored leaf `w`.
      leaf: what an adapter says of it: a `LowRank`, a `Rescaled`, a `Shift`, or an array that takes
        its place.
    """
    if isinstance(leaf, LowRank):
        return merged(implicit(path, w, leaf))
    if isinstance(leaf, Rescaled):
        return merged(rescaled(path, w, leaf))
    if isinstance(leaf, Shift):
        w = formed(w)
        dtype = jnp.promote_types(w.dtype, leaf.update.dtype)
        return _add(w.astype(dtype), leaf.update.astype(dtype)).astype(w.dtype)
    return jnp.asarray(leaf).astype(w.dtype)


def with_leaves(base: Any, leaves: Mapping[str, Any]) -> Any:
    """`base` with what an adapter says of its `leaves` merged in: plain arrays throughout.

    Quantised leaves are formed, those that nothing is said of included: a quantised base is merged
    to a dense one.
    """
    found = {}
    for path, w in paths.flatten(base).items():
        if path in leaves:
            found[path] = dense(path, w, leaves[path])
        elif is_packed(w):
            found[path] = formed(w)
    return paths.replace(base, found)


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
