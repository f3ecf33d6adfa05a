"""Prefixes: PEFT's layout of a row, layered and scanned alike, its network, and its counts."""

import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import lorax
from tests.adapters import gpt3
from tests.adapters.test_places import layered
from tests.additions import DIM, LAYERS, MODELS, params

KEY = jax.random.key(0)
RECORDED = pathlib.Path(__file__).parents[1] / "fixtures" / "methods"
KV = {"llama": 8, "gpt2": DIM, "roberta": DIM}


def base_of(name, **changes):
    return {"params": params(name, **changes)}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_row_is_key_and_value_of_layer_after_layer(name):
    adapter = lorax.PrefixTuning(3)
    prefix = np.arange(3 * 2 * LAYERS * KV[name], dtype=np.float32).reshape(3, -1)
    delta = {"prefix": prefix}
    single = adapter.additions(base_of(name), delta)
    stacked = adapter.additions(base_of(name, scan=True), delta)
    blocks = np.split(prefix, 2 * LAYERS, axis=1)
    for i in range(LAYERS):
        for k, part in enumerate(("key", "value")):
            found = single[f"additions/layer_{i}/attention/{part}"]
            np.testing.assert_array_equal(found, blocks[2 * i + k])
            np.testing.assert_array_equal(stacked[f"additions/layers/attention/{part}"][i], found)
    assert len(single) == 2 * LAYERS and len(stacked) == 2


def test_of_twelve_layers_the_third_is_not_the_eleventh():
    leaves = layered(12)
    base = {"params": {}}
    for path, leaf in leaves.items():
        base["params"][path.split("/")[1]] = {"attention": {"out": {"kernel": leaf}}}
    adapter = lorax.PrefixTuning(1)
    delta = {"prefix": np.arange(12 * 2 * 8, dtype=np.float32)[None]}
    found = adapter.additions(base, delta)
    for i in range(12):
        assert found[f"additions/layer_{i}/attention/key"][0, 0] == 16 * i
        assert found[f"additions/layer_{i}/attention/value"][0, 0] == 16 * i + 8


@pytest.mark.parametrize("name", list(MODELS))
def test_the_same_weights_make_the_prefix_that_peft_made(name):
    folder = RECORDED / f"prefix_projection_{name}"
    encoder = np.load(folder / "encoder.npz")
    delta = {"embedding": encoder["embedding.weight"]}
    for ours, theirs in (("first", "transform.0"), ("second", "transform.2")):
        delta[f"{ours}/kernel"] = encoder[f"{theirs}.weight"].T
        delta[f"{ours}/bias"] = encoder[f"{theirs}.bias"]
    adapter = lorax.PrefixTuning(5, hidden=6)
    adapter.additions(base_of(name), delta)  # its shapes are those of our model
    theirs = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    np.testing.assert_allclose(adapter.prefix(delta), theirs, atol=1e-6)


def test_counts_are_closed_forms():
    size = lambda *args: gpt3.count(lorax.PrefixTuning(*args), base_of("gpt2"))
    assert size(5) == 5 * 2 * LAYERS * DIM == 320  # both are PEFT's, of GPT-2 with D = 16
    assert size(5, 12) == 5 * DIM + (DIM * 12 + 12) + 13 * 2 * LAYERS * DIM == 1116


def test_zero_starts_at_zero_and_random_networks_as_torch_starts_them():
    base = base_of("llama")
    assert not lorax.PrefixTuning(3, initializer="zero").init(KEY, base)["prefix"].any()
    normal = lorax.PrefixTuning(99).init(KEY, base)["prefix"]
    assert abs(float(normal.std()) - 1) < 0.05 and normal.shape == (99, 32)
    adapter = lorax.PrefixTuning(3, hidden=4, initializer="zero")
    delta = adapter.init(KEY, base)
    assert not adapter.prefix(delta).any() and delta["first/kernel"].any()
    drawn = lorax.PrefixTuning(3, hidden=4).init(KEY, base)["second/kernel"]
    assert 0.4 < float(abs(drawn).max()) <= 0.5  # 1 / sqrt(4)


def test_some_layers_alone():
    adapter = lorax.PrefixTuning(2, attention=".*layer_1/attention")
    delta = {"prefix": np.ones((2, 2 * 8), np.float32)}
    assert set(adapter.additions(base_of("llama"), delta)) == {
        "additions/layer_1/attention/key",
        "additions/layer_1/attention/value",
    }


def test_a_description_is_the_adapter():
    adapter = lorax.PrefixTuning(3, 4, "zero", attention=".*/mixer")
    assert lorax.from_json(adapter.to_json()) == adapter and hash(adapter)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lorax.PrefixTuning(0), "tokens is 0"),
        (lambda: lorax.PrefixTuning(2, -1), "hidden is -1"),
        (lambda: lorax.PrefixTuning(2, initializer="vocabulary"), "initializer is 'vocabulary'"),
        (
            lambda: lorax.PrefixTuning(2, attention="mixer").init(KEY, base_of("llama")),
            "attention='mixer' matches no module",
        ),
        (lambda: lorax.PrefixTuning(2).init(KEY, {"w": np.ones(2)}), "the collection 'params'"),
        (
            lambda: lorax.PrefixTuning(2).merge(base_of("llama"), {"prefix": np.ones((2, 64))}),
            r"has shape \(2, 64\) but this PrefixTuning needs \(2, 32\)",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(lorax.LoraxError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
