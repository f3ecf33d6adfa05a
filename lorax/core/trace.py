"""How is a program run on other leaves than its own, and on shapes instead of arrays?"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lorax.core import _jax, paths
from lorax.core.additions import check_read
from lorax.core.errors import LoraxTypeError
from lorax.core.evaluation import Evaluation
from lorax.core.packed import is_packed


def check_program(fn: Any, name: str = "fn") -> None:
    """Raises LoraxTypeError unless `fn`, the argument `name`, is a function of parameters.

    A Flax model is none, its `apply` is; nor is an NNX module, which holds its own.
    """
    if any(_is_nnx_module(cls) for cls in type(fn).__mro__):
        raise LoraxTypeError(
            f"{name} is a {type(fn).__name__}, an NNX module that holds its parameters: expected a "
            "function of (params, ...); write graph, state = nnx.split(model) and pass "
            "lambda state, x: nnx.merge(graph, state)(x)"
        )
    is_model = hasattr(fn, "apply") and hasattr(fn, "init") and not inspect.isroutine(fn)
    if not callable(fn) or is_model:
        raise LoraxTypeError(
            f"{name} is a {type(fn).__name__}: expected a function of (params, ...); pass "
            "model.apply"
        )


def _is_nnx_module(cls: type) -> bool:
    return cls.__name__ == "Module" and cls.__module__.startswith("flax.nnx")


def run_on(
    evaluation: Evaluation,
    fn: Callable[..., Any],
    base: Any,
    stored: Mapping[str, Any],
    values: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Traces `fn` with respect to the `stored` leaves of `base` and evaluates it on `values`.

    The program sees a quantised leaf as the matrix it stands for; only `values` know better.

    Only these leaves are arguments of the trace: whatever else the program takes is closed over,
    so Python values stay Python values and traced ones belong to the caller's trace.

    Raises:
      LoraxError: the program never reads an addition.
    """

    def traced(leaves: dict[str, Any]) -> Any:
        # built anew inside the trace: an NNX state may only be changed where it was made
        own_args, own_kwargs = jax.tree.map(lambda leaf: leaf, (args, dict(kwargs)))
        return fn(paths.replace(base, leaves), *own_args, **own_kwargs)

    given = {path: _matrix(leaf) if is_packed(leaf) else leaf for path, leaf in stored.items()}
    program, tree = _jax.trace(traced, given)
    used = _jax.last_uses(program.jaxpr)
    inputs = zip(sorted(stored), program.inputs, strict=True)
    check_read(path for path, variable in inputs if variable not in used)
    outputs = evaluation.concrete(program, [values[path] for path in sorted(stored)])
    return jax.tree.unflatten(tree, outputs)


def shapes_of(leaves: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each leaf; of codes and scales where one is quantised."""
    return {path: jax.tree.map(_matrix, leaf) for path, leaf in leaves.items()}


def _matrix(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def shapes_only(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The `ShapeDtypeStruct` leaves of `tree`, and how to put other arrays in their places.

    Everything else stays where it is, so that `jax.eval_shape` sees shapes as arguments and
    Python values, keys and concrete arrays as constants.
    """
    leaves, structure = jax.tree.flatten(tree)
    abstract = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def put_back(arrays: list[Any]) -> Any:
        filled = list(leaves)
        for i, array in zip(abstract, arrays, strict=True):
            filled[i] = array
        return jax.tree.unflatten(structure, filled)

    return [leaves[i] for i in abstract], put_back
