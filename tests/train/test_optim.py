"""The schedule's shape, and its refusals."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lorax.core.errors import LoraxError
from lorax.train.optim import adamw, warmup_cosine


def test_warmup_then_cosine_to_the_final_share():
    rate = warmup_cosine(2.0, steps=100, warmup=10, final=0.1)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(100)], [0, 1, 2, 0.2], atol=1e-6)
    assert float(rate(55)) == pytest.approx(1.1)


def test_without_warmup_it_starts_at_the_peak():
    assert float(warmup_cosine(2.0, steps=4)(0)) == 2.0


@pytest.mark.parametrize("peak", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_rate_that_cannot_train(peak):
    with pytest.raises(LoraxError, match="learning rate is"):
        warmup_cosine(peak, steps=10)


@pytest.mark.parametrize("steps, warmup", [(10, 10), (10, -1), (0, 0)])
def test_refuses_a_warmup_that_leaves_nothing(steps, warmup):
    with pytest.raises(LoraxError, match=f"warmup is {warmup} of {steps} steps"):
        warmup_cosine(1.0, steps, warmup)


def test_adamw_clips_before_adam():
    params, huge = {"w": jnp.ones(2)}, {"w": jnp.full(2, 1e20)}
    for clip, finite in ((1.0, True), (None, True)):
        tx = adamw(1e-3, weight_decay=0.1, clip=clip)
        updates, state = tx.update(huge, tx.init(params), params)
        moment = optax.tree.get(state, "mu")["w"]
        assert bool(jnp.isfinite(updates["w"]).all()) is finite
        assert (float(jnp.abs(moment).max()) < 1) is (clip is not None)
