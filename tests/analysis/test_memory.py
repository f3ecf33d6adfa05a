"""Memory counted from shapes: closed forms, laws, and what XLA says of the compiled step."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import lorax
from lorax.analysis.memory import MemoryPlan, memory_plan
from lorax.data.batch import Batch
from lorax.models import GPT2, GPT2_TOY, GPT2Config
from lorax.train.losses import next_token_loss
from lorax.train.optim import adamw
from lorax.train.step import init_state, make_step

# a vocabulary unlike any width, or an activation could pass for logits
TOY = dataclasses.replace(GPT2_TOY, vocab_size=300)
LORA = lorax.LoRA(rank=4, where=(".*/qkv/kernel",))
SHAPE = (4, 32)


def shapes(config, adapter, rows=SHAPE[0]):
    """(loss, base, delta, batch, logits) of a GPT-2, none of them computed."""
    model, tokens = GPT2(config), jax.ShapeDtypeStruct((rows, SHAPE[1]), jnp.int32)
    base = jax.eval_shape(model.init, jax.random.key(0), tokens)
    first = lambda base: lorax.adapt(model.apply, adapter).init(jax.random.key(0), base, tokens)
    batch = Batch(tokens, tokens, jax.ShapeDtypeStruct(tokens.shape, jnp.bool_))
    logits = jax.ShapeDtypeStruct((*tokens.shape, config.vocab_size), jnp.float32)
    loss = next_token_loss(model.apply, adapter)
    return loss, base, jax.eval_shape(first, base), batch, logits


def plan(config=TOY, adapter=LORA, rows=SHAPE[0], **options) -> MemoryPlan:
    loss, base, delta, batch, logits = shapes(config, adapter, rows)
    return memory_plan(loss, adapter, base, delta, batch, adamw(1e-3), logits=logits, **options)


def test_what_is_stored_has_closed_forms():
    found, delta = plan(), 4 * 2 * 4 * (64 + 3 * 64)
    assert found.base == 4 * lorax.models.param_count(TOY)
    assert (found.delta, found.gradients, found.derived) == (delta, delta, 0)
    assert found.optimizer == 2 * delta + 4  # two moments, an int32 count
    assert found.checkpoint == found.delta + found.optimizer
    assert found.total == (
        found.base + 2 * delta + found.optimizer + found.activations + found.logits
    )


def test_parts_of_a_batch_need_a_sum_of_gradients():
    once, parts = plan(), plan(accumulate=4)
    assert parts == dataclasses.replace(once, gradients=2 * once.gradients)


def test_what_pissa_derives_is_counted():
    pissa = dataclasses.replace(LORA, initializer="pissa")
    assert plan(adapter=pissa).derived == plan(adapter=pissa).delta


def test_activations_grow_with_the_batch_and_with_nothing_that_is_frozen():
    config = dataclasses.replace(TOY, scan=True)
    one, two = plan(config, rows=4), plan(config, rows=8)
    assert two.activations == pytest.approx(2 * one.activations, rel=1e-3)
    assert two.logits == 2 * one.logits
    larger = plan(dataclasses.replace(config, vocab_size=5_000), rows=4)
    assert larger.base > 3 * one.base and larger.logits > 10 * one.logits
    assert larger.activations == one.activations


def test_rematerialised_layers_keep_less_and_take_it_later():
    config = dataclasses.replace(TOY, scan=True, layers=6)
    kept, again = plan(config), plan(dataclasses.replace(config, remat=True))
    assert again.activations < kept.activations / 5
    assert kept.recomputed == 0 < again.recomputed < kept.activations
    assert again.total < kept.total


def test_logits_in_chunks_are_the_chunk():
    loss, base, delta, batch, _ = shapes(TOY, LORA)
    chunk = jax.ShapeDtypeStruct((1_000, TOY.vocab_size), jnp.float32)
    found = memory_plan(loss, LORA, base, delta, batch, adamw(1e-3), logits=chunk)
    assert found.logits == 4 * 1_000 * TOY.vocab_size


@pytest.mark.parametrize(
    "adapter, changes",
    [(LORA, {}), (LORA, {"scan": True, "remat": True}), (lorax.Full(), {"scan": True})],
    ids=["lora", "lora, rematerialised", "full, scanned"],
)
def test_against_the_compiled_step(adapter, changes):
    config, tx = dataclasses.replace(TOY, **changes), adamw(1e-3)
    loss, base, delta, batch, logits = shapes(config, adapter)
    found = memory_plan(loss, adapter, base, delta, batch, tx, logits=logits)
    state = jax.eval_shape(lambda delta: init_state(delta, tx, jax.random.key(0)), delta)
    compiled = make_step(loss, tx).lower(state, base, batch).compile().memory_analysis()
    arguments = compiled.argument_size_in_bytes
    inputs = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch))
    stored = found.base + found.delta + found.optimizer
    if adapter is LORA:  # a base that is trained whole is no argument of the program
        assert arguments == pytest.approx(stored + inputs, rel=1e-3)
    scratch = found.total - stored
    assert 0.6 < scratch / compiled.temp_size_in_bytes < 1.7


def test_gpt3_is_counted_from_its_shape():
    kind = {"scan": True, "remat": True, "dtype": "bfloat16", "param_dtype": "bfloat16"}
    config = GPT2Config(50257, 12288, 96, 96, max_length=2048, **kind)
    found = plan(config, rows=1)
    assert found.base == 2 * 174_604_259_328
    assert found.delta == 4 * 18_874_368
