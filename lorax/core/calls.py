"""How does a leaf enter a program inside the program? By recursion, sliced or split as W0 is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from lorax.core import _jax
from lorax.core.implicit import Implicit, Label, merged
from lorax.core.packed import Packed, Runs

Values = list[Any]


def jit(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Evaluates the body in place; shardings that the inner jit asked for are kept as constraints.

    Nothing is lost by inlining: the caller's own jit compiles the whole, and an adapted call
    outside jit is op by op as any JAX function is.
    """
    body = _jax.inner(eqn)
    inputs = _jax.shardings(eqn, "in_shardings") or (None,) * len(values)
    values = [_constrained(v, s) for v, s in zip(values, inputs, strict=True)]
    outputs = ctx.evaluate(body, values)
    wanted = _jax.shardings(eqn, "out_shardings") or (None,) * len(outputs)
    return [_constrained(v, s) for v, s in zip(outputs, wanted, strict=True)]


def _constrained(value: Any, sharding: Any) -> Any:
    if sharding is None:
        return value
    if isinstance(value, Implicit):
        if isinstance(value.w, Packed):  # the sharding is one of the matrix
            return value
        arrays = [array for array, _ in value.pieces()]
        return value.rebuild([lax.with_sharding_constraint(arrays[0], sharding), *arrays[1:]])
    return lax.with_sharding_constraint(value, sharding)


