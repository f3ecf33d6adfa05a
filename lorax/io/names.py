"""What do other people call a leaf? Our paths against the names of Hugging Face, with an inverse.

One table an architecture: our module, their module, and what the two hold. Everything that reads or
writes their files (`pretrained`, `peft`) goes by `entries`, and so do both directions at once.
Source: the `modeling_*.py` of transformers, versions 4 and 5, which agree on these names.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.paths import flatten
from lorax.models.gpt2 import GPT2
from lorax.models.llama import Llama
from lorax.models.roberta import Roberta


class Entry(NamedTuple):
    """One tensor of theirs and where it lives in our parameters.

    Attributes:
      path: of our leaf, "params/layer_0/attention/query/kernel", or in the scanned layout
        "params/layers/attention/query/kernel".
      layer: the index on the leading axis of a scanned leaf; None where the leaf is one tensor.
      name: theirs, "model.layers.0.self_attn.q_proj.weight".
      kind: "linear" (theirs is (out, in), ours (in, out)), "conv1d" (both are (in, out)),
        "embedding" (both (rows, width)) or "vector" (norm scales and biases).
    """

    path: str
    layer: int | None
    name: str
    kind: str


class _Row(NamedTuple):
    ours: str
    theirs: str
    module: str


# What a module holds: our leaf, their tensor, the kind of an Entry.
_WEIGHT = {kind: ("kernel", "weight", kind) for kind in ("linear", "conv1d")}
_BIAS = ("bias", "bias", "vector")
_SCALE = ("scale", "weight", "vector")
_MODULES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "linear": (_WEIGHT["linear"],),
    "linear and bias": (_WEIGHT["linear"], _BIAS),
    "conv1d and bias": (_WEIGHT["conv1d"], _BIAS),
    "embedding": (("embedding", "weight", "embedding"),),
    "scale": (_SCALE,),
    "scale and bias": (_SCALE, _BIAS),
    "bias": (_BIAS,),
}

_LLAMA_LAYER = (
    _Row("attention_norm", "input_layernorm", "scale"),
    _Row("attention/query", "self_attn.q_proj", "linear"),
    _Row("attention/key", "self_attn.k_proj", "linear"),
    _Row("attention/value", "self_attn.v_proj", "linear"),
    _Row("attention/out", "self_attn.o_proj", "linear"),
    _Row("mlp_norm", "post_attention_layernorm", "scale"),
    _Row("mlp/gate", "mlp.gate_proj", "linear"),
    _Row("mlp/up", "mlp.up_proj", "linear"),
    _Row("mlp/down", "mlp.down_proj", "linear"),
)
_LLAMA_REST = (
    _Row("embed", "model.embed_tokens", "embedding"),
    _Row("norm", "model.norm", "scale"),
)

_GPT2_LAYER = (
    _Row("attention_norm", "ln_1", "scale and bias"),
    _Row("attention/qkv", "attn.c_attn", "conv1d and bias"),
    _Row("attention/out", "attn.c_proj", "conv1d and bias"),
    _Row("mlp_norm", "ln_2", "scale and bias"),
    _Row("mlp/up", "mlp.c_fc", "conv1d and bias"),
    _Row("mlp/down", "mlp.c_proj", "conv1d and bias"),
)
_GPT2_REST = (
    _Row("embed", "transformer.wte", "embedding"),
    _Row("positions", "transformer.wpe", "embedding"),
    _Row("norm", "transformer.ln_f", "scale and bias"),
)

_ROBERTA_LAYER = (
    _Row("attention/query", "attention.self.query", "linear and bias"),
    _Row("attention/key", "attention.self.key", "linear and bias"),
    _Row("attention/value", "attention.self.value", "linear and bias"),
    _Row("attention/out", "attention.output.dense", "linear and bias"),
    _Row("attention_norm", "attention.output.LayerNorm", "scale and bias"),
    _Row("mlp/up", "intermediate.dense", "linear and bias"),
    _Row("mlp/down", "output.dense", "linear and bias"),
    _Row("mlp_norm", "output.LayerNorm", "scale and bias"),
)
_ROBERTA_REST = (
    _Row("embed", "embeddings.word_embeddings", "embedding"),
    _Row("positions", "embeddings.position_embeddings", "embedding"),
    _Row("types", "embeddings.token_type_embeddings", "embedding"),
    _Row("embed_norm", "embeddings.LayerNorm", "scale and bias"),
)
_ROBERTA_HEADS = {
    "none": (),
    "classification": (
        _Row("classifier/dense", "classifier.dense", "linear and bias"),
        _Row("classifier/out", "classifier.out_proj", "linear and bias"),
    ),
    "masked_lm": (
        _Row("lm_head/dense", "lm_head.dense", "linear and bias"),
        _Row("lm_head/norm", "lm_head.layer_norm", "scale and bias"),
        _Row("lm_head", "lm_head", "bias"),
    ),
}

# The modules of a layer's list, and the head where it is a matrix of its own.
_LAYERS = {"llama": "model.layers", "gpt2": "transformer.h", "roberta": "encoder.layer"}
_TABLES = {
    "llama": (_LLAMA_LAYER, _LLAMA_REST),
    "gpt2": (_GPT2_LAYER, _GPT2_REST),
    "roberta": (_ROBERTA_LAYER, _ROBERTA_REST),
}
_CLASSES = {Llama: "llama", GPT2: "gpt2", Roberta: "roberta"}


def architecture(model: Any) -> str:
    """Which table `model`, a Linen module, goes by: "llama", "gpt2" or "roberta".

    Raises:
      LoraxTypeError: it is none of Llama, GPT2 and Roberta.
    """
    for cls, name in _CLASSES.items():
        if isinstance(model, cls):
            return name
    known = ", ".join(cls.__name__ for cls in _CLASSES)
    raise LoraxTypeError(
        f"model is a {type(model).__name__}: expected an instance of {known}, whose names in other "
        "people's files are known"
    )


def entries(model: Any) -> tuple[Entry, ...]:
    """Every tensor of `model`'s Hugging Face counterpart that one of our leaves holds.

    Each leaf of ``model.init`` is covered once; a leaf of the scanned layout once a layer. Tied
    copies are not listed: see `ties`.
    """
    kind, config = architecture(model), model.config
    layer_rows, rest = _TABLES[kind]
    prefix = _prefix(model)
    found = [entry for row in rest for entry in _expand(row, "", prefix, None)]
    for i in range(config.layers):
        ours, layer = ("layers/", i) if config.scan else (f"layer_{i}/", None)
        theirs = f"{prefix}{_LAYERS[kind]}.{i}."
        found += [entry for row in layer_rows for entry in _expand(row, ours, theirs, layer)]
    for row in _head(model):
        found += _expand(row, "", "", None)
    return tuple(found)


def ties(model: Any) -> dict[str, str]:
    """Tensors of theirs that repeat a leaf of ours: {"lm_head.weight": "params/embed/embedding"}.

    A file may hold them or not; where it does, they must equal the leaf, as it is stored there.
    """
    kind, config = architecture(model), model.config
    if kind != "roberta":
        return {"lm_head.weight": "params/embed/embedding"} if config.tied else {}
    if config.head != "masked_lm":
        return {}
    bias = {"lm_head.decoder.bias": "params/lm_head/bias"}
    return bias | ({"lm_head.decoder.weight": "params/embed/embedding"} if config.tied else {})


def leaf_shapes(model: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every leaf of ``model.init``, by path; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return flatten(jax.eval_shape(model.init, jax.random.key(0), tokens))


def turn(kind: str, array: Any) -> Any:
    """A tensor of theirs in our orientation, or of ours in theirs: it is its own inverse."""
    return array.T if kind == "linear" else array


def module_name(name: str) -> str:
    """The module of a tensor: "model.norm.weight" -> "model.norm", as PEFT counts modules.

    Raises:
      LoraxError: the name ends in neither .weight nor .bias.
    """
    module, _, leaf = name.rpartition(".")
    if leaf not in ("weight", "bias"):
        raise LoraxError(f"tensor '{name}' is no module's weight or bias: expected such a name")
    return module


def _prefix(model: Any) -> str:
    """A RoBERTa with a head keeps its encoder below `roberta.`; without one it is the encoder."""
    if architecture(model) != "roberta":
        return ""
    return "" if model.config.head == "none" else "roberta."


def _head(model: Any) -> tuple[_Row, ...]:
    config = model.config
    if architecture(model) != "roberta":
        return () if config.tied else (_Row("lm_head", "lm_head", "linear"),)
    rows = _ROBERTA_HEADS[config.head]
    if config.head == "masked_lm" and not config.tied:
        rows = (*rows, _Row("lm_head/out", "lm_head.decoder", "linear"))
    return rows


def _expand(row: _Row, ours: str, theirs: str, layer: int | None) -> list[Entry]:
    return [
        Entry(f"params/{ours}{row.ours}/{leaf}", layer, f"{theirs}{row.theirs}.{tensor}", kind)
        for leaf, tensor, kind in _MODULES[row.module]
    ]
