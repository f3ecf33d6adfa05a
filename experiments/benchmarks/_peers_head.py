"""What does the loss cost, from hidden states to their gradient, beside two products?

Benchmark 2: cross-entropy under a frozen table of the vocabulary. Ours goes by blocks; the others
have all logits at once. The floor is the product with the table and the one with its transpose.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import _measure as measure
from lorax.models.layers import Head
from lorax.train.head_loss import chunked_costs

GATES = {"float32": 1e-5, "bfloat16": 2e-2}
"""How far gradients may be from optax's, over the largest, by dtype."""


def compared(
    tokens: int, dim: int, vocab: int, chunk: int, dtype: str, rounds: int
) -> dict[str, Any]:
    """Times over the floor and over optax, and temporary bytes over those of all logits in float32.

    Raises:
      RuntimeError: gradients that differ.
    """
    draw = np.random.default_rng(0)
    hidden = jnp.asarray(draw.standard_normal((tokens, dim), np.float32), dtype)
    table = jnp.asarray(0.02 * draw.standard_normal((vocab, dim), np.float32), dtype)
    targets = jnp.asarray(draw.integers(0, vocab, tokens), jnp.int32)
    arguments = hidden, table, targets
    compiled = {
        name: jax.jit(program).lower(*arguments).compile()
        for name, program in programs(chunk).items()
    }
    worst = _gate(compiled, arguments, GATES[dtype])
    runs = {name: _run(program, arguments) for name, program in compiled.items()}
    measure.interleaved(runs, 1)
    seconds = measure.interleaved(runs, rounds)
    logits = 4 * tokens * vocab
    mib = {name: measure.memory(program)["temp"] for name, program in compiled.items()}
    return {
        "tokens": tokens, "dim": dim, "vocab": vocab, "chunk": chunk, "dtype": dtype,
        "largest_difference_of_gradients": worst,
        "over_floor": {n: measure.ratio(seconds, n, "floor") for n in runs if n != "floor"},
        "over_optax": {"ours": measure.ratio(seconds, "ours", "optax")},
        "temp_over_logits": {name: round(x * 2**20 / logits, 4) for name, x in mib.items()},
        "seconds": {name: round(statistics.median(v), 4) for name, v in seconds.items()},
    }  # fmt: skip


def programs(chunk: int) -> dict[str, Callable[..., Any]]:
    """`(hidden (T, D), table (V, D), targets (T,)) -> (loss, gradient by hidden)`, by name."""

    def ours(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        mask = jnp.ones(targets.shape, bool)
        head = Head(table, 0, "embed/embedding")
        found = chunked_costs(hidden, head, targets, mask, chunk, frozen=True)
        return found.loss / found.counted

    def integers(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        logits = _logits(hidden, table).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def one_hot(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        shares = jax.nn.log_softmax(_logits(hidden, table).astype(jnp.float32))
        return -(jax.nn.one_hot(targets, len(table)) * shares).sum(-1).mean()

    def floor(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> Any:
        logits = _logits(hidden, table)
        return targets[0], logits @ table

    losses = {"ours": ours, "optax": integers, "one_hot": one_hot}
    return {"floor": floor} | {name: jax.value_and_grad(f) for name, f in losses.items()}


def _logits(hidden: jax.Array, table: jax.Array) -> jax.Array:
    return jax.lax.dot_general(hidden, table, (((1,), (1,)), ((), ())))


def _gate(compiled: dict[str, Any], arguments: Any, tolerance: float) -> float:
    gradients = {
        name: np.asarray(program(*arguments)[1], np.float64)
        for name, program in compiled.items()
        if name != "floor"
    }
    wanted = gradients["optax"]
    errors = {
        name: float(np.abs(found - wanted).max() / np.abs(wanted).max())
        for name, found in gradients.items()
    }
    if not all(error <= tolerance for error in errors.values()):
        raise RuntimeError(f"gradients differ by more than {tolerance}: {errors}")
    return float(f"{max(errors.values()):.1e}")


def _run(program: Any, arguments: Any) -> Callable[[], Any]:
    return lambda: program(*arguments)
