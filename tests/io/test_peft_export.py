import json

import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax import BitFit, Chain, Full, LoRA, LoraxError
from lorax.io.peft_config import CONFIG_NAME, TENSORS_NAME
from lorax.io.peft_export import save_peft
from lorax.io.peft_names import PREFIX
from tests.io.tiny import (
    HEAD,
    QUERY,
    VALUE,
    base_of,
    config_in,
    delta_of,
    gpt2,
    llama,
    roberta,
    tensors_in,
)

FUSED = LoRA(rank=2, alpha=3.0, where=(".*/qkv/kernel",))
QUERIES = LoRA(rank=2, alpha=3.0, where=(QUERY,))


def _save(tmp_path, model, adapter, delta=None, **fields):
    """(configuration, tensors) of what is written."""
    delta = delta_of(model, adapter) if delta is None else delta
    save_peft(tmp_path / "out", adapter, delta, model, overwrite=True, **fields)
    return config_in(tmp_path / "out"), tensors_in(tmp_path / "out")


def test_the_fields_that_are_always_written(tmp_path):
    config, tensors = _save(tmp_path, llama(), QUERIES, base_model_name="me/model")
    assert config == {
        "alpha_pattern": {}, "base_model_name_or_path": "me/model", "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "layers_to_transform": None, "lora_alpha": 3, "lora_bias": False, "lora_dropout": 0.0,
        "modules_to_save": None, "peft_type": "LORA", "r": 2, "rank_pattern": {},
        "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "use_dora": False,
        "use_rslora": False,
    }  # fmt: skip
    text = (tmp_path / "out" / CONFIG_NAME).read_text()
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    name = f"{PREFIX}model.layers.1.self_attn.q_proj.lora_{{}}.weight"
    assert tensors[name.format("A")].shape == (2, 16) and len(tensors) == 4
    assert {file.name for file in (tmp_path / "out").iterdir()} == {CONFIG_NAME, TENSORS_NAME}


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
def test_orientation_and_layers(tmp_path, scan):
    model = gpt2(scan=scan)
    delta = delta_of(model, FUSED)
    config, tensors = _save(tmp_path, model, FUSED, delta)
    assert config["fan_in_fan_out"] and config["target_modules"] == ["c_attn"]
    leaf = delta[f"params/{'layers' if scan else 'layer_1'}/attention/qkv/kernel"]
    a, b = (side[1] if scan else side for side in (leaf.A, leaf.B))
    name = f"{PREFIX}transformer.h.1.attn.c_attn.lora_{{}}.weight"
    np.testing.assert_array_equal(tensors[name.format("A")], a.T)
    np.testing.assert_array_equal(tensors[name.format("B")], b.T)


def test_patterns_are_anchored_and_exclusive(tmp_path):
    where = {QUERY: {"rank": 4}, ".*layer_1/attention/value/kernel": {"alpha": 2.5}}
    config, _ = _save(tmp_path, llama(), LoRA(2, 3.0, where))
    assert config["rank_pattern"] == {rf"^model\.layers\.{i}\.self_attn\.q_proj": 4 for i in (0, 1)}
    assert config["alpha_pattern"] == {r"^model\.layers\.1\.self_attn\.v_proj": 2.5}
    assert config["target_modules"] == ["model.layers.1.self_attn.v_proj", "q_proj"]


def test_layers_are_told_by_number_where_that_is_shorter(tmp_path):
    where = (".*layer_1/attention/(query|value)/kernel",)
    config, _ = _save(tmp_path, llama(), LoRA(2, where=where))
    assert (config["target_modules"], config["layers_to_transform"]) == (["q_proj", "v_proj"], [1])
    where = (".*layer_1/attention/query/kernel", "params/lm_head/kernel")
    config, _ = _save(tmp_path, llama(), LoRA(2, where=where))
    assert config["target_modules"] == ["lm_head", "model.layers.1.self_attn.q_proj"]
    assert config["layers_to_transform"] is None


@pytest.mark.parametrize(
    ("model", "adapter", "expected"),
    [
        (roberta(), Chain(QUERIES, HEAD), ("SEQ_CLS", ["classifier", "score"], "none")),
        (roberta(), QUERIES, (None, None, "none")),
        (
            roberta(),
            Chain(QUERIES, Full((".*classifier/out/.*",))),
            (None, ["out_proj"], "none"),
        ),
        (roberta(head="none"), QUERIES, (None, None, "none")),
        (roberta(head="masked_lm"), Chain(QUERIES, BitFit()), (None, None, "all")),
        (
            roberta(),
            Chain(QUERIES, HEAD, BitFit((r"params/(?!classifier).*/bias",))),
            ("SEQ_CLS", ["classifier", "score"], "all"),
        ),
        (gpt2(), Chain(FUSED, BitFit()), ("CAUSAL_LM", None, "all")),
        (gpt2(), Chain(FUSED, BitFit((".*/qkv/bias",))), ("CAUSAL_LM", None, "lora_only")),
        (llama(), Chain(QUERIES, Full(("params/norm/.*",))), ("CAUSAL_LM", ["model.norm"], "none")),
        (
            llama(),
            Chain(QUERIES, Full(("params/(embed|lm_head)/.*",))),
            ("CAUSAL_LM", ["embed_tokens", "lm_head"], "none"),
        ),
        (
            gpt2(),
            Chain(FUSED, Full(("params/embed/.*",))),
            ("CAUSAL_LM", ["lm_head", "wte"], "none"),
        ),
    ],
)
def test_tasks_modules_and_biases(tmp_path, model, adapter, expected):
    config, _ = _save(tmp_path, model, adapter)
    assert (config["task_type"], config["modules_to_save"], config["bias"]) == expected
    assert ("auto_mapping" in config) == (config["task_type"] is None)


