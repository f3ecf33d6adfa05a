"""How does a quantised leaf enter a product? As codes and scales: the matrix is formed for the
product alone, and once more for its derivative.

A quantised leaf of a base is recognised by what it has, not by its class, which core does not
import: it is a dataclass and a pytree with `qvalue` (codes in the shape of the matrix), `scale` (as
many axes; each is as long as the matrix's, or one, or divides it and counts runs), `qtype` and
`zero_point` None, and `shape`, `ndim`, `dtype` of the matrix that it stands for. `qwix.QArray` is
such a class. The matrix is `value(qvalue) · scale`, rounded once to `dtype`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from lorax.core.errors import LoraxError

Label = Any
_FIELDS = frozenset(("qvalue", "scale", "zero_point", "qtype"))

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""The sixteen values of a 4-bit NormalFloat: Dettmers et al., arXiv:2305.14314, appendix E."""


def is_packed(leaf: Any) -> bool:
    """Whether `leaf` is quantised: see the module for what it then has."""
    return _FIELDS <= getattr(type(leaf), "__dataclass_fields__", {}).keys()


def formed(leaf: Any) -> Any:
    """The matrix that a quantised leaf stands for, in its dtype; any other leaf is itself."""
    return Packed.of("a leaf", leaf).formed(range(leaf.ndim)) if is_packed(leaf) else leaf


@dataclasses.dataclass(frozen=True)
class Runs:
    """The label of an axis that counts runs of neighbours on the axis labelled `of`."""

    of: Label


