"""A quantised leaf's view: the matrix it stands for, and products that form it for themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.packed import Packed, Runs, formed, is_packed, through
from tests.jaxprs import equations

qwix = pytest.importorskip("qwix")
SHAPE = (2, 128, 24)
FORMS = {
    "nf4": {"qtype": "nf4", "channelwise_axes": (0, 2), "tiled_axes": {1: 64}},
    "int8": {"qtype": jnp.int8, "channelwise_axes": (0, 2)},
    "int4 in blocks both ways": {"qtype": jnp.int4, "tiled_axes": {1: 32, 2: 8}},
    "float8, one scale": {"qtype": jnp.float8_e4m3fn},
}


def leaf(form="nf4", dtype=jnp.float32):
    w = jax.random.normal(jax.random.key(0), SHAPE, dtype)
    return qwix.quantize(
        w, FORMS[form]["qtype"], **{k: v for k, v in FORMS[form].items() if k != "qtype"}
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_matrix_is_the_one_that_qwix_makes(form):
    packed = leaf(form)
    assert is_packed(packed) and not is_packed(packed.scale) and not is_packed({"qvalue": 1})
    np.testing.assert_array_equal(formed(packed), qwix.dequantize(packed))


def test_a_view_turns_casts_and_scales_without_touching_the_codes():
    view = Packed.of("w", leaf())
    assert view.scale_axes == (0, Runs(1), 2) and view.runs(1) and not view.runs(2)
    other = view.astype(jnp.bfloat16).times(-2.0)
    assert other.codes is view.codes and other.dtype == jnp.bfloat16
    want = (-2 * view.formed((0, 1, 2))).astype(jnp.bfloat16).transpose(2, 0, 1)
    np.testing.assert_array_equal(other.formed((2, 0, 1)), want)


def test_a_zero_point_is_refused_in_one_line():
    odd = dataclasses.replace(leaf("int8"), zero_point=jnp.zeros((2, 1, 24), jnp.int8))
    with pytest.raises(lorax.LoraxError, match="'w' is quantised with a zero point: expected") as e:
        Packed.of("w", odd)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_a_product_and_its_slope_are_those_of_the_matrix_which_is_not_kept(form):
    view, x = Packed.of("w", leaf(form)), jax.random.normal(jax.random.key(1), (2, 5, 128))
    w = view.formed((0, 1, 2))
    multiply = lambda w, x: jnp.einsum("lio,lti->lto", w, x)
    ours = lambda x: through(view, (0, 1, 2), (0, "t", 2), multiply, x)
    value, pull = jax.vjp(ours, x)
    want, dense_pull = jax.vjp(lambda x: multiply(w, x), x)
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5)
    ct = jax.random.normal(jax.random.key(2), value.shape)
    np.testing.assert_allclose(pull(ct)[0], dense_pull(ct)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jvp(ours, (x,), (x,))[1], want, rtol=1e-5, atol=1e-5)
    shapes = {
        leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(ours, x)[1], x))
    }
    assert shapes <= {view.codes.shape, view.scale.shape, ()}


def test_one_scale_an_output_goes_on_the_result():
    view, x = Packed.of("w", leaf("int8")), jnp.ones((2, 5, 128))
    multiply = lambda w, x: jnp.einsum("lio,lti->lto", w, x)
    program = jax.make_jaxpr(lambda x: through(view, (0, 1, 2), (0, "t", 2), multiply, x))(x)
    scaled = [eqn for eqn in equations(program.jaxpr) if eqn.primitive.name == "mul"]
    assert [eqn.outvars[0].aval.shape for eqn in scaled] == [(2, 5, 24)]
