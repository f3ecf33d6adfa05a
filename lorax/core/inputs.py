"""What does a program feed its products? Second moments of the inputs of each leaf.

They come out of one backward pass, whatever scans, remat and jit lie around a product: its input
passes an identity with a second operand, whose cotangent is not a derivative but what is asked for.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core import paths
from lorax.core.adapter import Base
from lorax.core.contract import contract
from lorax.core.errors import LoraxError
from lorax.core.evaluation import Evaluation
from lorax.core.implicit import RANK, Implicit, Label, Term, bare, implicit
from lorax.core.implicit import along as along_axes
from lorax.core.leaf import Factors, LowRank, Roles
from lorax.core.packed import is_packed
from lorax.core.trace import check_program, run_on


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of the inputs x of one leaf, summed over all tokens; in float32 or wider.

    Attributes:
      along: x xᵀ Q, (stack..., inputs..., m).
      squares: of every input, (stack..., inputs...): the diagonal of x xᵀ.
    """

    along: jax.Array
    squares: jax.Array


def second_moments(
    fn: Any,
    base: Base,
    directions: Mapping[str, jax.Array],
    roles: Mapping[str, Roles],
    *args: Any,
    **kwargs: Any,
) -> dict[str, Moments]:
    """Σ x xᵀ Q over everything that `fn` multiplies with each leaf; x xᵀ is never formed.

    Args:
      fn, base: a program and its parameters; its outputs hold floating-point numbers.
      directions: Q (stack..., inputs..., m) by path.
      roles: of these leaves, as `lorax.roles` tells them. Products alone are seen: no lookup, no
        convolution.
      *args, **kwargs: the program's other arguments, all of whose tokens count.

    Raises:
      LoraxError: a leaf that no dot product of the program contracts as its roles say.
    """
    check_program(fn)
    stored = paths.flatten(base)
    probes = {path: jnp.concatenate([q, q[..., :1]], axis=-1) for path, q in directions.items()}
    watching = _Watching()

    def total(probes: Mapping[str, jax.Array]) -> jax.Array:
        values = {}
        for path, w in stored.items():
            if path in probes:
                values[path] = implicit(path, w, _silent(path, w, probes[path], roles[path]))
            else:
                values[path] = bare(path, w) if is_packed(w) else w
        outputs = jax.tree.leaves(run_on(watching, fn, base, stored, values, args, kwargs))
        real = [out for out in outputs if jnp.issubdtype(out.dtype, jnp.floating)]
        return sum((jnp.sum(out.astype(jnp.float32)) for out in real), jnp.float32(0))

    found = jax.grad(total)(probes)
    for path in directions:
        if path not in watching.paths:
            raise LoraxError(
                f"no product of the program contracts the inputs of '{path}': expected a leaf of "
                "dot products; narrow where= so that it is left out"
            )
    return {path: Moments(x[..., :-1], x[..., -1]) for path, x in found.items()}


def _silent(path: str, w: Any, probe: jax.Array, roles: Roles) -> LowRank:
    """Factors with B of zeros: they are there for their A."""
    _, b_shape = roles.shapes(w.shape, probe.shape[-1])
    return LowRank(Factors(probe, jnp.zeros(b_shape, probe.dtype), roles), 1.0)


class _Watching(Evaluation):
    """An evaluation whose leaves feel what they are multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: set[str] = set()

    def seen(
        self, x: jax.Array, axes: Sequence[Label], contracted: Sequence[Label], leaf: Implicit
    ) -> jax.Array:
        for term in leaf.terms:
            if set(contracted) <= set(term.a_axes):  # else the other side is contracted here
                self.paths.add(leaf.path)
                x = _felt(x, axes, contracted, term)
        return x


def _felt(
    x: jax.Array, x_axes: Sequence[Label], contracted: Sequence[Label], term: Term
) -> jax.Array:
    """`x`; the cotangent of A becomes x xᵀ times it, its last column the squares of x."""
    a_axes = term.a_axes
    tokens = [label for label in x_axes if label not in a_axes]
    small_axes = [label for label in x_axes if label not in contracted] + [RANK]

    def moments(x: jax.Array, probe: jax.Array) -> jax.Array:
        x, q = x.astype(probe.dtype), probe[..., :-1]
        small = contract(x, x_axes, q, a_axes, small_axes)
        along = contract(x, x_axes, small, small_axes, a_axes)
        squares = jnp.sum(jnp.square(x), axis=[x_axes.index(label) for label in tokens])
        left = [label for label in x_axes if label in a_axes]
        squares = along_axes((squares, tuple(left)), a_axes, along.dtype)
        return jnp.concatenate([along, squares], axis=-1)

    identity = jax.custom_vjp(lambda x, probe: x)
    identity.defvjp(lambda x, probe: (x, (x, probe)), lambda kept, g: (g, moments(*kept)))
    return identity(x, term.a)
