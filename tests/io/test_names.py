"""The name tables cover every leaf once, in both layouts, and agree with what others call them."""

import dataclasses

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.io.names import architecture, entries, leaf_shapes, module_name, ties, turn
from lorax.models.llama import Llama, LlamaConfig
from lorax.models.mlp import MLP

LLAMA = LlamaConfig(48, 16, 2, 4, 2, 24, max_length=32)


MODELS = [Llama(LLAMA), Llama(dataclasses.replace(LLAMA, tied=True))]
each_model = pytest.mark.parametrize(
    "model", MODELS, ids=lambda m: f"{architecture(m)}-tied={m.config.tied}"
)


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
