"""config.json and our configs: both spellings, an inverse, and a refusal that names the field."""

import pathlib

import pytest

from lorax.core.errors import LoraxError
from lorax.io.hf_config import model_of, table_of
from lorax.io.json_file import read_json
from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from lorax.models.llama import Llama
from lorax.models.llama_config import LLAMA_7B, LlamaConfig
from lorax.models.roberta import Roberta
from lorax.models.roberta_config import ROBERTA_BASE, RobertaConfig
from lorax.models.rotary import RopeScaling

FIXTURES = sorted((pathlib.Path(__file__).parents[1] / "fixtures" / "models").iterdir())

SCALING = RopeScaling(32.0, 1.0, 4.0, 8192)
MODELS = [
    Llama(LlamaConfig(48, 16, 2, 4, 2, 24, max_length=32)),
    Llama(LlamaConfig(48, 16, 2, 4, 4, 24, tied=True, rope_theta=5e5, rope_scaling=SCALING)),
    GPT2(GPT2Config(48, 16, 2, 4)),
    GPT2(GPT2Config(48, 16, 2, 4, max_length=32, hidden_dim=40, dropout=0.1, tied=False)),
    Roberta(RobertaConfig(48, 16, 2, 4, 32)),
    Roberta(RobertaConfig(48, 16, 2, 4, 32, max_length=20, types=2, pad_id=0, dropout=0.2)),
    Roberta(RobertaConfig(48, 16, 2, 4, 32, head="classification", labels=3)),
    Roberta(RobertaConfig(48, 16, 2, 4, 32, head="classification", labels=1)),
    Roberta(RobertaConfig(48, 16, 2, 4, 32, head="masked_lm", tied=False)),
]


def llama(**changes):
    """Llama 3.2 1B's fields as transformers 4 writes them, some of them changed; `...` removes."""
    table = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 128256,
    }
    return {name: value for name, value in (table | changes).items() if value is not ...}


