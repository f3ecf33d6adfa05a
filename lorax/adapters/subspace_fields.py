"""Which values may the fields of a Subspace have? Each check gives the value back plainly."""

import operator
from typing import Any

from lorax.core.errors import LoraxError, LoraxTypeError


def dim(value: Any) -> int:
    """A positive integer."""
    number = _integer("dim", value, "dim=750")
    if number < 1:
        raise LoraxError(f"dim is {number}: expected at least 1, the numbers that learn")
    return number


def seed(value: Any) -> int:
    """An integer from 0 to 2^31 - 1."""
    number = _integer("seed", value, "seed=0")
    if not 0 <= number < 2**31:
        raise LoraxError(f"seed is {number}: expected 0 to 2147483647")
    return number


def block(value: Any, projection: str, dim: int) -> int:
    """0, or for Fastfood a power of two that holds θ."""
    number = _integer("block", value, "block=0 or block=1048576")
    if not number:
        return 0
    if projection != "fastfood":
        raise LoraxError(
            f"block is {number} with projection='{projection}': expected 0; it is of fastfood"
        )
    if number < dim or number & (number - 1):
        least = 1 << (dim - 1).bit_length()
        raise LoraxError(
            f"block is {number} with dim={dim}: expected 0 or a power of two of at least {least}"
        )
    return number


def _integer(name: str, value: Any, example: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise LoraxTypeError(f"{name} is {value!r}: expected an integer, such as {example}")
    return number
