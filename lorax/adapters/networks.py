"""Which small networks make virtual tokens? Dense layers and a bidirectional LSTM, as torch's.

Their arrays lie in one mapping under names such as "first/kernel". Kernels are (in, out). First
values are those of torch, uniform in ±1/sqrt(fan-in), biases too, so that a run is like PEFT's.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lorax.adapters.starts import Start

Arrays = Mapping[str, jax.Array]

LSTM_LAYERS = 2
_DIRECTIONS = ("forward", "backward")


def dense_starts(name: str, fan_in: int, fan_out: int) -> dict[str, Start]:
    """`<name>/kernel` (in, out) and `<name>/bias` (out,)."""
    bound = 1 / math.sqrt(fan_in)
    return {
        f"{name}/kernel": Start((fan_in, fan_out), uniform=bound),
        f"{name}/bias": Start((fan_out,), uniform=bound),
    }


def dense(arrays: Arrays, name: str, x: jax.Array) -> jax.Array:
    """x W + b, (..., in) to (..., out)."""
    return _product(x, arrays[f"{name}/kernel"]) + arrays[f"{name}/bias"]


def lstm_starts(width: int, hidden: int) -> dict[str, Start]:
    """Of each layer and direction `input` (in, 4 h) and `hidden` (h, 4 h), kernel and bias.

    Two biases that are only ever added, as torch has them: so counts agree.
    """
    bound = 1 / math.sqrt(hidden)
    starts = {}
    for layer in range(LSTM_LAYERS):
        fans = {"input": width if layer == 0 else 2 * hidden, "hidden": hidden}
        for direction in _DIRECTIONS:
            for part, fan_in in fans.items():
                name = f"lstm/{layer}/{direction}/{part}"
                starts[f"{name}/kernel"] = Start((fan_in, 4 * hidden), uniform=bound)
                starts[f"{name}/bias"] = Start((4 * hidden,), uniform=bound)
    return starts


def lstm(arrays: Arrays, x: jax.Array) -> jax.Array:
    """(n, width) to (n, 2 h): two layers, each read forwards and backwards.

    Gates lie in torch's order: input, forget, cell, output. Source: Hochreiter and Schmidhuber,
    1997, with the forget gate of Gers et al., 2000.
    """
    for layer in range(LSTM_LAYERS):
        both = [_read(arrays, f"lstm/{layer}/{direction}", x) for direction in _DIRECTIONS]
        x = jnp.concatenate(both, axis=-1)
    return x


def _read(arrays: Arrays, name: str, x: jax.Array) -> jax.Array:
    """The states (n, h) of one direction; those of "backward" begin at the last row."""
    inputs = dense(arrays, f"{name}/input", x)
    zero = jnp.zeros(inputs.shape[-1] // 4, inputs.dtype)

    def step(carry: Any, row: jax.Array) -> Any:
        state, cell = carry
        gates = jnp.split(row + dense(arrays, f"{name}/hidden", state), 4)
        inward, forget, outward = (jax.nn.sigmoid(gates[i]) for i in (0, 1, 3))
        cell = forget * cell + inward * jnp.tanh(gates[2])
        state = outward * jnp.tanh(cell)
        return (state, cell), state

    return lax.scan(step, (zero, zero), inputs, reverse=name.endswith("backward"))[1]


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # a few rows: full precision costs nothing, and numbers are the same on every device
    return jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST)
