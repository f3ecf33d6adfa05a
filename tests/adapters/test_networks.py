"""Dense layers and the LSTM are torch's: numbers of an LSTM by hand, and those PEFT recorded."""

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters.networks import dense, dense_starts, lstm, lstm_starts
from lorax.adapters.starts import draw

KEY = jax.random.key(0)


def test_a_dense_layer_starts_as_torch_starts_it():
    arrays = draw(dense_starts("first", 25, 400), KEY, jnp.float32)
    assert arrays["first/kernel"].shape == (25, 400) and arrays["first/bias"].shape == (400,)
    for array in arrays.values():
        assert 0.19 < float(jnp.abs(array).max()) <= 0.2  # 1 / sqrt(25)
    x = np.ones((2, 25), np.float32)
    by_hand = x @ np.asarray(arrays["first/kernel"]) + np.asarray(arrays["first/bias"])
    np.testing.assert_allclose(dense(arrays, "first", x), by_hand, rtol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(arrays, x):
    """The equations, step by step in numpy."""
    for layer in range(2):
        sides = []
        for direction in ("forward", "backward"):
            part = lambda name, d=direction, n=layer: np.asarray(arrays[f"lstm/{n}/{d}/{name}"])
            rows = x if direction == "forward" else x[::-1]
            h = c = np.zeros(part("hidden/kernel").shape[0])
            states = []
            for row in rows:
                gates = row @ part("input/kernel") + part("input/bias")
                gates = gates + h @ part("hidden/kernel") + part("hidden/bias")
                i, f, g, o = np.split(gates, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
                states.append(h)
            sides.append(np.stack(states if direction == "forward" else states[::-1]))
        x = np.concatenate(sides, axis=1)
    return x


def test_the_lstm_is_its_equations():
    starts = lstm_starts(4, 3)
    # two layers, two directions, two biases each
    assert sum(np.prod(s.shape) for s in starts.values()) == 2 * (12 * (4 + 3 + 2) + 12 * (6 + 5))
    arrays = draw(starts, KEY, jnp.float32)
    assert all(float(jnp.abs(array).max()) <= 3**-0.5 for array in arrays.values())
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    found = lstm(arrays, jnp.asarray(x))
    assert found.shape == (5, 6)
    np.testing.assert_allclose(found, by_hand(arrays, x), atol=1e-6)
