"""Which leaves? Paths of a parameter tree, their selection by pattern, and keys from names.

A path is the "/"-joined name of a leaf, `params/layer_0/query/kernel`, the same for Linen
variables, `nnx.State`, Equinox modules and plain containers. Integer keys become their digits.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.packed import is_packed

Tree = Any


def is_array(leaf: Any) -> bool:
    """True for anything with a shape and a dtype: device, host, traced and abstract arrays."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def path_of(keys: Sequence[Any]) -> str:
    """The "/"-joined path of a `jax.tree_util` key path.

    The `.value` that an NNX `Variable` adds below its own name is left out, so that one model
    has the same paths in Linen and in NNX.
    """
    names = [_name(key) for key in keys]
    if names and isinstance(keys[-1], jax.tree_util.GetAttrKey) and names[-1] == "value":
        names.pop()
    return "/".join(names)


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def flatten(tree: Tree) -> dict[str, Any]:
    """The array leaves of `tree` by path, in tree order; a quantised one is one leaf.

    Raises:
      LoraxError: two leaves share a path (keys `1` and `"1"`, say).
    """
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_packed)[0]:
        if not is_array(leaf):
            continue
        path = path_of(keys)
        if path in leaves:
            raise LoraxError(
                f"two leaves of the base share the path '{path}': expected distinct names; "
                "rename one of the keys"
            )
        leaves[path] = leaf
    return leaves


def replace(tree: Tree, new: Mapping[str, Any]) -> Tree:
    """`tree` with the array leaves named in `new` exchanged; the others are the same objects."""

    def choose(keys: Sequence[Any], leaf: Any) -> Any:
        return new.get(path_of(keys), leaf) if is_array(leaf) else leaf

    return jax.tree_util.tree_map_with_path(choose, tree, is_leaf=is_packed)


def select(patterns: Iterable[str], paths: Iterable[str]) -> dict[str, str]:
    """The paths that `patterns` fully match, each with its one pattern, in the order of `paths`.

    Args:
      patterns: regular expressions, each `re.fullmatch`ed against every path.
      paths: the candidates.

    Raises:
      LoraxError: a pattern is not a regular expression, matches nothing (near misses are listed),
        or two patterns match one path.
    """
    paths = list(paths)
    chosen: dict[str, str] = {}
    for pattern in patterns:
        regex = _compile(pattern)
        matched = [path for path in paths if regex.fullmatch(path)]
        if not matched:
            raise LoraxError(_no_match(pattern, paths))
        for path in matched:
            if path in chosen:
                raise LoraxError(
                    f"patterns '{chosen[path]}' and '{pattern}' both match '{path}': "
                    "expected one pattern a leaf; make them exclusive"
                )
            chosen[path] = pattern
    return {path: chosen[path] for path in paths if path in chosen}


def matches(pattern: str, path: str) -> bool:
    """Whether `pattern` fully matches `path`."""
    return _compile(pattern).fullmatch(path) is not None


def excluded(patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    """The paths that any of `patterns` fully matches; one without a match is an error."""
    paths = list(paths)
    return {path for pattern in patterns for path in select((pattern,), paths)}


def key_for(key: jax.Array, path: str) -> jax.Array:
    """A key that depends on `key` and `path` only, never on tree order: `fold_in` of a hash.

    Raises:
      LoraxTypeError: `key` is no PRNG key.
    """
    check_key(key)
    digest = hashlib.sha256(path.encode("utf-8")).digest()
    return jax.random.fold_in(key, np.uint32(int.from_bytes(digest[:4], "big")))


def check_key(key: Any) -> None:
    """Raises LoraxTypeError unless `key` is a PRNG key, typed or of the old kind (uint32)."""
    if is_array(key):
        typed = jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
        if typed or (key.dtype == np.uint32 and len(key.shape) == 1):
            return
        found = f"{key.dtype} of shape {tuple(key.shape)}"
    elif jax.tree.leaves(key) and all(map(is_array, jax.tree.leaves(key))):
        raise LoraxTypeError(
            f"key is a tree of parameters ({type(key).__name__}), no PRNG key: expected (key, "
            "base), in this order; are they swapped?"
        )
    else:
        found = repr(key)[:60]
    raise LoraxTypeError(f"key is {found}: expected a PRNG key; pass jax.random.key(0)")


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `candidates`, those most like `name` first.

    As wholes, or component by component, whichever is more: `quary` is near `params/query/kernel`,
    of which it is a small part.
    """
    scored = ((_likeness(name, candidate), candidate) for candidate in candidates)
    near = sorted((-score, i, other) for i, (score, other) in enumerate(scored) if score >= 0.3)
    return [candidate for *_, candidate in near[:count]]


def _likeness(name: str, candidate: str) -> float:
    ratio = lambda a, b: difflib.SequenceMatcher(None, a, b).ratio()
    best = [max((ratio(a, b) for b in _words(candidate)), default=0.0) for a in _words(name)]
    return max(ratio(name, candidate), sum(best) / max(len(best), 1))


def _words(path: str) -> list[str]:
    """The components of a path, or of an expression for paths, without what is punctuation."""
    return [word for word in re.split(r"[^A-Za-z0-9_]+", path) if word]


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise LoraxError(
            f"where pattern '{pattern}' is not a regular expression ({error}): "
            "expected one that re.fullmatch accepts, such as '.*/query/kernel'"
        ) from None


def _no_match(pattern: str, paths: Sequence[str]) -> str:
    near = [path for path in paths if re.search(pattern, path)][:3] or nearest(pattern, paths)
    near = near or list(paths[:3])
    hint = f"near misses: {', '.join(map(repr, near))}" if near else "the base has no leaves"
    return (
        f"pattern '{pattern}' matches none of {len(paths)} leaves: expected a full match of a "
        f"'/'-joined path; {hint}"
    )
