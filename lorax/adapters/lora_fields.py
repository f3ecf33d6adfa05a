"""Which values may the fields of a LoRA have? Each check gives the value back in its plain form."""

import math
import operator
from typing import Any

import jax.numpy as jnp

from lorax.core._jax import is_traced
from lorax.core.errors import LoraxError, LoraxTypeError


def rank(value: Any) -> int:
    """A positive integer."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise LoraxTypeError(f"rank is {value!r}: expected a positive integer, such as rank=8")
    if number < 1:
        raise LoraxError(f"rank is {value}: expected at least 1; to adapt nothing, use no adapter")
    return number


def alpha(value: Any) -> Any:
    """A positive finite number, or a traced scalar."""
    wanted = "expected a positive finite number, such as alpha=16.0 (the scale is alpha / rank)"
    if jnp.ndim(value) == 0 and is_traced(value):
        return value
    if isinstance(value, bool | str) or jnp.ndim(value) or not hasattr(value, "__float__"):
        raise LoraxTypeError(f"alpha is {value!r}: {wanted}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number <= 0:
        raise LoraxError(f"alpha is {number}: {wanted}")
    return number


def init_scale(value: Any, decomposes: bool) -> float:
    """A positive finite number; 1 where A and B are counted from a decomposition of W0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LoraxTypeError(f"init_scale is {value!r}: expected a number, such as init_scale=1.0")
    if not (math.isfinite(value) and value > 0):
        raise LoraxError(f"init_scale is {value}: expected a positive finite number")
    if decomposes and value != 1:
        raise LoraxError(
            f"init_scale is {value} of a decomposition, which has no random numbers: expected 1.0; "
            "use initializer='kaiming' or 'gaussian'"
        )
    return float(value)


def dropout(value: Any) -> float:
    """A rate in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise LoraxError(f"dropout is {value!r}: expected a rate in [0, 1), such as dropout=0.1")
    return float(value)


def dtype(value: Any) -> str | None:
    """The name of a floating-point dtype, or None."""
    try:
        known = None if value is None else jnp.dtype(value)
    except TypeError:
        known = jnp.dtype(bool)
    if known is not None and not jnp.issubdtype(known, jnp.floating):
        raise LoraxTypeError(f"dtype is {value!r}: expected a floating-point dtype, or None")
    return None if known is None else known.name
