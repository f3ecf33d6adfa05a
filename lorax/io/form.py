"""What is the form of a delta? A JSON-ready account of its structure, and the way back.

A delta is made of mappings, tuples, `Factors`, `Learnt` and arrays. Its arrays are named by the
way to them, `params/query/kernel/A`; the account holds everything else, so that names and arrays
suffice to build the same pytree, roles included.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors, Learnt, Roles

Form = dict[str, Any]


def describe(delta: Any) -> Form:
    """The form of `delta`: all of it but the numbers, as JSON values.

    Raises:
      LoraxError: a part of it is none of mapping, tuple, `Factors` and array; or two of its arrays
        would have one name.
    """
    form = _describe(delta, "")
    names = [name for name, _ in _leaves(form)]
    if len(set(names)) < len(names):
        raise LoraxError("two arrays of the delta have one name: expected distinct paths")
    return form


def named_arrays(delta: Any) -> dict[str, jax.Array]:
    """The arrays of `delta` by name."""
    names = (name for name, _ in _leaves(describe(delta)))
    return dict(zip(names, _arrays(delta), strict=True))


def abstract_arrays(form: Form) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes by name, on the default device.

    Raises:
      LoraxError, KeyError, TypeError: this is not the form of a delta.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {
        name: jax.ShapeDtypeStruct(
            tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]), sharding=sharding
        )
        for name, leaf in _leaves(form)
    }


def build(form: Form, arrays: Mapping[str, Any], name: str = "") -> Any:
    """The delta of this form with these arrays; inverse of `describe` and `named_arrays`."""
    kind = form["kind"]
    if kind == "array":
        return arrays[name]
    parts = {key: build(part, arrays, _join(name, key)) for key, part in _parts(form)}
    if kind == "mapping":
        return parts
    if kind == "tuple":
        return tuple(parts.values())
    known: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in form["roles"].items()
    }
    roles = Roles(**known)
    if kind == "learnt":
        return Learnt(parts, roles)
    return Factors(parts["A"], parts["B"], roles)


def _describe(delta: Any, name: str) -> Form:
    if isinstance(delta, Factors):
        a, b = _describe(delta.A, f"{name}/A"), _describe(delta.B, f"{name}/B")
        return {"kind": "factors", "A": a, "B": b, "roles": _roles(delta.roles)}
    if isinstance(delta, Learnt):
        items = {key: _describe(item, _join(name, key)) for key, item in _sorted(delta.arrays)}
        return {"kind": "learnt", "items": items, "roles": _roles(delta.roles)}
    if isinstance(delta, Mapping):
        items = {key: _describe(item, _join(name, key)) for key, item in delta.items()}
        return {"kind": "mapping", "items": items}
    if type(delta) is tuple:
        members = [_describe(item, _join(name, str(i))) for i, item in enumerate(delta)]
        return {"kind": "tuple", "items": members}
    if hasattr(delta, "shape") and hasattr(delta, "dtype"):
        return {"kind": "array", "shape": list(delta.shape), "dtype": jnp.dtype(delta.dtype).name}
    raise LoraxError(
        f"delta at '{name}' is a {type(delta).__name__}: expected mappings, tuples, Factors, "
        "Learnt and arrays, as Adapter.init returns them"
    )


def _roles(roles: Roles) -> dict[str, Any]:
    found = {key: list(getattr(roles, key)) for key in ("stack", "inputs", "outputs")}
    return found | {"kind": roles.kind, "why": roles.why}


def _sorted(arrays: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(arrays.items())


def _parts(form: Form) -> Iterator[tuple[str, Form]]:
    """What a form is made of, in the order of `_arrays`."""
    kind = form["kind"]
    if kind == "factors":
        yield from (("A", form["A"]), ("B", form["B"]))
    elif kind in ("mapping", "learnt"):
        yield from form["items"].items()
    elif kind == "tuple":
        yield from ((str(i), item) for i, item in enumerate(form["items"]))
    else:
        raise LoraxError(
            f"delta form of kind {kind!r}: expected one of array, factors, learnt, mapping or tuple"
        )


def _leaves(form: Form, name: str = "") -> Iterator[tuple[str, Form]]:
    """(name, form) of every array."""
    if form["kind"] == "array":
        yield name, form
    else:
        for key, part in _parts(form):
            yield from _leaves(part, _join(name, key))


def _join(name: str, key: Any) -> str:
    if not isinstance(key, str):
        raise LoraxError(
            f"delta has the key {key!r} at '{name}': expected paths, which are strings"
        )
    return f"{name}/{key}" if name else key


def _arrays(delta: Any) -> Iterator[Any]:
    if isinstance(delta, Factors):
        yield from (delta.A, delta.B)
    elif isinstance(delta, Learnt):
        yield from (array for _, array in _sorted(delta.arrays))
    elif isinstance(delta, Mapping):
        for item in delta.values():
            yield from _arrays(item)
    elif isinstance(delta, tuple):
        for item in delta:
            yield from _arrays(item)
    else:
        yield delta
