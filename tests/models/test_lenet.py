"""The LeNet-shaped convolutional network."""

import jax
import jax.numpy as jnp
import pytest

from lorax.models import LeNet


def count(image_shape, **fields):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(LeNet(**fields).init, jax.random.key(0), images)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_published_parameter_counts():
    assert count((28, 28, 1)) == 44_426
    assert count((32, 32, 3)) == 62_006


def test_shapes_names_and_kernels():
    images = jax.random.normal(jax.random.key(0), (3, 28, 28, 1))
    model = LeNet(classes=7)
    variables = model.init(jax.random.key(1), images)
    assert model.apply(variables, images).shape == (3, 7)
    assert list(variables["params"]) == ["conv_0", "conv_1", "dense_0", "dense_1", "dense_2"]
    assert variables["params"]["conv_1"]["kernel"].shape == (5, 5, 6, 16)


def test_the_smallest_image_and_one_smaller():
    assert count((16, 16, 1)) > 0
    with pytest.raises(ValueError, match="at least 16x16 pixels, got shape"):
        count((15, 20, 1))


def test_a_missing_channel_axis_is_named():
    with pytest.raises(ValueError, match=r"got shape \(1, 28, 28\): add the missing axes"):
        count((28, 28))


def test_compute_dtype_and_gradients():
    images = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    model = LeNet(dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(1), images)
    assert model.apply(variables, images).dtype == jnp.bfloat16
    grads = jax.grad(lambda v: jnp.sum(model.apply(v, images).astype(jnp.float32) ** 2))(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
