"""RMSNorm, rotary positions and segment masks, each against its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import RMSNorm, rotary_angles, rotate, segment_mask


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_rms_norm_is_its_equation():
    x, scale = normal(2, 3, 8), normal(8, seed=1)
    y = RMSNorm(eps=1e-3).apply({"params": {"scale": scale}}, x)
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3) * np.asarray(scale)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_rms_norm_starts_as_ones_in_the_parameter_dtype():
    params = RMSNorm(param_dtype=jnp.bfloat16).init(jax.random.key(0), normal(2, 8))["params"]
    assert params["scale"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["scale"], np.ones(8))


def test_rms_norm_takes_statistics_in_float32():
    x = (1 + normal(2, 4096) / 8).astype(jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(4096)}}
    y = RMSNorm().apply(params, x)
    exact = RMSNorm().apply(params, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_rms_norm_compute_dtype_decides_the_output():
    params = {"params": {"scale": jnp.ones(8)}}
    assert RMSNorm(dtype=jnp.bfloat16).apply(params, normal(2, 8)).dtype == jnp.bfloat16


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


def test_segment_mask_joins_equal_ids_and_nothing_to_padding():
    mask = segment_mask(jnp.array([[1, 1, 2, 0]]))
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(mask[0], np.array(expected, bool))


@pytest.mark.parametrize("segments", [jnp.ones((2, 3)), jnp.ones(3, jnp.int32)])
def test_segment_mask_wants_two_integer_axes(segments):
    with pytest.raises(ValueError, match=r"segments must be integers of shape \(batch, tokens\)"):
        segment_mask(segments)
