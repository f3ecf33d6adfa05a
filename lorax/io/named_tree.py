"""How does a pytree become named arrays on the host, and a pytree again? Does a saved one fit?

An array's name is the way to it, `delta/params/query/kernel/A`. Its form is what can be compared
without reading it: {"shape": [768, 8], "dtype": "float32"}. PRNG keys are stored as their data.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from lorax.core.errors import LoraxError, LoraxTypeError

Tree = Any
Form = dict[str, Any]


def named_leaves(tree: Tree) -> dict[str, Any]:
    """The leaves of `tree` by name, in tree order.

    Raises:
      LoraxError: a leaf is no array, or two have one name.
    """
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise LoraxTypeError(
                f"'{name}' is a {type(leaf).__name__}: expected a tree of arrays; other values "
                "belong in info"
            )
        if name in leaves:
            raise LoraxError(f"two arrays are named '{name}': expected distinct keys")
        leaves[name] = leaf
    return leaves


def forms(leaves: Mapping[str, Any]) -> dict[str, Form]:
    """The form of each array, concrete or abstract."""
    return {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for name, leaf in leaves.items()
    }


def key_impls(leaves: Mapping[str, Any]) -> dict[str, str]:
    """The implementation of each PRNG key among the arrays, "threefry2x32" say."""
    return {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if _is_key(leaf)}


def host_copies(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copies on the host, which stay when the arrays are donated; all of each must be at hand."""
    local = {name: _local(leaf) for name, leaf in leaves.items()}
    for leaf in local.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    # on the CPU asarray would be a view of memory that a donated array gives away
    return {name: np.array(leaf) for name, leaf in local.items()}


def own_copies(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Copies, which stay when the arrays are donated, of what this process has to write of them.

    What a process has whole process 0 has, on its host. An array that is spread over processes is
    copied where it is: all of them call this, and each has its shards.
    """
    spread = {name: leaf for name, leaf in leaves.items() if _spread(leaf)}
    whole = {name: leaf for name, leaf in leaves.items() if name not in spread}
    return host_copies(whole if jax.process_index() == 0 else {}) | _device_copies(spread)


def gathered(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The same, but arrays that are spread over processes whole, on the host of each process.

    All of them call this.
    """
    if not any(map(_spread, leaves.values())):
        return dict(leaves)
    from jax.experimental import multihost_utils

    return {
        name: multihost_utils.process_allgather(leaf, tiled=True) if _spread(leaf) else leaf
        for name, leaf in leaves.items()
    }


def placements(leaves: Mapping[str, Any]) -> dict[str, jax.sharding.Sharding]:
    """Where those of `leaves` are, or are to be, that are committed to devices."""
    found = {}
    for name, leaf in leaves.items():
        asked = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None
        # traced under explicit axes, a shape knows its axes but no devices
        if asked and not isinstance(getattr(leaf.sharding, "mesh", None), AbstractMesh):
            found[name] = leaf.sharding
        elif isinstance(leaf, jax.Array) and leaf.committed:
            found[name] = leaf.sharding
    return found


def rebuild(like: Tree, arrays: Mapping[str, Any], impls: Mapping[str, str]) -> Tree:
    """The tree of the form of `like` with `arrays`, which `host_copies` made, and its `key_impls`.

    Arrays that are on devices stay there. Others are committed to none; where `like` holds NumPy's,
    so does the result.
    """

    def leaf(name: str, wanted: Any) -> Any:
        if isinstance(wanted, np.ndarray | np.generic):
            return arrays[name]
        array = arrays[name]
        array = array if isinstance(array, jax.Array) else jnp.asarray(array)
        return jax.random.wrap_key_data(array, impl=impls[name]) if name in impls else array

    leaves = [leaf(name, wanted) for name, wanted in named_leaves(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def misfit(saved: Mapping[str, Form], wanted: Mapping[str, Form]) -> str:
    """What sets a saved tree apart from the one that is wanted; "" if nothing does.

    Only the first branch of the tree that differs is told, the delta before its optimizer state:
    differences below the others mostly follow from it.
    """
    names = [name for name in {**wanted, **saved} if saved.get(name) != wanted.get(name)]
    branch = names[0].partition("/")[0] if names else ""
    found: dict[str, tuple[str, int]] = {}
    for name in (name for name in names if name.partition("/")[0] == branch):
        if _follows(name, saved, wanted):
            continue
        kind, text = _difference(name, saved.get(name), wanted.get(name))
        first, more = found.get(kind, (text, -1))
        found[kind] = first, more + 1
    return "; ".join(f"{text} (and {n} more)" if n else text for text, n in found.values())


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _spread(leaf: Any) -> bool:
    """Is there no process that has all of it?"""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return False
    return not leaf.is_fully_replicated


@jax.jit
def _device_copies(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    data = {n: jax.random.key_data(x) if _is_key(x) else x for n, x in leaves.items()}
    return jax.tree.map(jnp.copy, data)


def _local(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    leaf = leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _rank(name: str, saved: Mapping[str, Form], wanted: Mapping[str, Form]) -> bool:
    """Do the two differ in the rank of this A, and in nothing else?"""
    old, new = saved.get(name), wanted.get(name)
    if not name.endswith("/A") or old is None or new is None or old["dtype"] != new["dtype"]:
        return False
    return old["shape"] != new["shape"] and old["shape"][:-1] == new["shape"][:-1]


def _follows(name: str, saved: Mapping[str, Form], wanted: Mapping[str, Form]) -> bool:
    """Is this the B of an A whose rank is told?"""
    return name.endswith("/B") and _rank(name[:-1] + "A", saved, wanted)


def _difference(name: str, old: Form | None, new: Form | None) -> tuple[str, str]:
    place = name.removeprefix("delta/")
    if old is None:
        return "lacks", f"it lacks '{place}'"
    if new is None:
        return "holds", f"it holds '{place}', which this config has not"
    if _rank(name, {name: old}, {name: new}):
        ranks = f"it has rank {old['shape'][-1]}, this config asks {new['shape'][-1]}"
        return "rank", f"{ranks} at '{place.removesuffix('/A')}'"
    return "form", f"it has {_text(old)}, this config asks {_text(new)} at '{place}'"


def _text(form: Form) -> str:
    return f"{form['dtype']}{form['shape']}"
