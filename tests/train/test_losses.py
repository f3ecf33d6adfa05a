"""Cross-entropy by hand, masks that hide NaN, and units."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.data.batch import Batch
from lorax.train.losses import bits_per_byte, cross_entropy, next_token_loss


def test_uniform_logits_cost_log_of_the_vocabulary():
    nats, count = cross_entropy(jnp.zeros((2, 3, 7)), jnp.zeros((2, 3), jnp.int32))
    assert float(nats) == pytest.approx(math.log(7)) and float(count) == 6


def test_masked_tokens_do_not_count_even_if_they_are_nan():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 5)).at[0, 2:].set(jnp.nan)
    targets, mask = jnp.array([[1, 2, 3, 4]]), jnp.array([[True, True, False, False]])
    nats, count = cross_entropy(logits, targets, mask)
    alone, _ = cross_entropy(logits[:, :2], targets[:, :2])
    assert float(nats) == pytest.approx(float(alone)) and float(count) == 2


def test_nothing_real_costs_nothing():
    nats, count = cross_entropy(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), int), jnp.zeros((1, 2)))
    assert float(nats) == 0 and float(count) == 0


def test_bfloat16_logits_are_summed_in_float32():
    logits = jax.random.normal(jax.random.key(0), (1, 512, 300)).astype(jnp.bfloat16)
    targets = jnp.zeros((1, 512), jnp.int32)
    nats, _ = cross_entropy(logits, targets)
    exact, _ = cross_entropy(logits.astype(jnp.float32), targets)
    assert nats.dtype == jnp.float32 and float(nats) == float(exact)


def test_bits_per_byte():
    assert bits_per_byte(math.log(2), tokens=3, size=3) == pytest.approx(1)
    assert bits_per_byte(2 * math.log(2), tokens=10, size=40) == pytest.approx(0.5)


def test_next_token_loss_uses_dropout_with_the_steps_key():
    fn = lambda params, x: jax.nn.one_hot(x, 8) @ params["w"]
    base = {"w": jax.random.normal(jax.random.key(0), (8, 8))}
    x = np.arange(8)[None]
    batch = Batch(x, (x + 1) % 8, np.ones((1, 8), bool))
    for dropout, varies in ((0.0, False), (0.5, True)):
        adapter = lorax.LoRA(rank=2, dropout=dropout, where=("w",))
        delta = adapter.init(jax.random.key(1), base)
        delta = jax.tree.map(lambda leaf: leaf + 1, delta)
        loss = next_token_loss(fn, adapter, on_fallback="error")
        values = {float(loss(delta, base, batch, jax.random.key(i))[0]) for i in range(3)}
        assert (len(values) > 1) is varies
        assert float(loss(delta, base, batch, jax.random.key(0))[1]["tokens"]) == 8


def test_a_batch_without_the_three_fields():
    loss = next_token_loss(lambda params, x: x, lorax.LoRA(rank=2))
    for wrong in ({"inputs": 1, "targets": 1, "mask": 1}, np.ones((2, 3)), (1, 2, 3)):
        with pytest.raises(lorax.LoraxTypeError, match=r"lorax\.data\.batch\.Batch\(inputs"):
            loss({}, {}, wrong, jax.random.key(0))