def test_biases_of_adapted_modules_have_their_own_key(tmp_path):
    _, tensors = _save(tmp_path, gpt2(), Chain(FUSED, BitFit()))
    assert f"{PREFIX}transformer.h.0.attn.c_attn.base_layer.bias" in tensors
    assert f"{PREFIX}transformer.h.0.attn.c_proj.bias" in tensors


def test_the_suffix_of_a_module_that_we_lack_is_not_enough(tmp_path):
    dense = LoRA(2, where=(".*/(attention/out|mlp/up|mlp/down)/kernel",))
    config, _ = _save(tmp_path, roberta(head="none"), dense)
    # "dense" alone is the pooler's name too, which is in no layer
    assert (config["target_modules"], config["layers_to_transform"]) == (["dense"], [0, 1])
    config, _ = _save(tmp_path, roberta(), Chain(dense, HEAD))
    assert (config["target_modules"], config["layers_to_transform"]) == (["dense"], None)


def test_an_embedding_is_saved_with_its_adapter_where_peft_does(tmp_path):
    embedding = LoRA(2, where=("params/embed/embedding",))
    cases = ((llama(), True), (llama(tied=True), True), (gpt2(), False), (gpt2(tied=False), False))
    for model, copied in cases:
        base = base_of(model)
        config, tensors = _save(tmp_path, model, embedding, base=base)
        copies = [key for key in tensors if key.endswith("base_layer.weight")]
        assert len(copies) == copied * (1 + model.config.tied)
        for key in copies:
            np.testing.assert_array_equal(tensors[key], base["params"]["embed"]["embedding"])
        assert "lora_embedding_A" in str(sorted(tensors))
        assert ("lm_head" in config["target_modules"]) == model.config.tied
        assert not [k for k in _save(tmp_path, model, embedding)[1] if "base_layer" in k]


def test_a_module_trained_in_part_is_filled_from_the_base(tmp_path):
    model, adapter = roberta(), Chain(QUERIES, Full(("params/classifier/out/kernel",)))
    with pytest.raises(LoraxError, match="'params/classifier/out/bias' is not, but PEFT saves"):
        _save(tmp_path, model, adapter)
    base = base_of(model)
    config, tensors = _save(tmp_path, model, adapter, base=base)
    assert config["modules_to_save"] == ["out_proj"]
    bias = tensors[f"{PREFIX}classifier.out_proj.bias"]
    np.testing.assert_array_equal(bias, base["params"]["classifier"]["out"]["bias"])


@pytest.mark.parametrize(
    ("model", "adapter", "message"),
    [
        (llama(), Full(("params/norm/.*",)), "expected a LoRA among them"),
        (gpt2(), Chain(FUSED, BitFit((".*/up/bias",))), "2 biases are trained, 'params/layer_"),
        (llama(), LoRA(2, where=(QUERY,), initializer="pissa"), "expected base="),
    ],
)
def test_what_the_format_cannot_hold(tmp_path, model, adapter, message):
    delta = delta_of(model, adapter)
    with pytest.raises(LoraxError, match=message) as error:
        save_peft(tmp_path / "out", adapter, delta, model)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    delta = delta_of(llama(), QUERIES)
    leaf = next(iter(delta.values()))
    delta = {path: lorax.Factors(x.A, x.B * jnp.inf, leaf.roles) for path, x in delta.items()}
    with pytest.raises(LoraxError, match="holds NaN or infinity"):
        save_peft(tmp_path / "out", QUERIES, delta, llama())
    assert not list(tmp_path.iterdir())


def test_an_existing_directory_is_replaced_on_request_only(tmp_path):
    delta = delta_of(llama(), QUERIES)
    save_peft(tmp_path / "out", QUERIES, delta, llama())
    with pytest.raises(LoraxError, match="exists already"):
        save_peft(tmp_path / "out", QUERIES, delta, llama())
    with pytest.raises(LoraxError, match="target is 'sglang': expected one of 'peft', 'vllm'"):
        save_peft(tmp_path / "new", QUERIES, delta, llama(), target="sglang")
    other = LoRA(rank=2, alpha=5.0, where=(VALUE,))
    assert _save(tmp_path, llama(), other)[0]["lora_alpha"] == 5
    (tmp_path / "text").write_text("mine")
    with pytest.raises(LoraxError, match="does not replace it"):
        save_peft(tmp_path / "text", QUERIES, delta, llama(), overwrite=True)