def remat(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Checkpoints the factored body under the same policy."""
    body, (arrays, unpack) = _jax.inner(eqn), _packed(values)
    p = eqn.params
    fn = jax.checkpoint(
        lambda *packed: ctx.concrete(body, unpack(packed)),
        policy=p["policy"],
        prevent_cse=p["prevent_cse"],
    )
    return fn(*arrays)


def _packed(values: Sequence[Any]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """All traced arrays behind `values` as one list, and the way back."""
    groups = [
        [array for array, _ in v.pieces()] if isinstance(v, Implicit) else [v] for v in values
    ]

    def unpack(arrays: Sequence[Any]) -> list[Any]:
        queue = iter(arrays)
        parts = [[next(queue) for _ in group] for group in groups]
        pairs = zip(values, parts, strict=True)
        return [v.rebuild(part) if isinstance(v, Implicit) else part[0] for v, part in pairs]

    return [array for group in groups for array in group], unpack


def scan(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Slices the factors with W0, iteration by iteration; nothing is restacked or copied.

    A leaf that is a constant of the loop stays whole; one that is carried is merged.
    """
    body, p = _jax.inner(eqn), eqn.params
    n_consts, n_carry = _jax.scan_split(eqn)
    for i, value in enumerate(values[n_consts:], n_consts):
        if i < n_consts + n_carry or (isinstance(value, Implicit) and value.whole(value.axes[0])):
            values = ctx.merge_operand(eqn, values, i)
    consts, carry = values[:n_consts], values[n_consts : n_consts + n_carry]
    xs, unslice = _sliced(values[n_consts + n_carry :])
    numbers = jnp.arange(p["length"]) if ctx.drops else None

    def step(carry: list[Any], now: tuple[list[Any], Any]) -> tuple[list[Any], list[Any]]:
        arrays, number = now
        with ctx.iteration(number):
            outputs = ctx.concrete(body, [*consts, *carry, *unslice(arrays)])
        return outputs[:n_carry], outputs[n_carry:]

    carry, ys = lax.scan(
        step, carry, (xs, numbers), length=p["length"], reverse=p["reverse"], unroll=p["unroll"]
    )
    return [*carry, *ys]


def _sliced(xs: Sequence[Any]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """The arrays to scan over, and how one iteration's slices become its values."""
    stacked: list[Any] = []
    for x in xs:
        label = x.axes[0] if isinstance(x, Implicit) else None
        for array, labels in x.pieces() if isinstance(x, Implicit) else [(x, (None,))]:
            if label in labels:
                stacked.append(jnp.moveaxis(array, labels.index(label), 0))

    def unslice(now: Sequence[Any]) -> list[Any]:
        queue = iter(now)
        return [_one_of(x, queue) if isinstance(x, Implicit) else next(queue) for x in xs]

    return stacked, unslice


def _one_of(leaf: Implicit, slices: Iterator[Any]) -> Implicit:
    """`leaf` at one iteration: its leading label is gone and remembered as a stack axis.

    A piece without that label, the scale for instance, is the same in every iteration.
    """
    label = leaf.axes[0]
    arrays = [next(slices) if label in labels else array for array, labels in leaf.pieces()]
    return leaf.rebuild(arrays, drop=label).remember(stack=leaf.origins[0])


def while_(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Leaves among the constants of condition and body stay implicit; a carried one is merged.

    With dropout on, the loop also counts its iterations, so that each has masks of its own.
    """
    condition, n_condition, body, n_body = _jax.while_parts(eqn)
    start = n_condition + n_body
    for i in range(start, len(values)):
        values = ctx.merge_operand(eqn, values, i)

    def test(counted: tuple[Any, list[Any]]) -> Any:
        number, carry = counted
        with ctx.iteration(number):
            return ctx.concrete(condition, [*values[:n_condition], *carry])[0]

    def step(counted: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        number, carry = counted
        with ctx.iteration(number):
            outputs = ctx.concrete(body, [*values[n_condition:start], *carry])
        return None if number is None else number + 1, outputs

    first = jnp.zeros((), jnp.int32) if ctx.drops else None
    return lax.while_loop(test, step, (first, values[start:]))[1]


def cond(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Every branch sees the factors."""
    index, (arrays, unpack) = values[0], _packed(values[1:])
    branches = [
        lambda *packed, branch=branch: ctx.concrete(branch, unpack(packed))
        for branch in _jax.programs(eqn)
    ]
    return lax.switch(index, branches, *arrays)


def custom_vjp(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Factored where the function is evaluated; its author's rule where it is differentiated.

    The rule takes the weight itself, so under differentiation the weight is merged: exact, and
    the cotangent of the merged weight flows on to A and B.
    """
    evaluate, author, arrays = _both_ways(ctx, eqn, values)
    fn = jax.custom_vjp(evaluate)
    fn.defvjp(lambda *packed: jax.vjp(author, *packed), lambda vjp, cotangents: vjp(cotangents))
    return fn(*arrays)


def custom_jvp(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """As `custom_vjp`, for functions with a forward rule."""
    evaluate, author, arrays = _both_ways(ctx, eqn, values)
    fn = jax.custom_jvp(evaluate)
    fn.defjvp(lambda primals, tangents: jax.jvp(author, primals, tangents))
    return fn(*arrays)


def _both_ways(
    ctx: Any, eqn: _jax.Equation, values: Values
) -> tuple[Callable[..., Any], Callable[..., Any], list[Any]]:
    body, (arrays, unpack) = _jax.inner(eqn), _packed(values)
    for value in values:
        if isinstance(value, Implicit):
            ctx.refuse_dropout(value, eqn)
            ctx.note(value, eqn, "merged where differentiated, by the author's rule")

    def author(*packed: Any) -> list[Any]:
        plain = [merged(v) if isinstance(v, Implicit) else v for v in unpack(packed)]
        return _jax.run_one(eqn, plain)

    return lambda *packed: ctx.concrete(body, unpack(packed)), author, arrays


def shard_map(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any]:
    """Each device gets its part of the factors: the axes of A and B are split as those of W0."""
    body, p, (arrays, unpack) = _jax.inner(eqn), eqn.params, _packed(values)
    specs: list[PartitionSpec] = []
    for value, spec in zip(values, p["in_specs"], strict=True):
        specs += _specs_of(value, spec) if isinstance(value, Implicit) else [spec]
    names = p.get("newly_manual_axes", p.get("manual_axes"))
    fn = jax.shard_map(
        lambda *packed: tuple(ctx.concrete(body, unpack(packed))),
        mesh=p["mesh"],
        in_specs=tuple(specs),
        out_specs=tuple(p["out_specs"]),
        check_vma=p["check_vma"],
        **({"axis_names": set(names)} if names else {}),
    )
    return list(fn(*arrays))


def _specs_of(leaf: Implicit, spec: PartitionSpec) -> list[PartitionSpec]:
    names: dict[Label, Any] = dict(zip(leaf.axes, spec, strict=False))
    names |= {Runs(label): name for label, name in names.items()}
    return [PartitionSpec(*(names.get(label) for label in labels)) for _, labels in leaf.pieces()]
