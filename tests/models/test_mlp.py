"""The multi-layer perceptron."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import MLP

X = jax.random.normal(jax.random.key(0), (4, 6))


def test_it_is_dense_layers_with_an_activation_between():
    model = MLP((5, 3), activation=jnp.tanh)
    params = model.init(jax.random.key(1), X)["params"]
    hidden = jnp.tanh(X @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])
    expected = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, X), expected, atol=1e-6)


def test_the_last_layer_has_no_activation():
    model = MLP((8,), activation=nn.relu)
    assert model.apply(model.init(jax.random.key(1), X), X).min() < 0


def test_leading_axes_are_kept():
    model = MLP((5, 3))
    x = jnp.zeros((2, 7, 6))
    assert model.apply(model.init(jax.random.key(1), x), x).shape == (2, 7, 3)


@pytest.mark.parametrize(
    "pixels, hidden, count",
    [
        (784, (200, 200), 199_210),
        (784, (400,) * 5, 959_610),
        (3072, (200, 200), 656_810),
        (3072, (400, 400), 1_393_610),
        (3072, (25,) * 5, 79_685),
    ],
)
def test_published_parameter_counts(pixels, hidden, count):
    init = MLP((*hidden, 10), kernel_init=nn.initializers.he_normal()).init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, pixels)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_kernels_are_drawn_by_the_field_and_biases_are_zero():
    x = jnp.zeros((1, 400))
    for field, variance in (({}, 1), ({"kernel_init": nn.initializers.he_normal()}, 2)):
        params = MLP((300, 10), **field).init(jax.random.key(0), x)["params"]
        assert float(params["dense_0"]["kernel"].var()) * 400 == pytest.approx(variance, rel=0.05)
        assert not params["dense_0"]["bias"].any() and not params["dense_1"]["bias"].any()


def test_compute_and_parameter_dtypes():
    model = MLP((5, 3), dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(1), X)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert model.apply(variables, X).dtype == jnp.bfloat16


@pytest.mark.parametrize("features", [(), (8, 0), (8, 2.5)])
def test_features_must_be_positive_widths(features):
    with pytest.raises(ValueError, match="features must be positive layer widths, got .*: write"):
        MLP(features).init(jax.random.key(0), X)
