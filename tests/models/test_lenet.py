"""The LeNet-shaped convolutional network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import LeNet


def count(image_shape, **fields):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(LeNet(**fields).init, jax.random.key(0), images)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_published_parameter_counts():
    assert count((28, 28, 1)) == 44_426
    assert count((32, 32, 3)) == 62_006


def test_kernels_are_drawn_by_the_field_and_biases_are_zero():
    images = jnp.zeros((1, 28, 28, 1))
    for field, variance in (({}, 1), ({"kernel_init": nn.initializers.he_normal()}, 2)):
        params = LeNet(**field).init(jax.random.key(0), images)["params"]
        for layer, inputs in (("conv_1", 150), ("dense_0", 256)):
            found = float(params[layer]["kernel"].var()) * inputs
            assert found == pytest.approx(variance, rel=0.12)
        assert not any(layer["bias"].any() for layer in params.values())


def test_shapes_names_kernels_and_a_gradient_for_every_parameter():
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.normal(size=(3, 28, 28, 1)), "f4")
    model = LeNet(classes=7)
    shapes = jax.eval_shape(model.init, jax.random.key(1), images)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.1, x.shape), x.dtype), shapes)
    assert list(params["params"]) == ["conv_0", "conv_1", "dense_0", "dense_1", "dense_2"]
    assert params["params"]["conv_1"]["kernel"].shape == (5, 5, 6, 16)

    def loss(params):
        logits = model.apply(params, images)
        return jnp.sum(logits**2), logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert logits.shape == (3, 7)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_the_smallest_image_and_one_smaller():
    assert count((16, 16, 1)) > 0
    with pytest.raises(ValueError, match="at least 16x16 pixels, got shape"):
        count((15, 20, 1))


def test_a_missing_channel_axis_is_named():
    with pytest.raises(ValueError, match=r"got shape \(1, 28, 28\): add the missing axes"):
        count((28, 28))


def test_compute_and_parameter_dtypes():
    images = jnp.zeros((2, 28, 28, 1))
    model = LeNet(dtype=jnp.bfloat16)
    variables = jax.eval_shape(model.init, jax.random.key(1), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.apply, variables, images).dtype == jnp.bfloat16
