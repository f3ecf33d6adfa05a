"""How do primitives that only rearrange, slice or scale a leaf act on its factors?

The results are implicit again: an axis is moved, cut, split or joined in w and in whichever
factors have it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from lorax.core import _jax
from lorax.core.implicit import Implicit, Label
from lorax.core.packed import Packed

Values = list[Any]


def transpose(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Permutes w and the labels; the factors do not move, nor do codes."""
    (leaf,), permutation = values, eqn.params["permutation"]
    return [
        dataclasses.replace(
            leaf,
            w=leaf.w if isinstance(leaf.w, Packed) else lax.transpose(leaf.w, permutation),
            axes=tuple(leaf.axes[i] for i in permutation),
            origins=tuple(leaf.origins[i] for i in permutation),
        )
    ]


def convert_element_type(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Casts w; the factors keep float32 until a product asks for the dtype of its operands."""
    (leaf,), dtype = values, eqn.params["new_dtype"]
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    packed = isinstance(leaf.w, Packed)
    w = leaf.w.astype(dtype) if packed else _jax.run_one(eqn, [leaf.w])[0]
    return [dataclasses.replace(leaf, w=w)]


def on_w(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """For primitives that leave values alone (sharding, barriers, copies): acts on w only.

    Codes are no operand for them: a quantised leaf passes by where it is alone.
    """
    if any(isinstance(v, Implicit) and isinstance(v.w, Packed) for v in values):
        return values if len(values) == 1 else None
    plain = [v.w if isinstance(v, Implicit) else v for v in values]
    outputs = _jax.run_one(eqn, plain)
    return [
        dataclasses.replace(v, w=out) if isinstance(v, Implicit) else out
        for v, out in zip(values, outputs, strict=True)
    ]


def stop_gradient(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Stops the gradient of w, of every factor and of the scale."""
    (leaf,) = values
    return [leaf.rebuild([lax.stop_gradient(array) for array, _ in leaf.pieces()])]


def neg(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """The sign goes to the scale."""
    (leaf,) = values
    w = leaf.w.times(-1.0) if isinstance(leaf.w, Packed) else -leaf.w
    return [dataclasses.replace(leaf, w=w, scale=-leaf.scale)]


def scalar_product(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Multiplication or division by a scalar goes to the scale."""
    divides = eqn.primitive.name == "div"
    leaf, scalar = values if isinstance(values[0], Implicit) else values[::-1]
    if isinstance(scalar, Implicit) or jnp.ndim(scalar) or (divides and leaf is values[1]):
        return None
    if not jnp.issubdtype(jnp.result_type(scalar), jnp.floating):
        return None
    if isinstance(leaf.w, Packed):
        w = leaf.w.times(1 / scalar if divides else scalar)
    else:
        (w,) = _jax.run_one(eqn, [v.w if v is leaf else v for v in values])
    scale = leaf.scale / scalar if divides else leaf.scale * scalar
    return [dataclasses.replace(leaf, w=w, scale=scale)]


def slice_(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Slices w and whichever factors have the axis."""
    (leaf,), p = values, eqn.params
    strides = p["strides"] or (1,) * len(leaf.axes)
    full = zip(p["start_indices"], p["limit_indices"], strides, leaf.shape, strict=True)
    for label, (start, stop, stride, size) in zip(leaf.axes, full, strict=True):
        if (start, stop, stride) != (0, size, 1):
            if leaf.whole(label):
                return None
            leaf = leaf.map_axis(label, _slicer(start, stop, stride))
    return [leaf]


def _slicer(start: int, stop: int, stride: int = 1) -> Callable[[Any, int], Any]:
    return lambda x, axis: lax.slice_in_dim(x, start, stop, stride, axis)


def split(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Several slices along one axis, a fused q, k, v kernel for instance."""
    (leaf,), outputs, start = values, [], 0
    label = leaf.axes[eqn.params["axis"]]
    if leaf.whole(label):
        return None
    for size in map(int, eqn.params["sizes"]):
        outputs.append(leaf.map_axis(label, _slicer(start, start + size)))
        start += size
    return outputs


def dynamic_slice(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """As `slice_`, with traced starts: a stacked leaf indexed by layer number."""
    leaf, *starts = values
    if not isinstance(leaf, Implicit):
        return None
    sizes = eqn.params["slice_sizes"]
    for label, start, size, whole in zip(leaf.axes, starts, sizes, leaf.shape, strict=True):
        if size != whole:
            if leaf.whole(label):
                return None
            cut = functools.partial(_dynamic_slice, start=start, size=size)
            leaf = leaf.map_axis(label, cut)
    return [leaf]


def _dynamic_slice(x: Any, axis: int, start: Any, size: int) -> Any:
    return lax.dynamic_slice_in_dim(x, start, size, axis)


def rev(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Reverses axes of w and of the factors that have them: a transposed convolution's kernel."""
    (leaf,) = values
    labels = [leaf.axes[i] for i in eqn.params["dimensions"]]
    if any(map(leaf.whole, labels)):
        return None
    for label in labels:
        leaf = leaf.map_axis(label, lambda x, axis: lax.rev(x, (axis,)))
    return [leaf]


def squeeze(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Drops axes of size one from w and from the factors that have them."""
    (leaf,) = values
    for label in [leaf.axes[i] for i in eqn.params["dimensions"]]:
        leaf = _squeezed(leaf, label)
    return [leaf]


def _squeezed(leaf: Implicit, label: Label) -> Implicit:
    gone = leaf.origins[leaf.axes.index(label)]
    arrays = [
        lax.squeeze(x, (labels.index(label),)) if label in labels else x
        for x, labels in leaf.pieces()
    ]
    return dataclasses.replace(leaf.rebuild(arrays, drop=label), dropped=leaf.dropped | gone)


def broadcast_in_dim(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """New axes are given to A, repeated; stretching an axis of size one has no factored form."""
    leaf, shape, where = values[0], eqn.params["shape"], eqn.params["broadcast_dimensions"]
    if not isinstance(leaf, Implicit) or len(values) > 1 or isinstance(leaf.w, Packed):
        return None
    if any(shape[axis] != size for axis, size in zip(where, leaf.shape, strict=True)):
        return None
    added = {axis: ctx.fresh_label() for axis in range(len(shape)) if axis not in where}
    old = {axis: i for i, axis in enumerate(where)}
    axes = [leaf.axes[old[axis]] if axis in old else added[axis] for axis in range(len(shape))]
    origins = [leaf.origins[old[a]] if a in old else frozenset() for a in range(len(shape))]
    (w,) = _jax.run_one(eqn, [leaf.w])
    terms = tuple(
        dataclasses.replace(
            term,
            a=jnp.broadcast_to(term.a, (*(shape[axis] for axis in added), *term.a.shape)),
            a_axes=(*added.values(), *term.a_axes),
        )
        for term in leaf.terms
    )
    return [dataclasses.replace(leaf, w=w, axes=tuple(axes), origins=tuple(origins), terms=terms)]


def reshape(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Splits an axis, or joins neighbours that lie in the same factors; else no factored form."""
    leaf, sizes = values[0], eqn.params["new_sizes"]
    if len(values) > 1 or eqn.params.get("dimensions") is not None:
        return None
    if isinstance(leaf.w, Packed) and 1 in sizes:
        return None
    for label in [label for label, n in zip(leaf.axes, leaf.shape, strict=True) if n == 1]:
        leaf = _squeezed(leaf, label)
    groups = _groups(leaf.shape, [n for n in sizes if n != 1])
    if groups is None:
        return None
    pairs = []
    for olds, news in groups:
        labels = [leaf.axes[i] for i in olds]
        pairs.append(
            (
                labels,
                [ctx.fresh_label() for _ in news] if len(news) > 1 or len(labels) > 1 else labels,
                news,
            )
        )
    changed = [label for labels, new_labels, _ in pairs if labels != new_labels for label in labels]
    if any(not _together(leaf, labels) for labels, _, _ in pairs) or any(map(leaf.whole, changed)):
        return None
    for labels, new_labels, news in pairs:
        leaf = _regrouped(leaf, labels, new_labels, news)
    return [_with_units(ctx, leaf, sizes)]


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Pairs (axes of old, sizes of new) with equal products, as fine as possible; no unit axes."""
    groups, i, j = [], 0, 0
    while i < len(old):
        olds, news = [i], [new[j]] if j < len(new) else []
        i, j = i + 1, j + 1
        while (have := math.prod(old[k] for k in olds)) != (want := math.prod(news)) or not news:
            if have < want and i < len(old):
                olds.append(i)
                i += 1
            elif have > want and j < len(new):
                news.append(new[j])
                j += 1
            else:
                return None
        groups.append((olds, news))
    return groups if j == len(new) else None


def _together(leaf: Implicit, labels: Sequence[Label]) -> bool:
    return all(len({label in side for label in labels}) == 1 for _, side in leaf.pieces() if side)


def _regrouped(
    leaf: Implicit, labels: list[Label], new_labels: list[Label], sizes: list[int]
) -> Implicit:
    """Replaces adjacent axes `labels` by axes `new_labels` of the given sizes, in every piece."""
    if labels == new_labels:
        return leaf

    def change(x: Any, axes: tuple[Label, ...]) -> tuple[Any, tuple[Label, ...]]:
        if labels[0] not in axes:
            return x, axes
        before = [label for label in axes[: axes.index(labels[0])] if label not in labels]
        after = [label for label in axes if label not in labels and label not in before]
        order = [*before, *labels, *after]
        if list(axes) != order:
            x = lax.transpose(x, [axes.index(label) for label in order])
        start, stop = len(before), len(before) + len(labels)
        x = x.reshape((*x.shape[:start], *sizes, *x.shape[stop:]))
        return x, (*before, *new_labels, *after)

    at = leaf.axes.index(labels[0])
    joined = frozenset().union(*(leaf.origins[at + k] for k in range(len(labels))))
    axes = (*leaf.axes[:at], *new_labels, *leaf.axes[at + len(labels) :])
    origins = (*leaf.origins[:at], *[joined] * len(sizes), *leaf.origins[at + len(labels) :])
    return leaf.on([change(x, side) for x, side in leaf.pieces()], axes, origins)


def _with_units(ctx: Any, leaf: Implicit, sizes: Sequence[int]) -> Implicit:
    """Puts axes of size one back where `sizes` has them; A carries them."""
    if len(sizes) == len(leaf.axes):
        return leaf
    known = zip(leaf.axes, leaf.origins, strict=True)
    units: list[Label] = [ctx.fresh_label() for size in sizes if size == 1]
    new = iter([(label, frozenset[int]()) for label in units])
    axes, origins = zip(*(next(new if size == 1 else known) for size in sizes), strict=True)
    terms = tuple(
        dataclasses.replace(
            term,
            a=term.a.reshape((*[1] * len(units), *term.a.shape)),
            a_axes=(*units, *term.a_axes),
        )
        for term in leaf.terms
    )
    w = leaf.w.reshape(tuple(sizes))
    return dataclasses.replace(leaf, w=w, axes=axes, origins=origins, terms=terms)
