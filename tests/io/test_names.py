"""The name tables cover every leaf once, in both layouts, and agree with what others call them."""

import dataclasses

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.io.names import architecture, entries, leaf_shapes, module_name, ties, turn
from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.models.mlp import MLP
from lorax.models.roberta import Roberta
from lorax.models.roberta_config import RobertaConfig

LLAMA = LlamaConfig(48, 16, 2, 4, 2, 24, max_length=32)
GPT = GPT2Config(48, 16, 2, 4, max_length=32)
ROBERTA = RobertaConfig(48, 16, 2, 4, 24, max_length=30)

MODELS = [
    Llama(LLAMA),
    Llama(dataclasses.replace(LLAMA, tied=True)),
    GPT2(GPT),
    GPT2(dataclasses.replace(GPT, tied=False)),
    Roberta(ROBERTA),
    Roberta(dataclasses.replace(ROBERTA, head="classification")),
    Roberta(dataclasses.replace(ROBERTA, head="masked_lm")),
    Roberta(dataclasses.replace(ROBERTA, head="masked_lm", tied=False)),
]


def label(model):
    head = getattr(model.config, "head", "lm")
    return f"{architecture(model)}-{head}-{'tied' if model.config.tied else 'untied'}"


each_model = pytest.mark.parametrize("model", MODELS, ids=label)


def scanned(model):
    return type(model)(dataclasses.replace(model.config, scan=True))


@each_model
def test_every_leaf_is_covered_once_in_both_layouts(model):
    plain = [entry.path for entry in entries(model)]
    assert sorted(plain) == sorted(leaf_shapes(model))
    assert all(entry.layer is None for entry in entries(model))

    shapes, found = leaf_shapes(scanned(model)), {}
    for entry in entries(scanned(model)):
        found.setdefault(entry.path, []).append(entry.layer)
    assert set(found) == set(shapes)
    for path, layers in found.items():
        assert layers == (list(range(2)) if path.startswith("params/layers/") else [None])


@each_model
def test_their_names_are_distinct_and_do_not_depend_on_the_layout(model):
    names = [entry.name for entry in entries(model)]
    assert len(set(names)) == len(names)
    assert names == [entry.name for entry in entries(scanned(model))]
    assert not set(ties(model)) & set(names)
    assert set(ties(model).values()) <= set(leaf_shapes(model))


def test_llama_names_are_those_of_transformers():
    names = {entry.path: entry.name for entry in entries(Llama(LLAMA))}
    assert names["params/embed/embedding"] == "model.embed_tokens.weight"
    assert names["params/layer_1/attention/out/kernel"] == "model.layers.1.self_attn.o_proj.weight"
    assert names["params/lm_head/kernel"] == "lm_head.weight"
    tied = Llama(dataclasses.replace(LLAMA, tied=True))
    assert ties(tied) == {"lm_head.weight": "params/embed/embedding"}
    assert ties(Llama(LLAMA)) == {}


def test_gpt2_names_are_those_of_transformers():
    found = {entry.path: entry for entry in entries(GPT2(GPT))}
    qkv = found["params/layer_1/attention/qkv/kernel"]
    assert (qkv.name, qkv.kind) == ("transformer.h.1.attn.c_attn.weight", "conv1d")
    assert found["params/norm/bias"].name == "transformer.ln_f.bias"


def test_roberta_names_depend_on_the_head():
    def name(head, path):
        model = Roberta(dataclasses.replace(ROBERTA, head=head))
        return {entry.path: entry.name for entry in entries(model)}[path]

    embedding = "embeddings.word_embeddings.weight"
    assert name("none", "params/embed/embedding") == embedding
    assert name("classification", "params/embed/embedding") == f"roberta.{embedding}"
    path = "params/layer_0/attention_norm/scale"
    inner = "encoder.layer.0.attention.output.LayerNorm.weight"
    assert name("masked_lm", path) == f"roberta.{inner}"
    out = "params/classifier/out/bias"
    assert name("classification", out) == "classifier.out_proj.bias"


def test_turn_is_its_own_inverse():
    x = np.arange(6).reshape(2, 3)
    for kind in ("linear", "conv1d", "embedding", "vector"):
        assert (turn(kind, turn(kind, x)) == x).all()
    assert turn("linear", x).shape == (3, 2) and turn("conv1d", x).shape == (2, 3)


def test_module_names_are_names_without_weight_or_bias():
    assert module_name("model.norm.weight") == "model.norm"
    with pytest.raises(LoraxError, match="no module's weight"):
        module_name("model.norm.scale")


def test_a_model_without_names_is_refused():
    with pytest.raises(LoraxError, match="model is a MLP: expected an instance of Llama"):
        entries(MLP((4, 2)))
