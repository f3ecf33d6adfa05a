"""Windows of tokens: every target once, a BOS before each window, any step again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.data import tokens

STREAM = np.arange(10, 60)


def test_a_window_is_bos_and_what_came_before():
    batch = tokens.random_windows(STREAM, bos=1, batch=4, length=5, seed=0, step=3)
    assert batch.inputs.shape == batch.targets.shape == (4, 5)
    assert (batch.inputs[:, 0] == 1).all() and batch.mask.all()
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    np.testing.assert_array_equal(np.diff(batch.targets, axis=1), 1)


def test_a_batch_is_a_function_of_seed_and_step():
    draw = lambda seed, step: (
        tokens.random_windows(STREAM, bos=1, batch=4, length=5, seed=seed, step=step).targets
    )
    np.testing.assert_array_equal(draw(0, 3), draw(0, 3))
    assert (draw(0, 3) != draw(0, 4)).any() and (draw(0, 3) != draw(1, 3)).any()
    resumed = tokens.batches(STREAM, bos=1, batch=4, length=5, seed=0, start=3)
    np.testing.assert_array_equal(next(resumed).targets, draw(0, 3))


def test_random_windows_reach_both_ends():
    batch = tokens.random_windows(STREAM[:6], bos=1, batch=64, length=5, seed=0, step=0)
    assert set(batch.targets[:, 0]) == {10, 11}


@given(count=st.integers(1, 40), batch=st.integers(1, 4), length=st.integers(1, 7))
def test_every_token_is_a_target_once(count, batch, length):
    found = tokens.consecutive_windows(STREAM[:count], bos=1, batch=batch, length=length)
    targets = np.concatenate([b.targets[b.mask] for b in found])
    np.testing.assert_array_equal(targets, STREAM[:count])
    assert {b.targets.shape for b in found} == {(batch, length)}


def test_mistakes():
    with pytest.raises(ValueError, match="50 tokens are too few for windows of 51"):
        tokens.random_windows(STREAM, bos=1, batch=1, length=51, seed=0, step=0)
    with pytest.raises(ValueError, match="cannot cut 0 tokens"):
        tokens.consecutive_windows(STREAM[:0], bos=1, batch=1, length=5)
