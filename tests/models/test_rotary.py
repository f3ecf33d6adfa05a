"""Rotary positions against their equations, and the stretching of Llama 3.1."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import RopeScaling, rotary_angles, rotate

SCALING = RopeScaling(8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_length=64)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_rotary_angles_are_their_equation():
    positions = jnp.array([[0, 1, 7], [3, 3, 100]])
    cos, sin = rotary_angles(positions, 6, theta=500.0)
    assert cos.shape == sin.shape == (2, 3, 3) and cos.dtype == jnp.float32
    frequency = 500.0 ** (-2 * np.arange(3) / 6)
    angle = np.asarray(positions)[..., None] * frequency
    np.testing.assert_allclose(cos, np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(sin, np.sin(angle), atol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_is_a_complex_product(interleaved):
    x, positions = normal(1, 5, 2, 8), jnp.arange(5)[None] * 3
    cos, sin = rotary_angles(positions, 8)
    y = np.asarray(rotate(x, cos, sin, interleaved=interleaved))
    x = np.asarray(x)
    halves, pairs = (np.s_[..., :4], np.s_[..., 4:]), (np.s_[..., 0::2], np.s_[..., 1::2])
    parts = pairs if interleaved else halves
    turned = (x[parts[0]] + 1j * x[parts[1]]) * (np.asarray(cos) + 1j * np.asarray(sin))[:, :, None]
    np.testing.assert_allclose(y[parts[0]], turned.real, atol=1e-5)
    np.testing.assert_allclose(y[parts[1]], turned.imag, atol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_relative_positions_only(interleaved):
    query, key = normal(1, 6, 2, 8), normal(1, 6, 2, 8, seed=1)

    def scores(shift):
        angles = rotary_angles(jnp.arange(6)[None] + shift, 8)
        turned = [rotate(x, *angles, interleaved=interleaved) for x in (query, key)]
        return jnp.einsum("btnh,bsnh->bnts", *turned)

    np.testing.assert_allclose(scores(0), scores(57), atol=1e-4)
    unrotated = jnp.einsum("btnh,bsnh->bnts", query, key)
    assert jnp.abs(scores(0) - unrotated).max() > 0.1


def test_the_two_layouts_differ_by_a_permutation():
    x, angles = normal(1, 4, 2, 8), rotary_angles(jnp.arange(4)[None], 8)
    order = jnp.array([0, 4, 1, 5, 2, 6, 3, 7])  # of half-split channels, to be interleaved
    np.testing.assert_allclose(
        rotate(x, *angles)[..., order], rotate(x[..., order], *angles, interleaved=True), atol=1e-6
    )


def test_position_zero_and_the_dtype_are_untouched():
    x = normal(1, 3, 2, 8).astype(jnp.bfloat16)
    y = rotate(x, *rotary_angles(jnp.zeros((1, 3), jnp.int32), 8))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, x)


def test_rotary_errors_name_the_cure():
    with pytest.raises(ValueError, match="even head width, got 7: choose dim and heads"):
        rotary_angles(jnp.arange(4)[None], 7)
    with pytest.raises(ValueError, match="positions must be integers .*got float32: write"):
        rotary_angles(jnp.ones((1, 4)), 8)


def test_wavelengths_are_kept_slowed_or_between():
    wavelength = np.array([15.9, 16.0, 32.0, 64.0, 64.1, 1000.0])  # 64 / 4 = 16, 64 / 1 = 64
    frequency = jnp.asarray(2 * math.pi / wavelength, jnp.float32)
    half = (2 - 1) / (4 - 1)  # two turns of 32 tokens in 64, between one and four
    expected = np.array([1, 1, half + (1 - half) / 8, 1 / 8, 1 / 8, 1 / 8])
    np.testing.assert_allclose(SCALING.stretch(frequency) / frequency, expected, rtol=1e-5)


def test_scaled_angles_are_those_of_the_stretched_frequencies():
    positions = jnp.array([[0, 3, 200]])
    cos, _ = rotary_angles(positions, 8, theta=500.0, scaling=SCALING)
    frequency = SCALING.stretch(jnp.asarray(500.0 ** (-2 * np.arange(4) / 8), jnp.float32))
    np.testing.assert_allclose(cos, np.cos(positions[..., None] * frequency), atol=1e-5)
    assert jnp.abs(cos - rotary_angles(positions, 8, theta=500.0)[0]).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factor": 0}, "rope_scaling factor must be a finite number above 0, got 0"),
        ({"factor": "8"}, "rope_scaling factor must be a finite number above 0, got '8'"),
        ({"original_max_length": -1}, "original_max_length must be a finite number above 0"),
        ({"low_freq_factor": 4.0}, "low_freq_factor must be below high_freq_factor, got 4.0 and"),
    ],
)
def test_impossible_scalings_are_one_line_errors(fields, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(SCALING, **fields)
    assert message in str(error.value) and "\n" not in str(error.value)
