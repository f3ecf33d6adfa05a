"""Which training steps are timed against each other? Of any adapter, on one base and one batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lorax
from experiments.benchmarks._floor import floor_loss, loss_of
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig

MODEL = LlamaConfig(
    vocab_size=50_257, dim=768, layers=4, heads=12, kv_heads=12, hidden_dim=2048,
    max_length=128, tied=True,
)  # fmt: skip
BATCH, LENGTH, RANK = 4, 128, 8


class Programs:
    """The programs to compare, on one base and one batch."""

    def __init__(self, model: LlamaConfig = MODEL) -> None:
        self.model = Llama(model)
        self.tokens = jnp.asarray(
            np.random.default_rng(0).integers(0, model.vocab_size, (BATCH, LENGTH)), jnp.int32
        )
        self.base = jax.jit(self.model.init)(jax.random.key(0), self.tokens)
        self.adapter = lorax.LoRA(rank=RANK, alpha=16.0, where="all-linear")
        self.full = lorax.Full()
        self.tx = optax.adamw(1e-4)
        self.shift = jnp.zeros((BATCH, LENGTH, model.dim))

    def start(self, adapter: lorax.Adapter) -> tuple[Any, Any]:
        """A first delta and its optimizer state."""
        init = lorax.adapt(self.model.apply, adapter).init
        delta = jax.jit(init)(jax.random.key(1), self.base, self.tokens)
        return delta, self.tx.init(delta)

    def step(
        self, adapter: lorax.Adapter, engine: str = "factored", on_fallback: str = "error"
    ) -> Callable[..., Any]:
        """(state, base, tokens) -> (state, loss), as one function to jit with the state donated."""
        apply = lorax.adapt(self.model.apply, adapter, engine=engine, on_fallback=on_fallback)

        def step(state: Any, base: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
            delta, opt_state = state
            loss = lambda delta: loss_of(apply(base, delta, tokens), tokens)
            value, grads = jax.value_and_grad(loss)(delta)
            updates, opt_state = self.tx.update(grads, opt_state, delta)
            return (optax.apply_updates(delta, updates), opt_state), value

        return step

    def floor(self) -> Callable[..., Any]:
        """Forward and backward of the bare model, down to the first layer's input."""
        return jax.value_and_grad(floor_loss(self.model.apply))

    def bare_forward(self) -> Callable[..., Any]:
        """The bare model's loss, as a new function that no cache knows."""
        return lambda base, tokens: loss_of(self.model.apply(base, tokens), tokens)

    def adapted_forward(self) -> Callable[..., Any]:
        """The same of the adapted model."""
        apply = lorax.adapt(self.model.apply, self.adapter, on_fallback="error")
        return lambda base, delta, tokens: loss_of(apply(base, delta, tokens), tokens)


def stepper(compiled: Any, state: Any, base: Any, tokens: jax.Array) -> Callable[[], Any]:
    """One step after the other of a compiled program, each from where the one before ended."""

    def run() -> Any:
        nonlocal state
        state, loss = compiled(state, base, tokens)
        return loss

    return run
