"""How many parameters has a model? In closed form, from its config alone."""

from typing import Any

from lorax.models.config import TransformerConfig
from lorax.models.gpt2_config import GPT2Config
from lorax.models.llama_config import LlamaConfig
from lorax.models.roberta_config import RobertaConfig


def param_count(config: TransformerConfig) -> int:
    """Number of parameters of the model of ``config``.

    With D = ``dim``, F = ``hidden_dim``, L = ``layers``, V = ``vocab_size``, P positions, T types,
    C = ``labels``, K H = ``kv_heads * head_dim``:

    - `Llama`: ``L (2 D D + 2 D K H + 3 D F + 2 D) + V D (1 if tied else 2) + D``;
    - `GPT2`: ``L (4 D D + 2 D F + 9 D + F) + V D (1 if tied else 2) + P D + 2 D``;
    - `Roberta`: ``L (4 D D + 2 D F + 9 D + F) + (V + P + T + 2) D``, then for a classifier
      ``D D + D + D C + C``, for a masked language model ``D D + 3 D + V`` and, untied, ``V D``.

    Example: 6,738,415,616 for `LLAMA_7B`. Raises ValueError for a config of none of these.
    """
    for kind, count in _COUNTS.items():
        if isinstance(config, kind):
            return count(config)
    raise ValueError(
        f"expected a LlamaConfig, GPT2Config or RobertaConfig, got {type(config).__name__}: "
        "pass model.config"
    )


def _llama(config: LlamaConfig) -> int:
    dim = config.dim
    attention = 2 * dim * dim + 2 * dim * config.kv_heads * config.head_dim
    layer = attention + 3 * dim * config.hidden_dim + 2 * dim
    tables = config.vocab_size * dim * (1 if config.tied else 2)
    return config.layers * layer + tables + dim


def _biased_layers(config: GPT2Config | RobertaConfig) -> int:
    """Layers with biases and two LayerNorms, as GPT-2 and RoBERTa share them."""
    dim, hidden = config.dim, config.hidden_dim
    return config.layers * (4 * dim * dim + 2 * dim * hidden + 9 * dim + hidden)


def _gpt2(config: GPT2Config) -> int:
    tables = config.vocab_size * (1 if config.tied else 2) + config.max_length
    return _biased_layers(config) + (tables + 2) * config.dim


def _roberta(config: RobertaConfig) -> int:
    dim, vocab = config.dim, config.vocab_size
    heads = {
        "none": 0,
        "classification": dim * dim + dim + dim * config.labels + config.labels,
        "masked_lm": dim * dim + 3 * dim + vocab + (0 if config.tied else vocab * dim),
    }
    tables = vocab + config.position_rows + config.types
    return _biased_layers(config) + (tables + 2) * dim + heads[config.head]


_COUNTS: dict[type, Any] = {LlamaConfig: _llama, GPT2Config: _gpt2, RobertaConfig: _roberta}
