"""How does a program use each leaf? Roles of axes, from one abstract trace."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core import paths
from lorax.core.adapter import Base, unprepared
from lorax.core.evaluation import Evaluation, Use, by_path
from lorax.core.implicit import bare
from lorax.core.leaf import Roles
from lorax.core.trace import check_program, run_on, shapes_of, shapes_only

PRODUCTS = {"conv_general_dilated": "conv", "gather": "gather"}


def roles(fn: Callable[..., Any], base: Base, *args: Any, **kwargs: Any) -> dict[str, Roles]:
    """Which axes of every leaf are stack, input and output, in the order of the base.

    Args:
      fn: a program whose first argument is a parameter tree.
      base: that tree, or its shapes.
      *args, **kwargs: an example of the other arguments; arrays or `jax.ShapeDtypeStruct`.

    Returns:
      One `Roles` for each array leaf. Its `kind` is "dot", "conv" or "gather" for a leaf that is
      multiplied or looked up, "other" for one that is only added or multiplied elementwise,
      "unused", or "ambiguous" when two uses disagree on what is a matrix. Traces abstractly and
      allocates nothing.
    """
    check_program(fn)
    base, _ = unprepared(base)
    return from_uses(base, by_path(watch(fn, base, args, kwargs).uses))


def from_uses(base: Base, uses: Mapping[str, Sequence[Use]]) -> dict[str, Roles]:
    """The roles of every array leaf, given what `watch` has on record of each."""
    found = {}
    for path, leaf in paths.flatten(base).items():
        found[path] = resolve(uses.get(path, ()), len(leaf.shape))
        if not jnp.issubdtype(leaf.dtype, jnp.floating):  # not watched
            found[path] = dataclasses.replace(found[path], kind="other")
    return found


def watch(
    fn: Callable[..., Any], base: Base, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Evaluation:
    """The record of one abstract evaluation with every floating-point leaf watched."""
    evaluation = Evaluation()

    def program(stored: dict[str, Any], rest: Any) -> Any:
        args, kwargs = put_back(rest)
        values = {
            path: bare(path, leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            for path, leaf in stored.items()
        }
        return run_on(evaluation, fn, base, stored, values, args, kwargs)

    abstract, put_back = shapes_only((args, dict(kwargs)))
    jax.eval_shape(program, shapes_of(paths.flatten(base)), abstract)
    return evaluation


def resolve(uses: Sequence[Use], ndim: int) -> Roles:
    """The roles that all `uses` of a leaf with `ndim` axes agree on.

    A leaf that is looked up in one place and contracted the other way round in another (a tied
    embedding) is one matrix, and is told as the lookup sees it.
    """
    everything = tuple(range(ndim))
    products = [use for use in uses if use.is_product]
    if not products:
        kind = "other" if uses else "unused"
        return Roles((), (), everything, kind)
    products.sort(key=lambda use: use.primitive != "gather")
    found = [_axes(use, ndim) for use in products]
    kind = PRODUCTS.get(products[0].primitive, "dot")
    stack, inputs, outputs = (tuple(sorted(group)) for group in found[0])
    for use, other in zip(products, found, strict=True):
        if other[0] != found[0][0] or set(other[1:]) != set(found[0][1:]):
            why = (
                f"{products[0].primitive} has {_text(found[0])}, {use.primitive} has {_text(other)}"
            )
            return Roles(stack, inputs, outputs, "ambiguous", why)
    if sorted((*stack, *inputs, *outputs)) != list(everything):
        why = f"{products[0].primitive} has {_text(found[0])}, which is no partition of {ndim} axes"
        return Roles(stack, inputs, outputs, "ambiguous", why)
    batched = tuple(sorted(frozenset[int]().union(*(use.batched for use in products))))
    return Roles(
        stack, inputs, outputs, kind, batched=batched, tied=any(axes != found[0] for axes in found)
    )


def _axes(use: Use, ndim: int) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    # an axis that indexing removed enumerates matrices, unless another part of it is still there
    rest = use.dropped - use.inputs - use.outputs
    return use.stack | rest, use.inputs, use.outputs


def _text(groups: Sequence[frozenset[int]]) -> str:
    names = zip(("stack", "inputs", "outputs"), groups, strict=True)
    return ", ".join(f"{name}={tuple(sorted(axes))}" for name, axes in names)
