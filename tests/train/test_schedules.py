"""Schedules against their formulas, and their refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.train.schedules import SCHEDULES, schedule


def hugging_face(name, peak, steps, warmup, at):
    """The published curves, written out."""
    if at < warmup:
        return peak * at / warmup
    progress = (at - warmup) / (steps - warmup)
    shape = {
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "constant": 1.0,
    }
    return peak * shape[name]


@settings(max_examples=30)
@given(st.sampled_from(SCHEDULES), st.integers(1, 5000), st.data())
def test_every_point_is_that_of_the_formula(name, steps, data):
    warmup = data.draw(st.integers(0, steps - 1))
    rate = schedule(name, 3e-4, steps, warmup=warmup)
    for at in {0, warmup, (warmup + steps) // 2, steps - 1, steps}:
        expected = hugging_face(name, 3e-4, steps, warmup, at)
        assert float(rate(at)) == pytest.approx(expected, rel=1e-4, abs=1e-10)


def test_cosine_falls_to_the_final_share_and_stays():
    rate = schedule("cosine", 2.0, steps=100, warmup=10, final=0.1)
    points = [rate(at) for at in (0, 5, 10, 55, 100, 200)]
    np.testing.assert_allclose(points, [0, 1, 2, 1.1, 0.2, 0.2], atol=1e-6)
    assert float(schedule("linear", 2.0, 10, final=0.5)(5)) == pytest.approx(1.5)


def test_warmup_ratio_is_rounded_up_and_leaves_a_step():
    for steps, warmup in ((1000, 60), (50, 3), (51, 4), (2, 1), (1, 0)):
        by_ratio = schedule("linear", 1.0, steps, warmup_ratio=0.06)
        by_steps = schedule("linear", 1.0, steps, warmup=warmup)
        assert [by_ratio(at) for at in range(steps)] == [by_steps(at) for at in range(steps)]


def test_a_peak_may_be_traced():
    peaks = jnp.array([1.0, 2.0])
    rates = jax.vmap(lambda peak: schedule("cosine", peak, 10, warmup=2)(4))(peaks)
    np.testing.assert_allclose(rates, [schedule("cosine", p, 10, warmup=2)(4) for p in (1.0, 2.0)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"peak": 0.0}, "learning rate is 0.0: expected a positive"),
        ({"peak": math.nan}, "learning rate is nan"),
        ({"peak": math.inf}, "learning rate is inf"),
        ({"warmup": 10}, "warmup is 10 of 10 steps: expected 0 to 9; lower"),
        ({"warmup": -1}, "warmup is -1 of 10 steps"),
        ({"steps": 0}, "warmup is 0 of 0 steps"),
        ({"warmup": 1, "warmup_ratio": 0.1}, "warmup is 1 and warmup_ratio 0.1: expected one"),
        ({"warmup_ratio": 1.0}, "warmup_ratio is 1.0: expected"),
        ({"final": 1.5}, "final is 1.5 of a linear schedule"),
        ({"name": "constant", "final": 0.1}, "final is 0.1 of a constant schedule"),
        ({"name": "cosin"}, "schedule is 'cosin': expected one of 'linear'"),
    ],
)
def test_refusals_are_one_line(wrong, message):
    with pytest.raises(LoraxError, match=message) as error:
        schedule(**{"name": "linear", "peak": 1.0, "steps": 10} | wrong)
    assert "\n" not in str(error.value)
