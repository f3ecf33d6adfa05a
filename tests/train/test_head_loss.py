"""Chunks against the whole: values, gradients, the program, and its memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.data.batch import Batch
from lorax.models import GPT2, GPT2Config, Llama, LlamaConfig
from lorax.train.head_loss import chunked_costs, costs
from lorax.train.losses import next_token_loss
from tests.jaxprs import equations

KEY = jax.random.key(0)


def test_smoothing_is_a_cross_entropy_with_spread_targets():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 7)), jnp.float32)
    targets, mask = jnp.arange(12).reshape(3, 4) % 7, jnp.arange(12).reshape(3, 4) < 9
    found = costs(logits, targets, mask, 0.1)
    spread = 0.9 * jax.nn.one_hot(targets, 7) + 0.1 / 7
    each = -(spread * jax.nn.log_softmax(logits)).sum(-1)
    np.testing.assert_allclose(found.loss, each[mask].sum(), rtol=1e-6)
    plain = costs(logits, targets, mask)
    assert float(plain.loss) == float(plain.nats) == float(found.nats)
    assert float(found.counted) == 9 and found.loss.dtype == jnp.float32


def test_what_is_masked_costs_nothing_even_if_it_is_nan():
    logits = jnp.zeros((2, 5)).at[1].set(jnp.nan)
    found = costs(logits, jnp.array([3, 4]), jnp.array([True, False]), 0.1)
    assert float(found.loss) == pytest.approx(math.log(5)) and float(found.counted) == 1


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunks_of_any_size_are_the_whole(chunk):
    draw = np.random.default_rng(0)
    hidden, table = (draw.normal(size=s).astype(np.float32) for s in ((2, 7, 3), (3, 9)))
    targets = np.arange(14).reshape(2, 7) % 9
    mask = targets != 4
    largest = []

    def head(x):
        largest.append(x.shape)
        return x @ table

    found, whole = jax.jit(
        lambda x: (
            chunked_costs(x, head, targets, mask, chunk, 0.1),
            costs(x @ table, targets, mask, 0.1),
        )
    )(hidden)
    assert all(rows <= chunk for rows, _ in largest)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


VOCABULARY, ROWS, LENGTH = 61, 3, 7
SIZES = {"vocab_size": VOCABULARY, "dim": 8, "layers": 1, "heads": 2, "max_length": LENGTH}
MODELS = {
    "llama": Llama(LlamaConfig(**SIZES, kv_heads=1, hidden_dim=12)),
    "gpt2": GPT2(GPT2Config(**SIZES)),
}
ADAPTERS = {
    "all-linear": lorax.LoRA(rank=2),  # with the head, where it is not tied
    "head frozen": lorax.LoRA(rank=2, exclude=("params/lm_head/kernel",)),
    "embedding": lorax.LoRA(rank=2, where=("params/embed/embedding",)),
    "dropout": lorax.LoRA(rank=2, where=("params/embed/embedding",), dropout=0.5),
    "head whole": lorax.Chain(
        lorax.LoRA(rank=2, exclude=("params/lm_head/kernel",)),
        lorax.Full(where=("params/lm_head/kernel",)),
    ),
}
CASES = [
    ("llama", "all-linear"),
    ("llama", "head frozen"),
    ("llama", "head whole"),
    ("gpt2", "embedding"),
]


def setting(model, adapter):
    """A base, a delta that has left its start, and a batch with masked tokens."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, VOCABULARY, (ROWS, LENGTH + 1)).astype(np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], draw.random((ROWS, LENGTH)) < 0.7)
    shapes = jax.eval_shape(model.init, KEY, batch.inputs)
    fill = lambda x: jnp.asarray(0.3 * draw.normal(size=x.shape), x.dtype)
    base = jax.tree.map(fill, shapes)
    delta = jax.eval_shape(
        lambda b: lorax.adapt(model.apply, adapter).init(KEY, b, batch.inputs), base
    )
    return base, jax.tree.map(fill, delta), batch


@pytest.mark.parametrize(("name", "adapter"), CASES)
def test_a_chunked_loss_is_the_loss_factored_without_a_fallback(name, adapter):
    model, adapter = MODELS[name], ADAPTERS[adapter]
    base, delta, batch = setting(model, adapter)
    found = []
    for chunk in (0, 4):
        loss = next_token_loss(model.apply, adapter, "error", label_smoothing=0.1, chunk=chunk)
        found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(delta, base, batch, KEY))
    ((value, metrics), grads), ((other, other_metrics), other_grads) = found
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(other_metrics["nats"], metrics["nats"], rtol=1e-6)
    assert float(other_metrics["tokens"]) == float(metrics["tokens"]) == batch.mask.sum()
    for a, b in zip(jax.tree.leaves(other_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * float(jnp.abs(b).max()))


def sizes(program):
    """How many numbers each array of a program has, also those of programs inside it."""
    for eqn in equations(program.jaxpr):
        yield from (atom.aval.size for atom in (*eqn.invars, *eqn.outvars))


@pytest.mark.parametrize(("name", "adapter"), [("llama", "all-linear"), ("gpt2", "embedding")])
def test_no_array_of_the_program_has_the_logits_of_all_tokens(name, adapter):
    model, adapter = MODELS[name], ADAPTERS[adapter]
    base, delta, batch = setting(model, adapter)

    def largest(chunk):
        loss = next_token_loss(model.apply, adapter, "error", chunk=chunk)
        program = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(delta, base, batch, KEY)
        return max(sizes(program))

    logits = ROWS * LENGTH * VOCABULARY
    assert largest(0) == logits
    # what is left are tables and activations; chunks stacked up would be the logits again
    assert 3 * VOCABULARY <= largest(3) < 0.6 * logits


def test_the_compiled_program_needs_less_memory():
    config = LlamaConfig(2048, 16, 1, 2, 1, 16, max_length=256)
    model, adapter = Llama(config), lorax.LoRA(rank=2)
    shape = jax.ShapeDtypeStruct((4, 256), jnp.int32)
    batch = Batch(shape, shape, jax.ShapeDtypeStruct((4, 256), bool))
    base = jax.eval_shape(model.init, KEY, shape)
    delta = jax.eval_shape(lambda b: lorax.adapt(model.apply, adapter).init(KEY, b, shape), base)

    def temporary(chunk):
        loss = next_token_loss(model.apply, adapter, "error", chunk=chunk)
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return step.lower(delta, base, batch, KEY).compile().memory_analysis().temp_size_in_bytes

    whole, chunked = temporary(0), temporary(64)
    logits = 4 * 256 * 2048 * 4
    assert whole > logits and chunked < whole - 0.8 * logits


def test_dropout_before_the_head_is_another_draw_for_each_chunk():
    model, adapter = MODELS["gpt2"], ADAPTERS["dropout"]
    base, delta, batch = setting(model, adapter)
    loss = jax.jit(next_token_loss(model.apply, adapter, "error", chunk=4))
    values = [float(loss(delta, base, batch, jax.random.key(i))[0]) for i in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
