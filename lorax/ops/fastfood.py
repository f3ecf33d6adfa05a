"""What is P θ where P = H G Π H B, and never a matrix? O(L log L) time, O(L) memory or less.

B are signs, Π a permutation, G normal numbers, H the Walsh-Hadamard matrix of L = 2^k ≥ size, and θ
is padded with zeros to L numbers. Of the first transform only 2^⌈log2 dim⌉ numbers differ: the rest
repeat them, since the bits of a place above those of θ meet zeros alone. So it is taken at that
length, and Π picks from a short table. One long transform is left of the two, and the pick's
transpose is a sum of equal shares, found through the inverse of Π.

In blocks (Le et al.'s own form) P is a stack of such products of a length that is chosen, and the
numbers of each are drawn where they are used: no array of the size of P's rows but the result.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from lorax.ops.hadamard import hadamard
from lorax.ops.permutation import Permutation, draw_permutation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fastfood:
    """One transform over all rows, its numbers held.

    Attributes:
      signs: (table,) ±1, B; the table has 2^⌈log2 dim⌉ entries.
      picked: (L,) int32, which entry of the table stands at each place after Π.
      places: (L,) int32, where each entry of the table went, (table, L / table) flattened.
      gaussian: (L,) G, normalised.
      shape: (size, dim); static.
    """

    signs: jax.Array
    picked: jax.Array
    places: jax.Array
    gaussian: jax.Array
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def project(self, theta: jax.Array) -> jax.Array:
        """P θ: (dim,) to (size,)."""
        table = _table(self.signs, theta)
        spread = _pick(table, self.picked, self.places)
        return hadamard(spread * self.gaussian)[: self.shape[0]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """A stack of transforms of one length, drawn anew wherever P is used.

    Attributes:
      key: of all draws but the signs.
      signs: (table,) ±1, shared by all stacks of one θ.
      scale: of the entries of P.
      block: length of each, at least that of the table; static.
      shape: (size, dim); static.
    """

    key: jax.Array
    signs: jax.Array
    scale: jax.Array
    block: int = dataclasses.field(metadata={"static": True})
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def project(self, theta: jax.Array) -> jax.Array:
        """P θ: (dim,) to (size,)."""
        table = _table(self.signs, theta)
        return _stacked((self.block, self.shape[0]), table, self.key, self.scale)


def table_size(dim: int) -> int:
    """2^⌈log2 dim⌉, how many numbers of the first transform differ."""
    return 1 << (dim - 1).bit_length()


@functools.partial(jax.jit, static_argnums=(1, 2))
def draw_fastfood(key: jax.Array, dim: int, size: int) -> Fastfood:
    """One transform of length 2^⌈log2 max(size, dim)⌉.

    The columns have norms of about 1, 0.998 to 1.002 for 2·10^5 rows. Entry j of θ meets a column
    that depends on `key`, the length and j alone, so a P of fewer columns is the beginning of this
    one; the length is that of `size` as long as `dim` is no larger.

    Source: Le, Sarlos and Smola, "Fastfood", 2013, arXiv:1408.3060; normalised as Li et al., 2018,
    arXiv:1804.08838, by √(L ΣG²) and √(size/L).
    """
    table = table_size(dim)
    length = max(table_size(size), table)
    of_signs, of_gaussian, of_places = jax.random.split(key, 3)
    permutation = draw_permutation(of_places, length)
    index = jnp.arange(length, dtype=jnp.int32)
    gaussian = jax.random.normal(of_gaussian, (length,), jnp.float32)
    norm = jnp.sqrt(jnp.sum(gaussian**2)) * math.sqrt(size)
    return Fastfood(
        signs=draw_signs(of_signs, dim),
        picked=permutation.places(index) & (table - 1),
        places=_inverse(permutation, table, length),
        gaussian=gaussian / norm,
        shape=(size, dim),
    )


@functools.partial(jax.jit, static_argnums=1)
def draw_signs(key: jax.Array, dim: int) -> jax.Array:
    """(table,) ±1; entry j depends on `key` and j alone."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(table_size(dim)))
    return jax.vmap(lambda key: jax.random.rademacher(key, (), jnp.float32))(keys)


