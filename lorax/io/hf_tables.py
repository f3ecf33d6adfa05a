"""Which fields does a config.json have? Hugging Face's names against ours, as tables.

Fields that both sides have, and settings of theirs that must have one value because our models know
no other. Source: the `configuration_*.py` of transformers 4.57 and 5.23.
"""

from typing import Any, NamedTuple

from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.models.roberta import Roberta
from lorax.models.roberta_config import RobertaConfig


class Field(NamedTuple):
    """A field that both sides have.

    Attributes:
      ours, theirs: its names.
      type: int, float or bool, in their file.
      default: what transformers takes where the file has none; an ellipsis where it must have one.
    """

    ours: str
    theirs: str
    type: type = int
    default: Any = ...


CLASSES: dict[str, tuple[type, type]] = {
    "llama": (Llama, LlamaConfig),
    "gpt2": (GPT2, GPT2Config),
    "roberta": (Roberta, RobertaConfig),
}
"""Our architecture -> our model and config."""

ARCHITECTURES: dict[str, tuple[str, str | None]] = {
    "LlamaForCausalLM": ("llama", None),
    "GPT2LMHeadModel": ("gpt2", None),
    "RobertaForMaskedLM": ("roberta", "masked_lm"),
    "RobertaForSequenceClassification": ("roberta", "classification"),
    "RobertaModel": ("roberta", "none"),
}
"""Their class -> our architecture, and our head where there is a choice; no two are the same."""

FIELDS: dict[str, tuple[Field, ...]] = {
    "llama": (
        Field("vocab_size", "vocab_size"),
        Field("dim", "hidden_size"),
        Field("layers", "num_hidden_layers"),
        Field("heads", "num_attention_heads"),
        Field("kv_heads", "num_key_value_heads", default=None),
        Field("hidden_dim", "intermediate_size"),
        Field("max_length", "max_position_embeddings", default=2048),
        Field("norm_eps", "rms_norm_eps", float, 1e-6),
        Field("tied", "tie_word_embeddings", bool, False),
    ),
    "gpt2": (
        Field("vocab_size", "vocab_size"),
        Field("dim", "n_embd"),
        Field("layers", "n_layer"),
        Field("heads", "n_head"),
        Field("max_length", "n_positions", default=1024),
        Field("hidden_dim", "n_inner", default=None),
        Field("norm_eps", "layer_norm_epsilon", float, 1e-5),
        Field("tied", "tie_word_embeddings", bool, True),
    ),
    "roberta": (
        Field("vocab_size", "vocab_size"),
        Field("dim", "hidden_size"),
        Field("layers", "num_hidden_layers"),
        Field("heads", "num_attention_heads"),
        Field("hidden_dim", "intermediate_size"),
        Field("max_length", "max_position_embeddings", default=512),
        Field("types", "type_vocab_size", default=2),
        Field("pad_id", "pad_token_id", default=1),
        Field("norm_eps", "layer_norm_eps", float, 1e-12),
        Field("tied", "tie_word_embeddings", bool, True),
    ),
}
"""The fields that both sides have."""

EVERYWHERE: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None, {}),
    "pruned_heads": (None, {}),
}
"""Settings of every architecture that have no other values here; not written."""

FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "attention_dropout": (0.0, None),
    },
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "roberta": {
        "hidden_act": ("gelu",),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    },
}
"""Settings that have no other values here; the first is the one written."""

DROPOUTS: dict[str, tuple[str, ...]] = {
    "llama": (),
    "gpt2": ("embd_pdrop", "attn_pdrop", "resid_pdrop"),
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
}
"""Theirs has several rates of dropout, ours has one."""

DEFAULT_DROPOUT = 0.1
"""Theirs, where the file has no rate."""

ROPE = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_length": "original_max_position_embeddings",
}
"""Our fields of `RopeScaling` -> theirs."""

CARRIED = ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")
"""Fields that our configs do not hold and that a copy of a model keeps."""

LABELS = ("id2label", "label2id", "problem_type")
"""Fields that a copy keeps if it has as many labels."""
