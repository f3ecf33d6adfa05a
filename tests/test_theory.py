"""What is known of LoRA before any model is trained: first gradients, invariance, capacity.

On one matrix and a quadratic loss, where every statement has a closed form.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.train.optim import adamw


def linear(base, x):
    """The program: one product."""
    return x @ base["w"]


def loss_of(adapter, base, x, y):
    """Half the mean square of what is missing, a function of the delta."""
    apply = lorax.adapt(linear, adapter)
    return lambda delta: 0.5 * jnp.mean((apply(base, delta, x) - y) ** 2)


def trained(adapter, base, delta, x, y, tx, steps):
    """The delta after `steps`, and the last loss."""
    loss = loss_of(adapter, base, x, y)

    @jax.jit
    def run(delta):
        def step(carry, _):
            delta, state = carry
            updates, state = tx.update(jax.grad(loss)(delta), state, delta)
            return (optax.apply_updates(delta, updates), state), None

        (delta, _), _ = jax.lax.scan(step, (delta, tx.init(delta)), length=steps)
        return delta, loss(delta)

    return run(delta)


@pytest.mark.parametrize(("scaling", "ratio"), [("standard", 8.0), ("rslora", 1.0)])
def test_the_first_gradient_of_b_and_the_rank(scaling, ratio):
    """B starts at zero, so its gradient is scale · Aᵀ G, and ‖Aᵀ G‖ grows as sqrt(r): under α/r it
    is as 1 / sqrt(r), 8 between 4 and 256; under α/sqrt(r) it is level (Kalajdzievski, 2023)."""
    width = 256
    keys = jax.random.split(jax.random.key(0), 3)
    base = {"w": jax.random.normal(keys[0], (width, width)) / 16}
    x, y = (jax.random.normal(key, (64, width)) for key in keys[1:])
    norms = []
    for rank in (4, 256):
        adapter = lorax.LoRA(rank, 16.0, where=("w",), scaling=scaling)
        loss = loss_of(adapter, base, x, y)
        first = lambda key: jax.grad(loss)(adapter.init(key, base))["w"]  # noqa: B023
        gradient = jax.jit(jax.vmap(first))(jax.random.split(jax.random.key(1), 8))
        assert np.all(gradient.A == 0)
        norms.append(jnp.linalg.norm(gradient.B, axis=(1, 2)))
    np.testing.assert_allclose(norms[0] / norms[1], ratio, rtol=0.15)


def test_the_invariance_of_alpha_init_and_rates():
    """α / (pq), A p times larger (and B q times), rates p and q times larger: the same ΔW under
    Adam without ε, so one of the four need never be tuned (Schulman et al., "LoRA Without Regret",
    2025). With B = 0 the first gradient of A is 0, and 0 / 0 needs an ε above 0, however small.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        base = {"w": jax.random.normal(keys[0], (12, 9))}
        x, y = jax.random.normal(keys[1], (20, 12)), jax.random.normal(keys[2], (20, 9))
        start = lorax.LoRA(4, where=("w",)).init(keys[3], base)["w"]
        drawn = jax.random.normal(keys[3], start.B.shape)

        @jax.jit
        @jax.vmap
        def update(p, q, b, eps):
            adapter = lorax.LoRA(4, 8.0 / (p * q), where=("w",))
            delta = {"w": dataclasses.replace(start, A=p * start.A, B=q * b * drawn)}
            tx = adamw(p * 0.01, clip=None, eps=eps, loraplus=q / p)
            delta, _ = trained(adapter, base, delta, x, y, tx, 100)
            return adapter.merge(base, delta)["w"] - base["w"]

        p, q, b, eps = np.array(
            [(1, 1, 0, 1e-300), (3, 0.7, 0, 1e-300), (1, 1, 0.1, 0), (3, 0.7, 0.1, 0)]
        ).T
        found = update(p, q, b, eps)
        assert found.dtype == jnp.float64
    for plain, scaled in np.split(np.asarray(found), 2):
        assert np.linalg.norm(plain) > 1
        assert np.linalg.norm(scaled - plain) < 1e-8 * np.linalg.norm(plain)


def test_lora_of_full_rank_reaches_what_full_fine_tuning_reaches():
    """From ΔW = 0, on a regression with noise, and that is what least squares gives."""
    keys = jax.random.split(jax.random.key(0), 4)
    base = {"w": jax.random.normal(keys[0], (10, 6))}
    x = jax.random.normal(keys[1], (64, 10))
    y = x @ jax.random.normal(keys[2], (10, 6)) + jax.random.normal(keys[3], (64, 6))
    solution = np.linalg.lstsq(np.float64(x), np.float64(y), rcond=None)[0]
    best = 0.5 * np.mean((np.float64(x) @ solution - np.float64(y)) ** 2)
    assert best > 0.1  # a loss of zero would be no test of the rate it is reached at
    losses = []
    for adapter in (lorax.LoRA(6, 6.0, where=("w",)), lorax.Full()):
        tx = adamw(optax.cosine_decay_schedule(0.05, 1000), clip=None)
        start = adapter.init(jax.random.key(1), base)
        losses.append(float(trained(adapter, base, start, x, y, tx, 1000)[1]))
    np.testing.assert_allclose(losses, best, rtol=1e-4)
    too_few = lorax.LoRA(2, 2.0, where=("w",))
    start = too_few.init(jax.random.key(1), base)
    assert trained(too_few, base, start, x, y, adamw(0.02, clip=None), 1000)[1] > 1.1 * best
