"""Norms of columns from factors equal those of the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorax
from lorax.adapters.column_norms import moved_squares, squares
from lorax.core.leaf import Factors, LowRank, Roles

ROLES = (Roles((), (0,), (1,)), Roles((), (1,), (0,)), Roles((0,), (1, 3), (2,)))


@settings(max_examples=5)
@given(st.sampled_from(ROLES), st.integers(1, 3), st.integers(0, 99), st.floats(0.1, 8.0))
def test_the_identity(roles, rank, seed, scale):
    shape = (3, 4, 5, 2)[: len(roles.stack + roles.inputs + roles.outputs)]
    draw = np.random.default_rng(seed).normal
    a_shape, b_shape = roles.shapes(shape, rank)
    with jax.enable_x64(True):
        w, a, b = (jnp.asarray(draw(size=size)) for size in (shape, a_shape, b_shape))
        own = squares(w, roles)
        found = moved_squares(own, w, LowRank(Factors(a, b, roles), scale))
        merged = lorax.core.implicit.dense("w", w, LowRank(Factors(a, b, roles), scale))
        np.testing.assert_allclose(found, squares(merged, roles), rtol=1e-12)
        assert np.array_equal(own, moved_squares(own, w, LowRank(Factors(a, 0 * b, roles), scale)))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_codes_are_formed_one_layer_at_a_time(kind):
    pytest.importorskip("qwix")
    base = {"layers": {"kernel": jax.random.normal(jax.random.key(0), (2, 64, 64))}}
    packed = lorax.quantize(base, kind, where=(".*",))["layers"]["kernel"]
    dense = lorax.dequantize({"kernel": packed})["kernel"]
    roles = Roles((0,), (1,), (2,))
    a, b = (jax.random.normal(jax.random.key(i), s) for i, s in ((1, (2, 64, 4)), (2, (2, 4, 64))))
    update = LowRank(Factors(a, b, roles), 0.5)
    found = [moved_squares(squares(w, roles), w, update) for w in (packed, dense)]
    np.testing.assert_allclose(*found, rtol=1e-5)
