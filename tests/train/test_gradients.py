"""A batch in parts is the batch: value, metrics and gradient, whatever is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.train.gradients import value_and_grad
from lorax.train.losses import next_token_loss

VOCABULARY = 11
BASE = {
    "embed": jax.random.normal(jax.random.key(0), (VOCABULARY, 6)),
    "out": jax.random.normal(jax.random.key(1), (6, VOCABULARY)),
}
ADAPTER = lorax.LoRA(rank=2, where=("out",))
KEY = jax.random.key(3)


def model(params, tokens):
    return jnp.tanh(params["embed"][tokens]) @ params["out"]


def start():
    delta = ADAPTER.init(jax.random.key(2), BASE)
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + draw.normal(size=x.shape).astype(x.dtype), delta)


def batch(rows=8):
    """With unequal masks: odd rows have few tokens, and one row has none."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, VOCABULARY, (rows, 6)).astype(np.int32)
    mask = draw.random((rows, 5)) < np.where(np.arange(rows)[:, None] % 2, 0.2, 0.9)
    mask[3] = False
    return Batch(tokens[:, :-1], tokens[:, 1:], mask)


def test_parts_are_the_whole_however_unequal_they_are():
    loss = next_token_loss(model, ADAPTER, "error", label_smoothing=0.1)
    now = batch()
    assert len({int(now.mask[i::4].sum()) for i in range(4)}) > 2
    (value, metrics), grads = jax.jit(value_and_grad(loss))(start(), BASE, now, KEY)
    for parts in (4, 8):
        found = jax.jit(value_and_grad(loss, parts))(start(), BASE, now, KEY)
        (part_value, part_metrics), part_grads = found
        np.testing.assert_allclose(part_value, value, rtol=1e-6)
        assert part_metrics.keys() == metrics.keys() == {"tokens", "nats"}
        assert float(part_metrics["tokens"]) == now.mask.sum()
        np.testing.assert_allclose(part_metrics["nats"], metrics["nats"], rtol=1e-6)
        for a, b in zip(jax.tree.leaves(part_grads), jax.tree.leaves(grads), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * float(jnp.abs(b).max()))


def test_a_batch_where_nothing_counts_costs_nothing():
    loss = next_token_loss(model, ADAPTER, "error")
    now = batch()._replace(mask=np.zeros((8, 5), bool))
    (value, metrics), grads = jax.jit(value_and_grad(loss, 2))(start(), BASE, now, KEY)
    assert float(value) == 0 and float(metrics["tokens"]) == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads))


def test_one_part_is_the_very_same_program():
    loss = next_token_loss(model, ADAPTER, "error")
    programs = [
        jax.make_jaxpr(fn)(start(), BASE, batch(), KEY)
        for fn in (jax.value_and_grad(loss, has_aux=True), value_and_grad(loss, 1))
    ]
    assert str(programs[0]) == str(programs[1])


def test_gradients_keep_the_dtype_of_the_delta_but_are_summed_in_float32():
    halves = jnp.array([256.0, 1.0, 1.0, 1.0], jnp.bfloat16)  # 256 + 1 is 256 in bfloat16
    loss = lambda delta, base, x, key: (delta.astype(jnp.float32) * x.sum(), {"examples": x.size})
    _, grads = value_and_grad(loss, 4)(jnp.ones((), jnp.bfloat16), None, halves, KEY)
    assert grads.dtype == jnp.bfloat16 and float(grads) == float(jnp.bfloat16(259 / 4))


def test_every_part_draws_its_own_dropout():
    noises = lambda delta, base, x, key: (
        delta * x.sum(),
        {"examples": jnp.float32(x.size), "noise": jax.random.normal(key, (2,))},
    )
    parts = value_and_grad(noises, 2)
    (_, metrics), _ = parts(jnp.float32(1), None, np.ones(4, np.float32), KEY)
    own = [jax.random.normal(jax.random.fold_in(KEY, i), (2,)) for i in range(2)]
    np.testing.assert_allclose(metrics["noise"], (own[0] + own[1]) / 2, rtol=1e-6)


def test_refusals():
    loss = next_token_loss(model, ADAPTER, "error")
    for wrong in (0, -1, True, 2.0):
        with pytest.raises(LoraxError, match=f"accumulate is {wrong!r}: expected an integer"):
            value_and_grad(loss, wrong)
    with pytest.raises(LoraxError, match="a batch of 8 cannot be cut into 3 equal parts"):
        value_and_grad(loss, 3)(start(), BASE, batch(), KEY)
    silent = lambda delta, base, batch, key: (delta.sum(), {"noise": delta.sum()})
    with pytest.raises(LoraxError, match="the loss reports noise: .* 'tokens' and 'examples'"):
        value_and_grad(silent, 2)(jnp.ones(3), None, np.ones(4), KEY)
