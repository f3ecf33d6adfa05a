"""Bottlenecks: where they stand, that they start as nothing, and the paper's counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters.bottleneck import AFTER_MLP, HOULSBY
from tests.adapters import gpt3
from tests.additions import DIM, MODELS, TOKENS, params

KEY = jax.random.key(0)
PLACES = [f"params/layer_{i}/{m}/kernel" for i in range(2) for m in ("attention/out", "mlp/down")]


def base_of(name, **changes):
    return {"params": params(name, **changes)}


@pytest.mark.parametrize("name", list(MODELS))
def test_houlsbys_stand_after_attention_and_feed_forward(name):
    adapter = lorax.Bottleneck(3)
    delta = adapter.init(KEY, base_of(name))
    assert list(delta) == PLACES
    for own in delta.values():
        assert own["down"].shape == (DIM, 3) and own["up"].shape == (3, DIM)
        assert 0 < float(jnp.abs(own["down"]).max()) < 0.05
        assert not any(own[part].any() for part in ("down_bias", "up", "up_bias"))
    added = adapter.additions(base_of(name), delta)
    assert added["additions/layer_1/mlp/down/up_bias"].shape == (DIM,)
    assert len(added) == 16
    scanned = adapter.init(KEY, base_of(name, scan=True))
    assert scanned["params/layers/mlp/down/kernel"]["up"].shape == (2, 3, DIM)
    assert set(adapter.additions(base_of(name, scan=True), scanned)) == {
        f"additions/layers/{module}/{part}"
        for module in ("attention/out", "mlp/down")
        for part in ("down", "down_bias", "up", "up_bias")
    }


def test_with_norm_and_after_the_feed_forward_alone():
    delta = lorax.Bottleneck(3, where=AFTER_MLP, norm=True).init(KEY, base_of("gpt2"))
    assert list(delta) == [path for path in PLACES if "mlp" in path]
    own = delta[PLACES[1]]
    assert own["norm_scale"].tolist() == [1.0] * DIM and not own["norm_bias"].any()
    excluded = lorax.Bottleneck(3, exclude=(".*layer_0.*",)).init(KEY, base_of("gpt2"))
    assert list(excluded) == PLACES[2:]


def test_draws_depend_on_the_path_alone():
    whole = lorax.Bottleneck(3).init(KEY, base_of("gpt2"))
    some = lorax.Bottleneck(3, where=AFTER_MLP).init(KEY, base_of("gpt2"))
    for path, own in some.items():
        np.testing.assert_array_equal(own["down"], whole[path]["down"])
    draws = {np.asarray(own["down"]).tobytes() for own in whole.values()}
    assert len(draws) == len(whole)


@pytest.mark.parametrize(
    ("rank", "printed"), [(1, 7.1), (4, 21.2), (8, 40.1), (16, 77.9), (64, 304.4)]
)
def test_gpt3_by_the_papers_formula(rank, printed):
    d = gpt3.WIDTH
    size = lambda **fields: gpt3.count(lorax.Bottleneck(rank, **fields))
    one = 2 * d * rank + rank + d
    assert size() == 192 * one and round(192 * one / 1e6, 1) == printed
    assert rank > 1 or size() == 7_078_080
    assert size(where=AFTER_MLP) == 96 * one
    assert size(where=AFTER_MLP, norm=True) == 96 * (one + 2 * d)


def test_a_description_is_the_adapter():
    adapter = lorax.Bottleneck(3, [".*/up/kernel"], norm=True)
    assert lorax.from_json(adapter.to_json()) == adapter and hash(adapter)
    assert lorax.Bottleneck().where == HOULSBY


def _unused():
    base = base_of("gpt2")
    base["params"]["extra"] = {"mlp": {"down": {"kernel": np.ones((4, 4), np.float32)}}}
    lorax.adapt(MODELS["gpt2"].apply, lorax.Bottleneck(2)).init(KEY, base, TOKENS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lorax.Bottleneck(0), "rank is 0"),
        (lambda: lorax.Bottleneck(2, ".*"), "where is '.*': expected a tuple"),
        (lambda: lorax.Bottleneck(2).init(KEY, {}), "without the collection 'params'"),
        (
            lambda: lorax.Bottleneck(2, (".*/nothing",)).init(KEY, base_of("llama")),
            "pattern '.*/nothing' matches none",
        ),
        (
            lambda: lorax.Bottleneck(2, (".*embed/embedding",)).init(KEY, base_of("llama")),
            "Bottleneck stands after the product with a 'kernel'",
        ),
        (_unused, "is adapted but the program never uses it"),
        (
            lambda: lorax.Bottleneck(2).merge(
                base_of("llama"), lorax.Bottleneck(3).init(KEY, base_of("llama"))
            ),
            r"'down' of the delta at 'params/layer_0/attention/out/kernel' has shape \(16, 3\)",
        ),
        (
            lambda: lorax.Bottleneck(2, norm=True).merge(
                base_of("llama"), lorax.Bottleneck(2).init(KEY, base_of("llama"))
            ),
            "expected a mapping of down, down_bias, up, up_bias, norm_scale, norm_bias",
        ),
        (lambda: lorax.Bottleneck(2).merge(base_of("llama"), {}), "delta is empty"),
    ],
)
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(lorax.LoraxError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
