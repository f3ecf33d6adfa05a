"""States of virtual tokens, one a layer: where they go, and the paper's counts."""

import jax
import numpy as np
import pytest

import lorax
from tests.adapters import gpt3
from tests.additions import DIM, LAYERS, MODELS, params

KEY = jax.random.key(0)


def base_of(name, **changes):
    return {"params": params(name, **changes)}


@pytest.mark.parametrize("name", list(MODELS))
def test_states_go_to_every_layer_layered_and_scanned_alike(name):
    adapter = lorax.PrefixLayer(3, 2)
    states = np.arange(LAYERS * 5 * DIM, dtype=np.float32).reshape(LAYERS, 5, DIM)
    delta = {"states": states}
    single = adapter.additions(base_of(name), delta)
    stacked = adapter.additions(base_of(name, scan=True), delta)
    for found in (single, stacked):
        np.testing.assert_array_equal(found["additions/embeddings"], states[0, :3])
        np.testing.assert_array_equal(found["additions/infix"], states[0, 3:])
    for i in range(LAYERS):
        np.testing.assert_array_equal(single[f"additions/layer_{i}/states"], states[i])
    np.testing.assert_array_equal(stacked["additions/layers/states"], states)
    assert len(single) == 2 + LAYERS and len(stacked) == 3
    assert "additions/infix" not in lorax.PrefixLayer(5).additions(base_of(name), delta)


@pytest.mark.parametrize(("tokens", "infix"), [(2, 2), (8, 0), (8, 8), (32, 4), (64, 0)])
def test_gpt3_by_the_papers_formula(tokens, infix):
    counted = gpt3.count(lorax.PrefixLayer(tokens, infix))
    assert counted == gpt3.LAYERS * gpt3.WIDTH * (tokens + infix)


def test_states_start_standard_normal():
    states = np.asarray(lorax.PrefixLayer(40, 2).init(KEY, base_of("gpt2"))["states"])
    assert states.shape == (LAYERS, 42, DIM) and states.dtype == np.float32
    assert abs(states.std() - 1) < 0.05 and abs(states.mean()) < 0.05


def test_a_description_is_the_adapter():
    adapter = lorax.PrefixLayer(3, 1, attention=".*/mixer")
    assert lorax.from_json(adapter.to_json()) == adapter and hash(adapter)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lorax.PrefixLayer(0), "tokens is 0"),
        (lambda: lorax.PrefixLayer(1, -1), "infix is -1"),
        (
            lambda: lorax.PrefixLayer(2, attention="mixer").init(KEY, base_of("llama")),
            "attention='mixer' matches no module",
        ),
        (lambda: lorax.PrefixLayer(2).init(KEY, [np.ones(2)]), "base is a list without"),
        (
            lambda: lorax.PrefixLayer(2).merge(base_of("llama"), {"states": np.ones((2, 3, DIM))}),
            r"has shape \(2, 3, 16\) but this PrefixLayer needs \(2, 2, 16\)",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(lorax.LoraxError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
