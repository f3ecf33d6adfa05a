"""Magnitude and direction are exact where one of them alone changes, and for small changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorax
from lorax.analysis.magnitude import magnitude_direction
from tests.analysis.imported import from_peft

MATRIX = lorax.Roles((), (0,), (1,))
W = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


def changed(after, before=W):
    """The decomposition of a whole leaf that went from one value to another."""
    base, delta = {"w": jnp.asarray(before)}, {"w": jnp.asarray(after)}
    return magnitude_direction(lorax.Full(), base, delta, roles={"w": MATRIX})["w"]


def test_scaled_outputs_change_in_magnitude_alone():
    factors = np.array([1.0, 1.5, 0.25, 3.0, 1.0], np.float32)
    found = changed(W * factors)
    norms = np.linalg.norm(np.float64(W), axis=0)
    np.testing.assert_allclose(found.magnitude[0], norms, rtol=1e-6)
    np.testing.assert_allclose(found.change[0], norms * (factors - 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean_change, np.mean(norms * abs(factors - 1)), rtol=1e-5)
    np.testing.assert_allclose(found.turn[0], np.zeros(5), atol=1e-12)


def test_turned_outputs_change_in_direction_alone():
    """A turn of the input space by t keeps every norm; in a plane each cosine is cos t."""
    plane = np.array([[1.0, 0.0, 0.6], [0.0, 2.0, 0.8]], np.float32)
    for angle in (0.01, 1.0, 2.5):
        c, s = np.cos(angle), np.sin(angle)
        found = changed((np.array([[c, -s], [s, c]]) @ plane).astype(np.float32), plane)
        np.testing.assert_allclose(found.change, np.zeros((1, 3)), atol=1e-6)
        np.testing.assert_allclose(found.turn, np.full((1, 3), 1 - c), rtol=1e-3)
        np.testing.assert_allclose(found.mean_turn, [1 - c], rtol=1e-3)


def test_an_output_that_is_reversed_turns_by_two():
    found = changed(-W)
    np.testing.assert_allclose(found.turn, np.full((1, 5), 2.0), rtol=1e-6)
    np.testing.assert_allclose(found.change, np.zeros((1, 5)), atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 99), st.sampled_from([1e-3, 1e-2, 1.0, 10.0]))
def test_against_float64(seed, size):
    """Also of small changes, where float32 norms and cosines would be rounding alone."""
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((8, 2), (2, 5)))
    adapter = lorax.LoRA(2, 2.0, where=("w",))
    delta = {"w": lorax.Factors(jnp.asarray(size * a), jnp.asarray(b), MATRIX)}
    found = magnitude_direction(adapter, {"w": jnp.asarray(W)}, delta)["w"]
    before = np.float64(W)
    after = before + np.float64(np.float32(size) * a) @ np.float64(b)
    norms = [np.linalg.norm(x, axis=0) for x in (before, after)]
    cosine = np.sum(before * after, axis=0) / (norms[0] * norms[1])
    tolerance = {"rtol": 1e-4, "atol": 1e-6 * size}
    np.testing.assert_allclose(found.change[0], norms[1] - norms[0], **tolerance)
    np.testing.assert_allclose(found.turn[0], 1 - cosine, rtol=1e-4, atol=1e-9 * size)


def test_outputs_without_a_direction_are_left_out_of_the_mean():
    before, after = W.copy(), 2 * W
    before[:, 0] = 0
    after[:, 1] = 0
    found = changed(after, before)
    assert list(np.isnan(found.turn[0])) == [True, True, False, False, False]
    np.testing.assert_allclose(found.mean_turn, [0.0], atol=1e-12)
    np.testing.assert_allclose(found.change[0, 0], np.linalg.norm(after[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(found.change[0, 1], -np.linalg.norm(before[:, 1]), rtol=1e-5)
    assert np.all(np.isnan(changed(0 * W).mean_turn))


def test_an_untrained_adapter_changes_nothing_exactly():
    base = {"w": jnp.asarray(W)}
    adapter = lorax.LoRA(rank=2, where=("w",))
    found = magnitude_direction(adapter, base, adapter.init(jax.random.key(0), base))["w"]
    assert np.all(found.change == 0) and np.all(found.turn == 0)


def test_stacked_leaves_and_the_axes_of_the_input():
    """The norm is over the input axes, wherever they lie."""
    roles = {"w": lorax.Roles(stack=(1,), inputs=(3, 0), outputs=(2,))}
    before, after = (np.random.default_rng(s).normal(size=(4, 3, 5, 2)) for s in (1, 2))
    base, delta = {"w": jnp.float32(before)}, {"w": jnp.float32(after)}
    found = magnitude_direction(lorax.Full(), base, delta, roles=roles)["w"]
    assert found.magnitude.shape == (3, 5)
    norms = [np.sqrt(np.sum(x**2, axis=(0, 3))) for x in (before, after)]
    np.testing.assert_allclose(found.magnitude, norms[0], rtol=1e-5)
    np.testing.assert_allclose(found.change, norms[1] - norms[0], rtol=1e-4, atol=1e-5)
    cosine = np.sum(before * after, axis=(0, 3)) / (norms[0] * norms[1])
    np.testing.assert_allclose(found.mean_turn, np.mean(1 - cosine, axis=1), rtol=1e-4)


def test_bad_input():
    with pytest.raises(lorax.LoraxError, match="no matrix among the 1 leaves of Full"):
        magnitude_direction(lorax.Full(), {"b": jnp.ones(3)}, {"b": jnp.ones(3)})
    with pytest.raises(lorax.LoraxError, match="roles of 'w' are .* each of its 3 axes"):
        changed(np.ones((2, 3, 4), np.float32), np.ones((2, 3, 4), np.float32))


def test_an_imported_adapter():
    adapter, base, delta = from_peft("gpt2_c_attn")
    stored, after = (lorax.core.paths.flatten(x) for x in (base, adapter.merge(base, delta)))
    for path, leaf in magnitude_direction(adapter, base, delta).items():
        norms = [np.linalg.norm(np.float64(x[path]), axis=0) for x in (stored, after)]
        np.testing.assert_allclose(leaf.change[0], norms[1] - norms[0], rtol=1e-3, atol=1e-6)
