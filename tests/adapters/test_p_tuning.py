"""Encoders of virtual tokens: what PEFT's make of the same weights, and how many numbers learn."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import lorax
from tests.adapters import gpt3
from tests.additions import DIM, params

KEY = jax.random.key(0)
BASE = {"params": params("gpt2")}
RECORDED = pathlib.Path(__file__).parents[1] / "fixtures" / "methods"

_LSTM = {
    f"lstm/{layer}/{direction}/{part}": (f"{theirs}_l{layer}{suffix}")
    for layer in range(2)
    for direction, suffix in (("forward", ""), ("backward", "_reverse"))
    for part, theirs in (("input", "ih"), ("hidden", "hh"))
}


def from_torch(encoder):
    """The delta of PEFT's weights: kernels are transposed."""
    heads = sorted({name.rpartition(".")[0] for name in encoder if name.startswith("mlp_head")})
    delta = {"embedding": encoder["embedding.weight"]}
    for ours, theirs in zip(("first", "second", "third"), heads, strict=False):
        delta[f"{ours}/kernel"] = encoder[f"{theirs}.weight"].T
        delta[f"{ours}/bias"] = encoder[f"{theirs}.bias"]
    for ours, theirs in _LSTM.items():
        if f"lstm_head.weight_{theirs}" in encoder:
            delta[f"{ours}/kernel"] = encoder[f"lstm_head.weight_{theirs}"].T
            delta[f"{ours}/bias"] = encoder[f"lstm_head.bias_{theirs}"]
    return delta


@pytest.mark.parametrize("model", ["gpt2", "llama", "roberta"])
@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_the_same_weights_make_the_virtual_tokens_that_peft_made(kind, model):
    folder = RECORDED / f"p_tuning_{kind}_{model}"
    delta = from_torch(np.load(folder / "encoder.npz"))
    adapter = lorax.PTuning(5, kind, hidden=6)
    base = {"params": params(model)}
    own = jax.eval_shape(functools.partial(adapter.init, KEY), base)
    assert {name: leaf.shape for name, leaf in own.items()} == {
        name: leaf.shape for name, leaf in delta.items()
    }
    found = adapter.additions(base, delta)["additions/embeddings"]
    theirs = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    np.testing.assert_allclose(found, theirs, atol=1e-6)


@pytest.mark.parametrize(("n", "h"), [(5, 12), (3, 16)])
def test_counts_are_closed_forms(n, h):
    d = DIM
    size = lambda *args: gpt3.count(lorax.PTuning(*args), BASE)
    assert size(n, "mlp", h) == n * d + (d * h + h) + (h * h + h) + (h * d + d)
    lstm = 2 * 4 * h * (d + h + 2) + 2 * 4 * h * (2 * h + h + 2)
    assert size(n, "lstm", h) == n * d + lstm + (4 * h * h + 2 * h) + (2 * h * d + d)
    assert size(5, "mlp", 12) == 648  # PEFT's, of GPT-2 with D = 16


def test_hidden_is_as_wide_as_the_model_by_default():
    wide, narrow = lorax.PTuning(2), lorax.PTuning(2, hidden=DIM)
    assert gpt3.count(wide, BASE) == gpt3.count(narrow, BASE)


def test_a_description_is_the_adapter():
    adapter = lorax.PTuning(np.int64(3), "lstm", 4)
    assert lorax.from_json(adapter.to_json()) == adapter and hash(adapter)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lorax.PTuning(0), "tokens is 0"),
        (lambda: lorax.PTuning(2, "gru"), "encoder is 'gru': expected one of 'mlp', 'lstm'"),
        (lambda: lorax.PTuning(2, hidden=1.5), "hidden is 1.5"),
        (lambda: lorax.PTuning(2).init(KEY, {}), "without the collection 'params'"),
        (
            lambda: lorax.PTuning(2, "lstm").merge(BASE, {"embedding": np.ones((2, DIM))}),
            "expected a mapping of embedding, lstm/0/forward/input/kernel",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(lorax.LoraxError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
