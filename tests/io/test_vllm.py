import numpy as np
import pytest

from lorax import BitFit, Chain, Full, LoRA, LoraxError
from lorax.io.parts import take_apart
from lorax.io.peft import load, save
from lorax.io.peft_names import tensor_table
from lorax.io.vllm import for_vllm
from tests.io.tiny import (
    QUERY,
    VALUE,
    base_of,
    config_in,
    delta_of,
    gpt2,
    llama,
    roberta,
    same,
    tensors_in,
)


def _parts(model, adapter):
    table = tensor_table(model)
    return for_vllm(model, table, take_apart(model, table, adapter, delta_of(model, adapter)))


def test_one_rank_and_scale_stay_as_they_are(tmp_path):
    adapter = LoRA(2, 3.0, (QUERY, "params/embed/embedding"), scaling="rslora")
    delta = delta_of(llama(), adapter)
    base = base_of(llama())
    save(tmp_path / "out", adapter, delta, llama(), target="vllm", base=base)
    config = config_in(tmp_path / "out")
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (2, 3, True)
    assert not [key for key in tensors_in(tmp_path / "out") if "base_layer" in key]
    assert same(load(tmp_path / "out", llama())[1], delta)


@pytest.mark.parametrize("scaling", ["standard", "rslora"])
def test_ranks_are_padded_and_scales_folded_in(tmp_path, scaling):
    adapter = LoRA(3, 3.0, {QUERY: {"rank": 2}, VALUE: {"alpha": 7.0}}, scaling=scaling)
    model = llama()
    delta = delta_of(model, adapter)
    save(tmp_path / "out", adapter, delta, model, target="vllm")
    config = config_in(tmp_path / "out")
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 3, False)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert {min(tensor.shape) for tensor in tensors_in(tmp_path / "out").values()} == {3}
    base = base_of(model)
    plain = adapter.merge(base, delta)
    served, padded = load(tmp_path / "out", model)
    merged = served.merge(base, padded)
    for path in ("query", "value"):
        ours, theirs = (
            tree["params"]["layer_0"]["attention"][path]["kernel"] for tree in (plain, merged)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "adapter", "message"),
    [
        (gpt2(), LoRA(2, where=(".*/qkv/kernel",)), "with a GPT2: vLLM applies adapters to Llama"),
        (roberta(), LoRA(2, where=(QUERY,)), "with a Roberta"),
        (
            llama(),
            Chain(LoRA(2, where=(QUERY,)), Full(("params/norm/scale",))),
            "'params/norm/scale' is trained whole",
        ),
        (gpt2(), Chain(LoRA(2, where=(".*/qkv/kernel",)), BitFit()), "with a GPT2"),
        (llama(tied=True), LoRA(2, where=("params/embed/embedding",)), "is tied, which vLLM"),
    ],
)
def test_what_vllm_does_not_serve_is_named(model, adapter, message):
    with pytest.raises(LoraxError, match=f"{message}.*merge it and serve"):
        _parts(model, adapter)


def test_the_largest_rank():
    adapter = LoRA(513, where=(".*/layer_0/attention/query/kernel",))
    with pytest.warns(UserWarning, match="wastes parameters"):
        delta = delta_of(llama(), adapter)
    table = tensor_table(llama())
    parts = take_apart(llama(), table, adapter, delta)
    with pytest.raises(LoraxError, match="rank is 513: vLLM serves at most 512"):
        for_vllm(llama(), table, parts)
