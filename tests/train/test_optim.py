"""AdamW by its formula, LoRA+ on every B and nothing else, traced numbers, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors
from lorax.train.optim import adamw
from lorax.train.schedules import schedule

ROLES = lorax.Roles((), (0,), (1,))


def delta(seed=0):
    """As of a Chain: factors of a LoRA, and a leaf of a Full with a name that misleads."""
    draw = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
    return ({"q/kernel": Factors(normal(5, 2), normal(2, 3), ROLES)}, {"head/B": normal(4)})


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def updated(tx, steps=3):
    now, state = delta(), tx.init(delta())
    for i in range(steps):
        updates, state = tx.update(delta(i + 1), state, now)
        now = optax.apply_updates(now, updates)
    return now


def run(tx, steps=3):
    return jax.jit(lambda: updated(tx, steps))()


def test_clips_before_adam_the_whole_delta_at_once():
    params, huge = {"w": jnp.ones(2)}, {"w": jnp.full(2, 1e20)}
    for clip in (1.0, None, 0):
        tx = adamw(1e-3, weight_decay=0.1, clip=clip)
        updates, state = jax.jit(tx.update)(huge, tx.init(params), params)
        moment = optax.tree.get(state, "mu")["w"]
        assert bool(jnp.isfinite(updates["w"]).all())
        assert (float(jnp.abs(moment).max()) < 1) is bool(clip)
    tx = adamw(1e-3, clip=1e-3, loraplus=7.0, b1=0.0)
    moments = optax.tree.get(jax.jit(tx.update)(delta(1), tx.init(delta()), delta())[1], "mu")
    assert float(optax.tree.norm(moments)) == pytest.approx(1e-3)


def test_numbers_reach_adam():
    tx = adamw(0.1, 0.2, None, b1=0.5, b2=0.6, eps=0.7)
    grad, param = jnp.array([2.0]), jnp.array([3.0])
    updates, _ = tx.update(grad, tx.init(param), param)
    np.testing.assert_allclose(updates, -0.1 * (2 / (2 + 0.7) + 0.2 * 3), rtol=1e-5)


def test_loraplus_of_one_is_adamw_bit_for_bit():
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))
    assert equal(run(adamw(1e-2, 0.1)), run(plain))


def test_loraplus_multiplies_the_rate_of_every_b_and_of_nothing_else():
    ((lora, full), (faster, same), (high, _)) = (
        run(tx, 1) for tx in (adamw(1e-2, 0.1), adamw(1e-2, 0.1, loraplus=16.0), adamw(0.16, 0.1))
    )
    assert equal(full, same)
    assert equal(lora["q/kernel"].A, faster["q/kernel"].A)
    np.testing.assert_allclose(faster["q/kernel"].B, high["q/kernel"].B, rtol=1e-6)
    assert not equal(lora["q/kernel"].B, faster["q/kernel"].B)


def test_the_state_is_that_of_adam_whatever_the_ratio():
    txs = [adamw(1e-2, loraplus=ratio) for ratio in (1.0, 16.0)]
    states = [jax.eval_shape(tx.init, delta()) for tx in txs]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(delta())) + 4
    bytes_of = lambda leaf: leaf.size * leaf.dtype.itemsize
    assert sum(map(bytes_of, jax.tree.leaves(states[1]))) == needed
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), delta())
    tx = adamw(1e-2, loraplus=jnp.float32(16))
    updates, _ = jax.eval_shape(lambda x: tx.update(x, tx.init(x), x), narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


def test_runs_that_differ_in_their_numbers_are_one_program():
    numbers = jnp.array([[1e-2, 1.0, 0.0, 0.9], [3e-3, 16.0, 0.1, 0.8]])

    def final(numbers):
        rate, ratio, decay, b1 = numbers
        tx = adamw(schedule("linear", rate, 5, warmup=1), decay, b1=b1, loraplus=ratio)
        return updated(tx)

    together = jax.jit(jax.vmap(final))(numbers)
    for i, row in enumerate(numbers):
        alone = jax.jit(final)(row)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "learning rate is 0.0: expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning rate is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1: expected a number of at least 0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"b1": 1.0}, "b1 is 1.0: expected a number of at least 0 and below 1; change b1"),
        ({"b2": -0.1}, "b2 is -0.1"),
        ({"eps": float("inf")}, "eps is inf"),
        ({"loraplus": 0.0}, "loraplus is 0.0: expected a number above 0"),
    ],
)
def test_refusals_are_one_line(wrong, message):
    with pytest.raises(LoraxError, match=message) as error:
        adamw(**{"learning_rate": 1e-3} | wrong)
    assert "\n" not in str(error.value)
