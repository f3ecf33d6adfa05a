"""Which programs of JAX are compared? One training step of each, on the same start.

A program is `step(state, base, batch) -> (state, loss)`, with a first state.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

import lorax
from experiments.benchmarks._floor import floor_loss
from experiments.benchmarks._peers_work import Work, cross_entropy
from lorax.train.losses import next_token_loss

KERNEL = "/kernel"


class Program(NamedTuple):
    """What is compiled, and what its first step is given."""

    step: Callable[..., Any]
    state: Any


def _ours(work: Work, base: Any, chunk: int = 0) -> Program:
    return _library(work, base, work.adapter, chunk)


def _full(work: Work, base: Any, chunk: int = 0) -> Program:
    return _library(work, base, lorax.Full(), chunk)


def _library(work: Work, base: Any, adapter: lorax.Adapter, chunk: int) -> Program:
    loss = next_token_loss(work.model.apply, adapter, "error", chunk=chunk)
    key = jax.random.key(0)
    value = lambda delta, base, batch: loss(delta, base, batch, key)[0]
    return _trained(work, value, _first(work, adapter, base))


def _floor(work: Work, base: Any) -> Program:
    """The bare model, forward and backward down to the first layer's input; no update."""
    apply = lambda base, batch: work.model.apply(base, batch.inputs)
    both = jax.value_and_grad(floor_loss(apply, cross_entropy))

    def step(shift: jax.Array, base: Any, batch: Any) -> Any:
        value, slope = both(shift, base, batch)
        return slope, value  # as large as the state, so that it can be donated

    return Program(step, jnp.zeros((work.batch, work.length, work.dim), work.dtype))


def _naive(work: Work, base: Any) -> Program:
    """x W + s (x A) B written into every Dense, on inputs (batch, tokens, features)."""

    def value(delta: Any, base: Any, batch: Any) -> jax.Array:
        def add(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            name = "/".join(("params", *context.module.path)) + KERNEL
            if not isinstance(context.module, nn.Dense) or name not in delta:
                return out
            a, b = (jnp.asarray(x, out.dtype) for x in delta[name])
            scale = work.alpha / work.rank
            return out + scale * (args[0] @ a) @ b

        with nn.intercept_methods(add):
            return cross_entropy(work.model.apply(base, batch.inputs), batch)

    return _trained(work, value, _pairs(_first(work, work.adapter, base)))


def _qwix(work: Work, base: Any) -> Program:
    """qwix's LoRA on the same Flax model; its factors have the dtype of the base."""
    import qwix

    pairs = _pairs(_first(work, work.adapter, base))
    modules = [path.removeprefix("params/").removesuffix(KERNEL) for path in pairs]
    provider = qwix.LoraProvider(
        module_path="|".join(map(re.escape, modules)), rank=work.rank, alpha=work.alpha
    )
    model = qwix.apply_lora_to_model(work.model, provider)
    cast = lambda x: x.astype(work.dtype)
    factors = {
        path + end: jax.eval_shape(cast, x) if isinstance(x, jax.ShapeDtypeStruct) else cast(x)
        for path, pair in pairs.items()
        for end, x in zip(("_lora_a", "_lora_b"), pair, strict=True)
    }

    def value(factors: Any, base: Any, batch: Any) -> jax.Array:
        leaves = traverse_util.flatten_dict(base, sep="/") | factors
        params = traverse_util.unflatten_dict(leaves, sep="/")
        return cross_entropy(model.apply(params, batch.inputs), batch)

    return _trained(work, value, factors)


def _pairs(delta: Any) -> dict[str, tuple[Any, Any]]:
    return {path: (factors.A, factors.B) for path, factors in delta.items()}


def _first(work: Work, adapter: lorax.Adapter, base: Any) -> Any:
    abstract = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(base))
    run = (lambda f, *args: jax.eval_shape(f, *args)) if abstract else (lambda f, *args: f(*args))
    return run(lambda base: work.start(adapter, base), base)


def _trained(work: Work, loss: Callable[..., Any], delta: Any) -> Program:
    """A step of `loss(delta, base, batch)` by the optimizer of all programs."""
    abstract = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(delta))
    start = lambda delta: (jax.tree.map(jnp.copy, delta), work.tx.init(delta))

    def step(state: Any, base: Any, batch: Any) -> tuple[Any, jax.Array]:
        delta, opt_state = state
        value, grads = jax.value_and_grad(loss)(delta, base, batch)
        updates, opt_state = work.tx.update(grads, opt_state, delta)
        return (optax.apply_updates(delta, updates), opt_state), value

    return Program(step, jax.eval_shape(start, delta) if abstract else start(delta))


ALL: dict[str, Callable[[Work, Any], Program]] = {
    "floor": _floor,
    "ours": _ours,
    "ours_blocks": lambda work, base: _ours(work, base, work.chunk),
    "full": _full,
    "full_blocks": lambda work, base: _full(work, base, work.chunk),
    "naive": _naive,
    "qwix": _qwix,
}
"""`ours` and `full` are this project's LoRA and full fine-tuning, with all logits at once; with
`_blocks` the loss is taken in blocks."""
