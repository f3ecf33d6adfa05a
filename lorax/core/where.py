"""What may `where` be? Its spellings, and the checks of a delta against what it selects.

`where` is "all-linear", a tuple of patterns, or a mapping from pattern to overrides; inside an
adapter it is always a hashable value.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from lorax.core import paths
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Factors, Roles
from lorax.core.packed import is_packed

ALL_LINEAR = "all-linear"


def check_patterns(name: str, patterns: Any, *, or_all: bool = False) -> tuple[str, ...]:
    """`patterns` as a tuple of strings; `or_all` says that "all-linear" would do as well.

    Raises:
      LoraxTypeError: one string, or anything else that is not a sequence of strings.
      LoraxError: none at all, for `where`.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        choice = f"'{ALL_LINEAR}', or " if or_all else ""
        raise LoraxTypeError(
            f"{name} is {patterns!r}: expected {choice}a tuple of regular expressions, such as "
            f"{name}=('.*/query/kernel',)"
        )
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise LoraxTypeError(
                f"{name} holds the {type(pattern).__name__} {pattern!r}: expected regular "
                f"expressions over '/'-joined paths, such as {name}=('.*/query/kernel',)"
            )
    if name == "where" and not patterns:
        choice = f", or '{ALL_LINEAR}'" if or_all else ""
        raise LoraxError(f"where is empty: expected at least one pattern{choice}")
    return tuple(patterns)


def check_where(where: Any, overrides: Mapping[str, Callable[[Any], Any]]) -> Any:
    """`where` as a hashable value: "all-linear", a tuple of patterns, or sorted pairs of a pattern
    and its overrides.

    Args:
      where: as the user wrote it, or as this function returned it.
      overrides: the names that a mapping may override, each with the check of its value.

    Raises:
      LoraxTypeError, LoraxError: `where` is none of these, or a name is unknown.
    """
    if isinstance(where, str) and where == ALL_LINEAR:
        return where
    if not isinstance(where, Mapping):
        if not _is_pairs(where):
            return check_patterns("where", where, or_all=True)
        where = {pattern: dict(pairs) for pattern, pairs in where}
    check_patterns("where", list(where), or_all=True)
    found = []
    for pattern, own in where.items():
        if not isinstance(own, Mapping):
            raise LoraxTypeError(
                f"where[{pattern!r}] is {own!r}: expected a mapping of overrides, such as "
                "{'rank': 4}, or {} for none"
            )
        for name in own:
            if name not in overrides:
                raise LoraxError(
                    f"override of where[{pattern!r}] is {name!r}: expected one of "
                    f"{', '.join(map(repr, sorted(overrides)))}"
                )
        found.append((pattern, tuple(sorted((n, overrides[n](v)) for n, v in own.items()))))
    return tuple(sorted(found))  # patterns exclude each other, so their order means nothing


def has_overrides(where: Any) -> bool:
    """Whether `where`, as `check_where` returns it, is pairs of a pattern and its overrides."""
    return where != ALL_LINEAR and _is_pairs(where)


def overrides_at(where: Any, path: str) -> dict[str, Any]:
    """The overrides of the pattern of `where` that matches `path`; empty where there are none."""
    pairs = where if has_overrides(where) else ()
    return next((dict(own) for pattern, own in pairs if paths.matches(pattern, path)), {})


def spelled(where: Any) -> Any:
    """`where` as JSON has it and `check_where` reads it: overrides are a mapping again."""
    if where == ALL_LINEAR:
        return where
    return {p: dict(own) for p, own in where} if has_overrides(where) else list(where)


def _is_pairs(where: Any) -> bool:
    is_pair = lambda item: isinstance(item, Sequence) and not isinstance(item, str)
    return isinstance(where, Sequence) and bool(where) and all(map(is_pair, where))


def check_used(path: str, roles: Mapping[str, Roles] | None) -> None:
    """Raises LoraxError for a leaf that the program never uses."""
    if roles is not None and path in roles and roles[path].kind == "unused":
        raise LoraxError(
            f"'{path}' is adapted but the program never uses it: expected leaves that reach the "
            "output; narrow where=, or pass the example arguments that reach it"
        )


def check_order(base: Any, stored: Mapping[str, Any], delta: Any) -> None:
    """Raises LoraxTypeError where `base`, with the leaves `stored`, and `delta` are swapped."""
    factors = lambda tree: (
        isinstance(tree, Mapping) and any(isinstance(leaf, Factors) for leaf in tree.values())
    )
    swapped = factors(base)
    if not swapped and isinstance(delta, Mapping) and not factors(delta):
        # a tree begins with "params", while the keys of a delta are the whole paths
        begins = tuple(f"{key}/" for key in delta if key not in stored)
        swapped = any(path.startswith(begins) for path in stored)
    if swapped:
        raise LoraxTypeError(
            "base has the form of a delta, or delta that of a base: expected (base, delta), in "
            "this order; are they swapped?"
        )


def check_paths(delta: Any, wanted: Iterable[str] | None, stored: Mapping[str, Any]) -> None:
    """Raises LoraxError unless `delta` maps just the `wanted` paths, all of them in the base.

    `wanted` is None where only an example input can tell what is selected.
    """
    if not isinstance(delta, Mapping):
        raise LoraxTypeError(
            f"delta is a {type(delta).__name__}: expected a mapping from path to what is trained "
            "there, as init returns it"
        )
    if not delta:
        raise LoraxError("delta is empty: expected at least one adapted leaf; make it with init")
    for path in delta:
        if path not in stored:
            near = paths.nearest(path, stored, 1)
            raise LoraxError(
                f"delta names '{path}', which the base does not have"
                f"{f' (it has {near[0]!r})' if near else ''}: it belongs to another model; "
                "load the base it was trained on"
            )
    if wanted is None:
        return
    wanted = list(wanted)
    lacking, extra = ([p for p in a if p not in b] for a, b in ((wanted, delta), (delta, wanted)))
    if lacking or extra:
        what = (
            f"lacks '{lacking[0]}', which where= selects"
            if lacking
            else (f"holds '{extra[0]}', which where= does not select")
        )
        raise LoraxError(
            f"delta {what}: it was saved with another config; load its adapter.json, or correct "
            "where="
        )


def check_whole(path: str, leaf: Any, wanted_by: str) -> None:
    """Raises LoraxError for a quantised leaf, and as `check_leaf`: it is to be moved as a whole."""
    check_leaf(path, leaf, wanted_by)
    if is_packed(leaf):
        raise LoraxError(
            f"'{path}' is quantised and {wanted_by} moves the whole leaf, which would be formed: "
            "narrow where= so that it is left out, or pass lorax.dequantize(base)"
        )


def check_leaf(path: str, leaf: Any, wanted_by: str) -> None:
    """Raises LoraxTypeError unless the leaf holds floating-point numbers."""
    if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
        raise LoraxTypeError(
            f"'{path}' has dtype {leaf.dtype}: {wanted_by} adapts floating-point leaves; "
            "narrow where= so that it is left out"
        )
