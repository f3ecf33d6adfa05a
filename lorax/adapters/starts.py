"""Which arrays does a delta hold that belong to no leaf: their shapes, their first values, a check.

Of adapters whose arrays stand beside the parameters. Such a delta maps names to arrays.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core import paths
from lorax.core.errors import LoraxError, LoraxTypeError


@dataclasses.dataclass(frozen=True)
class Start:
    """One array before training: constant + normal · N(0, 1) + uniform · U(-1, 1).

    Attributes:
      shape: of the array.
      normal: standard deviation.
      uniform: largest absolute value.
      constant: what is there without chance.
    """

    shape: tuple[int, ...]
    normal: float = 0.0
    uniform: float = 0.0
    constant: float = 0.0

    def draw(self, key: jax.Array, dtype: Any) -> jax.Array:
        """The array; `key` is of this array alone."""
        start = jnp.full(self.shape, self.constant, dtype)
        if self.normal:
            start += self.normal * jax.random.normal(key, self.shape, dtype)
        if self.uniform:
            start += jax.random.uniform(key, self.shape, dtype, -self.uniform, self.uniform)
        return start


Starts = Mapping[str, Start]


def draw(starts: Starts, key: jax.Array, dtype: Any, prefix: str = "additions") -> dict[str, Any]:
    """The arrays by name; each depends on `key` and on its own name after `prefix` only."""
    paths.check_key(key)
    return {
        name: start.draw(paths.key_for(key, f"{prefix}/{name}"), dtype)
        for name, start in starts.items()
    }


def check_arrays(delta: Any, starts: Starts, wanted_by: str, place: str = "") -> None:
    """Raises LoraxError unless `delta` maps the names of `starts` to arrays of their shapes.

    Args:
      delta: what is checked.
      starts: what is expected.
      wanted_by: the adapter, for the message.
      place: of `delta` in a larger one, such as " at 'params/out/kernel'".
    """
    if not isinstance(delta, Mapping) or set(delta) != set(starts):
        is_one = isinstance(delta, Mapping)
        got = f"has {', '.join(map(str, delta))}" if is_one else f"is a {type(delta).__name__}"
        raise LoraxTypeError(
            f"delta{place} {got}: expected a mapping of {', '.join(starts)}, as {wanted_by}.init "
            "returns it; was it saved with another config?"
        )
    for name, start in starts.items():
        shape = getattr(delta[name], "shape", None)
        if shape != start.shape:
            got = f"is a {type(delta[name]).__name__}" if shape is None else f"has shape {shape}"
            raise LoraxError(
                f"'{name}' of the delta{place} {got} but this {wanted_by} needs {start.shape}: it "
                "was saved with another config or for another model; load its adapter.json"
            )


def count(name: str, value: Any, least: int = 1) -> int:
    """`value` of the field `name` as a plain integer of at least `least`.

    Raises:
      LoraxTypeError, LoraxError: it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise LoraxTypeError(f"{name} is {value!r}: expected an integer, such as {name}=8")
    if number < least:
        raise LoraxError(f"{name} is {number}: expected at least {least}")
    return number


def wide(leaf: Any) -> Any:
    """The dtype of an array that learns beside `leaf`: float32 or wider."""
    return jnp.promote_types(leaf.dtype, jnp.float32)
