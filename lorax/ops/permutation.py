"""How is a long axis permuted at random, without a list of where everything goes?

A Feistel network: the bits of an index are cut in two halves, and each is changed in turn by a hash
of the other. Every round can be undone, so place and inverse are a few integer operations an index.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError

ROUNDS = 8
"""Changes of one half by the other; four make it a good shuffle, and each costs little."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Permutation:
    """A bijection of 0 ... 2^bits - 1.

    Attributes:
      keys: (ROUNDS,) uint32, which one it is.
      bits: at most 31; static.
    """

    keys: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})

    def places(self, index: jax.Array) -> jax.Array:
        """Where the indices go; (...) int32 like `index`."""
        return self._network(index, range(ROUNDS))

    def inverse(self, index: jax.Array) -> jax.Array:
        """Which indices go there: `inverse(places(i))` is i."""
        return self._network(index, reversed(range(ROUNDS)))

    def _network(self, index: jax.Array, rounds: Iterable[int]) -> jax.Array:
        index = jnp.asarray(index).astype(jnp.uint32)
        low_bits = self.bits // 2
        low_mask = jnp.uint32(2**low_bits - 1)
        high_mask = jnp.uint32(2 ** (self.bits - low_bits) - 1)
        high, low = index >> low_bits, index & low_mask
        for number in rounds:
            if number % 2:
                high = high ^ (_hash(low, self.keys[number]) & high_mask)
            else:
                low = low ^ (_hash(high, self.keys[number]) & low_mask)
        return ((high << low_bits) | low).astype(jnp.int32)


def draw_permutation(key: jax.Array, length: int) -> Permutation:
    """A random permutation of `length` places.

    Args:
      key: of the draw.
      length: a power of two, up to 2^31.

    Raises:
      LoraxError: another length.

    Source: Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom
    functions", 1988.
    """
    if length < 1 or length & (length - 1) or length > 2**31:
        raise LoraxError(f"length is {length}: expected a power of two up to 2^31")
    return Permutation(jax.random.bits(key, (ROUNDS,), jnp.uint32), length.bit_length() - 1)


@jax.custom_vjp
def permute(x: jax.Array, permutation: Permutation) -> jax.Array:
    """x along its only axis, in another order: entry i of the result is x[places(i)].

    Its derivative gathers through the inverse, where JAX's own would scatter, which is slow and on
    GPUs not deterministic.

    Args:
      x: (2^bits,).
      permutation: of as many places.
    """
    return x[permutation.places(jnp.arange(x.shape[0]))]


def _permute_forward(x: jax.Array, permutation: Permutation) -> tuple[jax.Array, Permutation]:
    return permute(x, permutation), permutation


def _permute_backward(permutation: Permutation, cotangent: jax.Array) -> tuple[jax.Array, None]:
    return cotangent[permutation.inverse(jnp.arange(cotangent.shape[0]))], None


permute.defvjp(_permute_forward, _permute_backward)


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    """Bits of which each depends on all of x and of the key: the finaliser of MurmurHash3."""
    x = (x + key) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
