import pytest

from lorax import LoraxError
from lorax.io.peft_config import PeftConfig
from lorax.io.peft_names import (
    canonical,
    check_patterns_used,
    factor_keys,
    matching,
    matrices,
    other_modules,
    saved_tensors,
    target_names,
    targeted,
    tensor_table,
    tied_partners,
)
from tests.io.tiny import gpt2, llama, roberta


def _targets(model, **fields):
    return targeted(PeftConfig(**fields), model, matrices(tensor_table(model)))


def _llama(*parts):
    return [f"model.layers.{i}.{part}" for i in (0, 1) for part in parts]


def test_table_of_tensors():
    table = tensor_table(gpt2(scan=True))
    fused = table["transformer.h.1.attn.c_attn.weight"]
    assert fused == (
        "transformer.h.1.attn.c_attn.weight", "params/layers/attention/qkv/kernel", 1, "conv1d",
        (16, 48), False,
    )  # fmt: skip
    assert (fused.module, fused.sides) == ("transformer.h.1.attn.c_attn", (16, 48))
    head, lookup = table["lm_head.weight"], table["transformer.wte.weight"]
    assert head.tied and head.path == lookup.path and head.shape == lookup.shape == (24, 16)
    assert (head.sides, lookup.sides) == ((16, 24), (24, 16))
    key = tensor_table(llama())["model.layers.0.self_attn.k_proj.weight"]
    assert (key.shape, key.sides) == ((8, 16), (16, 8))
    assert tied_partners(table, ["lm_head.weight"]) == {"lm_head.weight", "transformer.wte.weight"}


def test_keys():
    table = tensor_table(llama())
    assert factor_keys(table["model.norm.weight"])[0] == "model.norm.lora_A.weight"
    assert factor_keys(table["model.embed_tokens.weight"]) == (
        "model.embed_tokens.lora_embedding_A",
        "model.embed_tokens.lora_embedding_B",
    )
    for key, short in {
        "base_model.model.a.lora_A.weight": "a.lora_A.weight",
        "base_model.model.a.lora_A.default.weight": "a.lora_A.weight",
        "base_model.model.a.lora_embedding_B.other": "a.lora_embedding_B",
        "base_model.model.a.lora_embedding_B": "a.lora_embedding_B",
        "base_model.model.a.base_layer.bias": "a.base_layer.bias",
    }.items():
        assert canonical(key) == short


QUERIES, VALUES = _llama("self_attn.q_proj"), _llama("self_attn.v_proj")
BOTH = _llama("self_attn.q_proj", "self_attn.v_proj")
UP = "model.layers.1.mlp.up_proj"
QUERY = {"target_modules": ("q_proj",)}
LATER = {"layers_to_transform": (1,)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target_modules": None}, BOTH),
        (QUERY, QUERIES),
        ({"target_modules": ("proj",)}, []),  # a part of a name is no name
        ({"target_modules": ()}, []),
        ({"target_modules": (UP,)}, [UP]),
        ({"target_modules": ("1.mlp.up_proj", "lm_head")}, [UP, "lm_head"]),
        ({"target_modules": r".*\.0\..*(q|v)_proj"}, BOTH[:2]),
        ({"target_modules": "q_proj"}, []),  # an expression matches in full
        (QUERY | {"exclude_modules": r".*\.1\..*"}, QUERIES[:1]),
        ({"target_modules": ("q_proj", "v_proj"), "exclude_modules": ("q_proj",)}, VALUES),
        (QUERY | LATER, QUERIES[1:]),
        (QUERY | {"layers_to_transform": (0,)}, QUERIES[:1]),
        (QUERY | LATER | {"layers_pattern": ("layers",)}, QUERIES[1:]),
        (QUERY | LATER | {"layers_pattern": ("h",)}, []),
        ({"target_modules": ("lm_head", "q_proj")} | LATER, [*QUERIES[1:], "lm_head"]),
        (QUERY | {"modules_to_save": ("self_attn",)}, []),
        (QUERY | {"modules_to_save": ("embed_tokens",)}, QUERIES),
    ],
)
def test_targeting(fields, expected):
    assert _targets(llama(), **fields) == expected


def test_all_linear_leaves_out_lookups_and_the_head():
    found = _targets(llama(), target_modules="all-linear")
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert [name.rpartition(".")[2] for name in found] == [*parts, *parts]
    assert len(_targets(gpt2(), target_modules="all-linear")) == 8
    inside = _targets(roberta(), target_modules="all-linear", task_type="SEQ_CLS")
    assert len(inside) == 12 and not [name for name in inside if "classifier" in name]
    assert _targets(roberta(head="masked_lm"), target_modules="ALL-linear")[-1] == "lm_head.dense"


def test_modules_trained_whole():
    table = tensor_table(roberta())
    head = {
        f"classifier.{part}.{leaf}" for part in ("dense", "out_proj") for leaf in ("weight", "bias")
    }
    for fields in ({"task_type": "SEQ_CLS"}, {"modules_to_save": ("classifier", "score")}):
        assert saved_tensors(PeftConfig(**fields), table) == head
    norms = saved_tensors(PeftConfig(modules_to_save=("norm",)), tensor_table(llama()))
    assert len(norms) == 5 and "model.layers.1.input_layernorm.weight" in norms  # in mid-word
    assert saved_tensors(PeftConfig(), table) == set()


def test_patterns_are_matched_as_peft_does():
    path = "model.layers.1.self_attn.q_proj"
    for pattern, hit in {
        "q_proj": True, "proj": False, "layers.1": False, r"layers\.1\..*": True, "^q_proj": False,
        "^model.layers.1.self_attn.q_proj": True, ".*q_proj": True, "self_attn.q": False,
    }.items():  # fmt: skip
        assert bool(matching({pattern: 1}, path)) == hit, pattern
    assert matching({"q_proj": 2, "v_proj": 3, ".*_proj": 5}, path) == [2, 5]
    check_patterns_used("rank_pattern", {"q_proj": 1}, [path])
    with pytest.raises(LoraxError, match="rank_pattern has 'up', which matches none of 1 adapted"):
        check_patterns_used("rank_pattern", {"up": 1}, [path])
    with pytest.raises(LoraxError, match="no regular expression"):
        matching({"(?i)q_proj": 1}, path)


def test_names_written_select_what_was_adapted():
    modules = [*_llama("self_attn.q_proj", "mlp.up_proj"), "lm_head"]
    assert target_names(_llama("self_attn.q_proj"), modules) == ["q_proj"]
    assert target_names([*modules], modules) == ["lm_head", "q_proj", "up_proj"]
    one = ["model.layers.1.mlp.up_proj", "lm_head"]
    assert target_names(one, modules) == ["lm_head", "model.layers.1.mlp.up_proj"]
    assert other_modules(roberta(head="none")) == ("pooler.dense",)
    assert other_modules(roberta()) == other_modules(llama()) == ()