@dataclasses.dataclass(frozen=True)
class Packed:
    """A view of a quantised leaf inside a program.

    Attributes:
      codes: as stored, in the order of `codes_axes`.
      codes_axes: the labels of the view's axes, in the order in which the codes lie.
      scale: one number a matrix axis, run of it, or for all of it.
      scale_axes: its labels; an axis of the view that is not among them shares one scale.
      qtype: what codes mean: "nf4", or a dtype whose numbers they are.
      dtype: of the matrix that the view stands for.
    """

    codes: jax.Array
    codes_axes: tuple[Label, ...]
    scale: jax.Array
    scale_axes: tuple[Label, ...]
    qtype: Any
    dtype: Any

    @classmethod
    def of(cls, path: str, leaf: Any) -> "Packed":
        """The view of a whole stored leaf.

        Raises:
          LoraxError: the leaf has a zero point.
        """
        if leaf.zero_point is not None:
            raise LoraxError(
                f"'{path}' is quantised with a zero point: expected symmetric codes; quantise it "
                "with lorax.quantize, or with qwix's 'absmax' calibration"
            )
        sizes = zip(leaf.qvalue.shape, leaf.scale.shape, strict=True)
        kept = [
            (axis, axis if n == m else Runs(axis)) for axis, (n, m) in enumerate(sizes) if m > 1
        ]
        scale = leaf.scale.reshape([leaf.scale.shape[axis] for axis, _ in kept])
        axes = tuple(range(leaf.qvalue.ndim))
        labels = tuple(label for _, label in kept)
        return cls(leaf.qvalue, axes, scale, labels, leaf.qtype, leaf.dtype)

    @property
    def sides(self) -> tuple[tuple[jax.Array, tuple[Label, ...]], ...]:
        """Codes and scale, each with its labels."""
        return (self.codes, self.codes_axes), (self.scale, self.scale_axes)

    @property
    def sizes(self) -> dict[Label, int]:
        """The length of each axis of the view."""
        return dict(zip(self.codes_axes, self.codes.shape, strict=True))

    def on(self, pairs: Sequence[tuple[jax.Array, tuple[Label, ...]]]) -> "Packed":
        """The same view on other codes and another scale, each with its labels."""
        (codes, codes_axes), (scale, scale_axes) = pairs
        return dataclasses.replace(
            self, codes=codes, codes_axes=codes_axes, scale=scale, scale_axes=scale_axes
        )

    def astype(self, dtype: Any) -> "Packed":
        """A view of the matrix in another dtype; nothing is computed."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def times(self, factor: Any) -> "Packed":
        """The view of `factor` times the matrix."""
        wide = jnp.promote_types(self.scale.dtype, jnp.float32)
        return dataclasses.replace(self, scale=self.scale.astype(wide) * jnp.asarray(factor, wide))

    def runs(self, label: Label) -> bool:
        """Whether scales count runs of this axis, so that it cannot be cut or regrouped."""
        return Runs(label) in self.scale_axes

    def values(self, axes: Sequence[Label]) -> jax.Array:
        """What the codes mean, without the scale, in the order `axes` and the view's dtype."""
        return self._ordered(self._decoded(), axes).astype(self.dtype)

    def formed(self, axes: Sequence[Label]) -> jax.Array:
        """The matrix, in the order `axes` and the view's dtype."""
        values, lengths, scales = self._decoded(), [], []
        known = dict(zip(self.scale_axes, self.scale.shape, strict=True))
        for label, n in self.sizes.items():
            runs = known.get(Runs(label))
            lengths += [n] if runs is None else [runs, n // runs]
            scales += [known.get(label, 1)] if runs is None else [runs, 1]
        order = [
            label for axis in self.codes_axes for label in (axis, Runs(axis)) if label in known
        ]
        scale = lax.transpose(self.scale, [self.scale_axes.index(label) for label in order])
        product = values.reshape(lengths) * scale.reshape(scales).astype(values.dtype)
        return self._ordered(product.reshape(self.codes.shape), axes).astype(self.dtype)

    def spread(self, axes: Sequence[Label]) -> jax.Array:
        """The scale with one axis for each of `axes`, of length one where it has none."""
        known = dict(zip(self.scale_axes, self.scale.shape, strict=True))
        order = [self.scale_axes.index(label) for label in axes if label in known]
        return lax.transpose(self.scale, order).reshape([known.get(label, 1) for label in axes])

    def _decoded(self) -> jax.Array:
        wide = jnp.promote_types(self.scale.dtype, jnp.float32)
        if isinstance(self.qtype, str) and self.qtype == "nf4":
            return _looked_up(self.codes, wide)
        return self.codes.astype(wide)

    def _ordered(self, x: jax.Array, axes: Sequence[Label]) -> jax.Array:
        order = [self.codes_axes.index(label) for label in axes]
        return x if order == sorted(order) else lax.transpose(x, order)


@functools.partial(jax.jit, static_argnames="dtype")
def _looked_up(codes: jax.Array, dtype: Any) -> jax.Array:
    """The value of each code, by choices between two: they fuse with what follows, a gather of
    single numbers does not."""
    bits = [(codes.astype(jnp.uint8) >> place) & 1 for place in range(4)]
    last = bits[0].astype(dtype)
    # exact, as one term is zero; a choice between two numbers would first fill two matrices
    level = [low * (1 - last) + high * last for low, high in zip(NF4[::2], NF4[1::2], strict=True)]
    for bit in bits[1:]:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [jnp.where(bit == 1, high, low) for low, high in pairs]
    return level[0]


def through(
    view: Packed,
    axes: Sequence[Label],
    out_axes: Sequence[Label],
    product: Callable[..., jax.Array],
    *x: jax.Array,
) -> jax.Array:
    """`product(W, *x)`, linear in the floating-point `x`, with W formed for it and then dropped.

    The derivative forms W again, after the cotangent has arrived, so that W is never kept between
    the two. W itself has no derivative. Where every scale belongs to an output, the product is with
    the codes alone, and the scale goes on its result.

    Args:
      view: of W.
      axes: the order of axes in which `product` takes W.
      out_axes: the labels of the result's axes.
      product: the program's own product, of W and the other operands.
    """
    folded = set(view.scale_axes) <= set(out_axes)

    def evaluated(packed: Any, *x: jax.Array) -> jax.Array:
        own = dataclasses.replace(view, codes=packed[0], scale=packed[1])
        if not folded:
            return product(own.formed(axes), *x)
        y = product(own.values(axes), *x)
        return y * own.spread(out_axes).astype(y.dtype)

    @functools.partial(jax.checkpoint, static_argnums=2)
    def slope(packed: Any, still: Any, at: tuple[int, ...], slopes: Any) -> jax.Array:
        def moved(*own: jax.Array) -> jax.Array:
            operands = still | dict(zip(at, own, strict=True))
            return evaluated(packed, *(operands[i] for i in range(len(operands))))

        # linear, so it may be taken anywhere: at zero, nothing of x is kept for it
        return jax.jvp(moved, [jnp.zeros_like(t) for t in slopes], slopes)[1]

    def derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        packed, *x = primals
        y, slopes = kept(packed, *x), tangents[1:]
        at = tuple(i for i, t in enumerate(slopes) if not isinstance(t, SymbolicZero))
        if not at:  # W alone was asked for
            return y, jnp.zeros_like(y)
        still = {i: v for i, v in enumerate(x) if i not in at}
        return y, slope(packed, still, at, [slopes[i] for i in at])

    kept = jax.custom_jvp(evaluated)
    kept.defjvp(derivative, symbolic_zeros=True)
    return kept((view.codes, view.scale), *x)