GPT2_TABLE = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_type": "cls_index",
    "task_specific_params": {"text-generation": {"do_sample": True}},
    "vocab_size": 50257,
}
ROBERTA_TABLE = {
    "architectures": ["RobertaForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "model_type": "roberta",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "vocab_size": 50265,
}
CLASSIFIER = ROBERTA_TABLE | {"architectures": ["RobertaForSequenceClassification"]}


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_table_of_is_the_inverse_of_model_of(model):
    assert model_of(table_of(model, "float32")) == model


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_what_transformers_wrote_comes_back(folder):
    table = read_json(folder / "config.json")
    written = table_of(model_of(table), table["dtype"], table)
    ours_alone = {"n_inner", "position_embedding_type", "torch_dtype", "rope_theta", "rope_scaling"}
    ours_alone |= {"id2label", "label2id"}  # transformers leaves two unnamed labels out
    assert {k: v for k, v in written.items() if table.get(k) != v}.keys() <= ours_alone
    assert model_of(written) == model_of(table)


def test_published_configs_are_read():
    config = model_of(llama(), scan=True, dtype="bfloat16").config
    assert config == LlamaConfig(
        128256, 2048, 16, 32, 8, 8192, max_length=131072, rope_theta=5e5, tied=True, scan=True,
        dtype="bfloat16", rope_scaling=SCALING,
    )  # fmt: skip
    assert model_of(GPT2_TABLE).config == GPT2Config(50257, 768, 12, 12, dropout=0.1)
    wanted = RobertaConfig(50265, 768, 12, 12, 3072, head="masked_lm", dropout=0.1)
    assert model_of(ROBERTA_TABLE).config == wanted
    assert ROBERTA_BASE.max_length == wanted.max_length


def test_both_spellings_of_rope_mean_the_same():
    old = llama()
    new = llama(rope_theta=..., rope_scaling=...)
    new["rope_parameters"] = old["rope_scaling"] | {"rope_theta": 500000.0}
    older = llama(rope_scaling={**old["rope_scaling"], "type": "llama3"})
    del older["rope_scaling"]["rope_type"]
    assert model_of(old) == model_of(new) == model_of(older)
    plain = model_of(llama(rope_scaling=None, rope_theta=...)).config
    assert (plain.rope_theta, plain.rope_scaling) == (10000.0, None)
    default = {"rope_theta": 10000.0, "rope_type": "default"}
    new = llama(rope_scaling=..., rope_theta=..., rope_parameters=default)
    assert model_of(new).config == plain


def test_fields_that_a_file_may_leave_out_are_those_of_transformers():
    table = llama(num_key_value_heads=..., rms_norm_eps=..., tie_word_embeddings=..., head_dim=...)
    config = model_of(table).config
    assert (config.kv_heads, config.norm_eps, config.tied) == (32, 1e-6, False)
    assert config.head_dim == LLAMA_7B.head_dim // 2


def test_labels_are_counted_by_name_or_number():
    labels = {"0": "no", "1": "yes", "2": "maybe"}
    assert model_of(CLASSIFIER).config.labels == 2
    assert model_of(CLASSIFIER | {"num_labels": 5}).config.labels == 5
    assert model_of(CLASSIFIER | {"id2label": labels}).config.labels == 3
    regression = {"id2label": {"0": "score"}, "problem_type": "regression"}
    assert model_of(CLASSIFIER | regression).config.labels == 1


def test_names_of_labels_and_special_tokens_are_kept_from_a_like_table():
    labels = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    like = CLASSIFIER | labels | {"eos_token_id": 7, "pad_token_id": 3}
    table = table_of(model_of(CLASSIFIER), "float32", like)
    assert (table["id2label"], table["label2id"]) == tuple(labels.values())
    assert table["eos_token_id"] == 7
    assert table["pad_token_id"] == 1  # decides positions, so ours is the one written
    assert table_of(model_of(llama()), "float32", llama(pad_token_id=9))["pad_token_id"] == 9
    other = model_of(CLASSIFIER | {"num_labels": 3})
    assert len(table_of(other, "float32", like)["id2label"]) == 3


def test_dropout_is_one_rate_or_chosen():
    with pytest.raises(LoraxError, match="dropout rates differ.*'attn_pdrop': 0.0.*dropout=0.1"):
        model_of(GPT2_TABLE | {"attn_pdrop": 0.0})
    assert model_of(GPT2_TABLE | {"attn_pdrop": 0.0}, dropout=0.2).config.dropout == 0.2
    assert model_of(CLASSIFIER | {"classifier_dropout": None}).config.dropout == 0.1
    with pytest.raises(LoraxError, match="'classifier_dropout': 0.3"):
        model_of(CLASSIFIER | {"classifier_dropout": 0.3})


WRONG = [
    (llama(), {"architectures": ["MistralForCausalLM"]}, "architectures is ['MistralFor"),
    (llama(), {"architectures": ...}, "architectures is None"),
    (llama(), {"architectures": [["LlamaForCausalLM"]]}, "architectures is [["),
    (llama(), {"architectures": "LlamaForCausalLM"}, "architectures is 'Llama"),
    (llama(), {"model_type": "mistral"}, "model_type is 'mistral'"),
    (llama(), {"attention_bias": True}, "attention_bias is True"),
    (llama(), {"mlp_bias": True}, "mlp_bias is True"),
    (llama(), {"mlp_bias": 0}, "mlp_bias is 0"),
    (llama(), {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    (llama(), {"attention_dropout": 0.1}, "attention_dropout is 0.1"),
    (llama(), {"head_dim": 128}, "head_dim is 128"),
    (llama(), {"quantization_config": {"bits": 4}}, "quantization_config is {'bits'"),
    (llama(), {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
    (llama(), {"rope_scaling": {"rope_type": ["x"]}}, "rope_type is ['x']"),
    (llama(), {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "has the fields"),
    (llama(), {"rope_scaling": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    (llama(), {"rope_scaling": 8.0}, "rope_scaling is 8.0"),
    (llama(), {"rope_theta": "1e4"}, "rope_theta is '1e4'"),
    (llama(), {"rope_theta": float("nan")}, "rope_theta must be a finite number"),
    (llama(), {"hidden_size": ...}, "hidden_size is missing"),
    (llama(), {"hidden_size": None}, "hidden_size is None"),
    (llama(), {"hidden_size": "2048"}, "hidden_size is '2048'"),
    (llama(), {"hidden_size": 2048.0}, "hidden_size is 2048.0"),
    (llama(), {"hidden_size": -2048, "head_dim": ...}, "dim must be a positive integer"),
    (llama(), {"num_hidden_layers": True}, "num_hidden_layers is True"),
    (llama(), {"num_hidden_layers": 10**30}, "num_hidden_layers is 1000"),
    (llama(), {"num_attention_heads": 0, "head_dim": ...}, "heads must be a positive integer"),
    (llama(), {"num_key_value_heads": 5}, "heads must be a multiple of kv_heads"),
    (llama(), {"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    (GPT2_TABLE, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    (GPT2_TABLE, {"scale_attn_weights": False}, "scale_attn_weights is False"),
    (GPT2_TABLE, {"activation_function": "relu"}, "activation_function is 'relu'"),
    (GPT2_TABLE, {"add_cross_attention": True}, "add_cross_attention"),
    (GPT2_TABLE, {"embd_pdrop": "0.1"}, "embd_pdrop is '0.1'"),
    (ROBERTA_TABLE, {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    (ROBERTA_TABLE, {"is_decoder": True}, "is_decoder is True"),
    (ROBERTA_TABLE, {"max_position_embeddings": 2}, "max_length must be a positive integer"),
    (ROBERTA_TABLE, {"pad_token_id": None}, "pad_token_id is None"),
    (CLASSIFIER, {"id2label": ["a", "b"]}, "id2label is ['a', 'b']"),
    (CLASSIFIER, {"id2label": {"0": "a"}, "num_labels": 2}, "num_labels is 2 but id2label names 1"),
    (CLASSIFIER, {"problem_type": "regression"}, "problem_type is 'regression' with 2 labels"),
]  # fmt: skip


@pytest.mark.parametrize("table, changes, words", WRONG, ids=[words for *_, words in WRONG])
def test_what_our_models_do_not_have_is_refused_by_name(table, changes, words):
    changed = {name: value for name, value in (table | changes).items() if value is not ...}
    with pytest.raises(LoraxError) as caught:
        model_of(changed)
    assert words in str(caught.value) and "\n" not in str(caught.value)
