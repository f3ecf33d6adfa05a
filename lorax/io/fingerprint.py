"""Is this the base that the run began with? A short text made of its every bit.

Each element becomes a number of its bits and its place, and a leaf the sum of these, modulo 2^32:
sums of integers do not depend on their order, so neither a sharding nor the number of processes
matters, and the base is read where it lies. Names, shapes and dtypes join in at the end.
"""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.packed import is_packed
from lorax.core.paths import flatten, path_of

_SEEDS = (np.uint32(0x9E3779B9), np.uint32(0x7F4A7C15))  # of two independent sums: 64 bits a leaf
_AT_ONCE = 1 << 24  # elements: a CPU takes 4 bytes each beside the leaf


def fingerprint(base: Any) -> str:
    """16 hexadecimal digits of the paths, shapes, dtypes and contents of the arrays in `base`.

    With several processes all of them call it. The order of the leaves does not count, nor do
    leaves that are no arrays.

    Args:
      base: any pytree, on the host or on devices, sharded or not, quantised or not.

    Raises:
      LoraxError: two leaves share a path.
    """
    leaves = _arrays(base)
    sums = jax.device_get([_sums(leaf) for leaf in leaves.values()])
    lines = sorted(
        f"{path} {leaf.dtype} {tuple(leaf.shape)} {[sum(map(int, parts)) % 2**32 for parts in own]}"
        for (path, leaf), own in zip(leaves.items(), sums, strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _arrays(base: Any) -> dict[str, Any]:
    """The arrays by path; of a quantised leaf they are its codes and its scales."""
    found: dict[str, Any] = {}
    for path, leaf in flatten(base).items():
        below = jax.tree_util.tree_flatten_with_path(leaf)[0] if is_packed(leaf) else [((), leaf)]
        found |= {"/".join(filter(None, (path, path_of(keys)))): part for keys, part in below}
    return found


def _sums(leaf: Any) -> list[list[jax.Array]]:
    """For each seed the sums over parts of the leaf, of rows of its first axis."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    elif not isinstance(leaf, jax.Array) and leaf.dtype.itemsize > 4:  # JAX would cut it to 32 bits
        leaf = np.ascontiguousarray(leaf)[..., None].view(np.uint32)
    leaf = jnp.asarray(leaf)
    length = leaf.shape[0] if leaf.ndim else 1
    rows = max(1, length * _AT_ONCE // max(1, leaf.size))
    if rows >= length or len(leaf.devices()) > 1:
        return [[_sum(leaf, seed)] for seed in _SEEDS]
    starts = range(0, length, rows)
    return [[_sum(leaf, seed, i, min(rows, length - i)) for i in starts] for seed in _SEEDS]


@functools.partial(jax.jit, static_argnames="rows")
def _sum(leaf: jax.Array, seed: np.uint32, first: int = 0, rows: int | None = None) -> jax.Array:
    """A uint32 of `rows` rows from `first` on, or of the whole leaf."""
    if rows is not None:
        leaf = jax.lax.dynamic_slice_in_dim(leaf, first, rows)
    words = _words(leaf)
    place = jnp.full(words.shape, seed)
    for axis in range(words.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = _mix(place ^ (index + jnp.uint32(first) if axis == 0 else index))
    return jnp.sum(_mix(words ^ place), dtype=jnp.uint32)


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of each element as uint32; several of them along a new last axis if it is wide."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], -1)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    limits = jnp.finfo if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.iinfo
    unsigned = jnp.dtype(f"uint{min(limits(leaf.dtype).bits, 32)}")
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A one-to-one map that spreads every bit over all: the end of MurmurHash3 (A. Appleby)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