def _table(signs: jax.Array, theta: jax.Array) -> jax.Array:
    return hadamard(jnp.pad(theta, (0, signs.shape[0] - theta.shape[0])) * signs)


def _inverse(permutation: Permutation, table: int, length: int) -> jax.Array:
    """Where each entry of the table goes, once for each of its length / table copies."""
    copies = jnp.arange(length // table, dtype=jnp.int32)[None, :] * table
    return permutation.inverse((jnp.arange(table, dtype=jnp.int32)[:, None] + copies).ravel())


@jax.custom_vjp
def _pick(table: jax.Array, picked: jax.Array, places: jax.Array) -> jax.Array:
    return table.at[picked].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _pick_forward(
    table: jax.Array, picked: jax.Array, places: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return _pick(table, picked, places), (table, picked, places)


def _pick_backward(
    kept: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, None, None]:
    table, picked, places = kept
    size = table.shape[0]
    if jax.default_backend() == "cpu":
        # the table stays in the cache: adding to it in order of the places is 2.5 times as fast as
        # a gather from all over the cotangent, which other devices do in parallel
        mode = "promise_in_bounds"
        return jax.ops.segment_sum(cotangent, picked, num_segments=size, mode=mode), None, None
    return cotangent[places].reshape(size, -1).sum(axis=1), None, None


_pick.defvjp(_pick_forward, _pick_backward)


def _block(key: jax.Array, block: int, table: int) -> tuple[jax.Array, Permutation]:
    """G of one block, of unit norm, and its Π."""
    of_gaussian, of_places = jax.random.split(key)
    gaussian = jax.random.normal(of_gaussian, (block,), jnp.float32)
    return gaussian / jnp.linalg.norm(gaussian), draw_permutation(of_places, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stacked(
    sizes: tuple[int, int], table: jax.Array, key: jax.Array, scale: jax.Array
) -> jax.Array:
    block, size = sizes

    def one(number: jax.Array) -> jax.Array:
        gaussian, permutation = _block(jax.random.fold_in(key, number), block, table.shape[0])
        picked = permutation.places(jnp.arange(block, dtype=jnp.int32)) & (table.shape[0] - 1)
        return hadamard(table[picked] * (gaussian * scale))

    return lax.map(one, jnp.arange(-(-size // block))).reshape(-1)[:size]


def _stacked_forward(
    sizes: tuple[int, int], table: jax.Array, key: jax.Array, scale: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return _stacked(sizes, table, key, scale), (table, key, scale)


def _stacked_backward(
    sizes: tuple[int, int], kept: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, None, None]:
    (block, size), (table, key, scale) = sizes, kept
    blocks = -(-size // block)

    def one(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        gaussian, permutation = _block(jax.random.fold_in(key, number), block, table.shape[0])
        # the last block reaches beyond the rows: its slice is moved back, and what is not its own
        # is masked, so that no padded copy of the cotangent is made
        start = jnp.minimum(number * block, max(size - block, 0))
        part = lax.dynamic_slice(cotangent, (start,), (min(block, size),))
        part = jnp.pad(part, (0, block - min(block, size)))
        part = jnp.roll(part, start - number * block)
        part = jnp.where(jnp.arange(block) + number * block < size, part, 0)
        weighted = hadamard(part) * (gaussian * scale)
        places = _inverse(permutation, table.shape[0], block)
        return total + weighted[places].reshape(table.shape[0], -1).sum(axis=1), None

    total, _ = lax.scan(one, jnp.zeros_like(table), jnp.arange(blocks))
    return total, None, None


_stacked.defvjp(_stacked_forward, _stacked_backward)
