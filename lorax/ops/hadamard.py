"""What is H x, with H the Walsh-Hadamard matrix of any power of two, without forming H?

H of n·m is the Kronecker product of H of n and H of m, so x is read as an array with one small axis
a factor, and each axis is multiplied by a small dense matrix. Every product takes the last axis and
puts it in front: after all of them each axis is where it began, and none was ever transposed.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lorax.core.errors import LoraxError

LARGEST = 2**29
"""The longest axis that is transformed."""

FACTORS = {"gpu": 256, "tpu": 128}
"""The small matrices off the CPU: 128 is the width of a TPU's multiplier, and a GPU is bound by its
memory, so by the number of products."""

CPU_FACTORS = {2**18: 16, LARGEST: 32}
"""The small matrices on CPUs by the longest axis that they are for, as measured: while x is in the
caches smaller products win, beyond them fewer."""


def hadamard(x: jax.Array, *, factor: int | None = None) -> jax.Array:
    """H x along the last axis; H is symmetric, of entries ±1, and H H = L.

    The order is the natural one (Sylvester's): the transform of [1, 0, 1, 0, 0, 1, 1, 0] is
    [4, 2, 0, -2, 0, 2, 0, 2]. The cost is L · factor · log(L) / log(factor) multiplications in
    products that run at the speed of matrices, and two arrays of the size of x. The derivative is H
    itself, by reverse mode (`jax.grad`, `jax.vjp`) and not by forward mode.

    Args:
      x: (..., L), floating; L a power of two up to 2^29.
      factor: size of the small matrices, a power of two; None for what is fast on this device.

    Raises:
      LoraxError: a length or a factor that is no such power of two.

    Source: Fino and Algazi, "Unified matrix treatment of the fast Walsh-Hadamard transform", 1976.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise LoraxError(f"x has dtype {x.dtype}: expected floating-point numbers; convert it")
    length = x.shape[-1] if x.ndim else 0
    if not _is_power(length) or length > LARGEST:
        raise LoraxError(
            f"the last axis has length {length}: expected a power of two up to 2^29; pad with zeros"
        )
    factor = _best(length) if factor is None else factor
    if not _is_power(factor) or factor < 2:
        raise LoraxError(f"factor is {factor}: expected a power of two, 32 say")
    return _transform(factor, x)


def _best(length: int) -> int:
    on_cpu = next(factor for most, factor in CPU_FACTORS.items() if length <= most)
    return FACTORS.get(jax.default_backend(), on_cpu)


def matrix(size: int) -> np.ndarray:
    """H itself, (size, size) float32; for small sizes."""
    found = np.ones((1, 1), np.float32)
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _transform(factor: int, x: jax.Array) -> jax.Array:
    return _many(factor)(x)


def _forward(factor: int, x: jax.Array) -> tuple[jax.Array, None]:
    return _transform(factor, x), None


def _backward(factor: int, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    # the transpose that JAX derives rotates the other way, and is three times as slow on CPUs
    return (_transform(factor, cotangent),)


_transform.defvjp(_forward, _backward)


@functools.cache
def _many(factor: int) -> jax.custom_batching.custom_vmap:
    """The transform that stays itself under `vmap`: left to JAX, each product is transposed."""
    transform = jax.custom_batching.custom_vmap(functools.partial(_rotated, factor))
    transform.def_vmap(lambda size, batched, x: (_many(factor)(x), batched[0]))
    return transform


def _rotated(factor: int, x: jax.Array) -> jax.Array:
    """One product a small axis. The axes of the batch turn with them, to the end."""
    length = x.shape[-1]
    y = x.reshape(-1)
    for size in _sizes(length, factor):
        small = jnp.asarray(matrix(size), x.dtype)
        y = lax.dot_general(
            small, y.reshape(-1, size), (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
        ).reshape(-1)
    batch = math.prod(x.shape[:-1])
    return (y if batch == 1 else y.reshape(length, batch).T).reshape(x.shape)


def _sizes(length: int, factor: int) -> list[int]:
    """Powers of two up to `factor` whose product is `length`."""
    bits, each = length.bit_length() - 1, factor.bit_length() - 1
    return [factor] * (bits // each) + [2 ** (bits % each)] * bool(bits % each)


def _is_power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
