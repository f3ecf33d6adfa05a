"""What does adapter_config.json say? The configuration of a PEFT adapter, read strictly.

A field is either understood, or known and without effect on a trained adapter, or refused by name;
an unknown one is ignored with a warning unless it is empty, as PEFT does.
Source: github.com/huggingface/peft, src/peft/tuners/*/config.py, version 0.21.
"""

import dataclasses
import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from lorax.core.errors import LoraxError, LoraxWarning
from lorax.io import peft_fields as read
from lorax.io.json_file import read_json
from lorax.io.peft_fields import Modules, short

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter_model.safetensors"

SIZE_LIMIT = 4 << 20
"""Bytes of configuration beyond which a file is refused."""

PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""The methods of virtual tokens."""


@dataclasses.dataclass(frozen=True)
class PeftConfig:
    """The fields that decide what an adapter's tensors are and mean; defaults are PEFT's.

    Attributes:
      r, lora_alpha, use_rslora: rank, and scale alpha / r or alpha / sqrt(r). Other methods than
        LoRA call the same "alpha".
      lora_dropout: rate on the input of A.
      target_modules: names, a regular expression, "all-linear", or None for the architecture's own.
      exclude_modules: names or a regular expression.
      modules_to_save: names of modules trained whole.
      bias: "none", "all" or "lora_only".
      layers_to_transform: layer numbers, or None for all.
      layers_pattern: names of the layers' list.
      rank_pattern, alpha_pattern: expression to value, in the order of the file.
      task_type: "CAUSAL_LM", "SEQ_CLS", …, or None.
      ensure_weight_tying: whether tied modules share one adapter.
      method: peft_type; "DORA" for a LORA with use_dora.
      own: the fields that this method alone has, by PEFT's name.
    """

    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    lora_dropout: float = 0.0
    target_modules: Modules = None
    exclude_modules: Modules = None
    modules_to_save: tuple[str, ...] = ()
    bias: str = "none"
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    task_type: str | None = None
    ensure_weight_tying: bool = False
    method: str = "LORA"
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_config(folder: pathlib.Path) -> PeftConfig:
    """The configuration in `folder`, a directory that PEFT wrote.

    Raises:
      LoraxError: no such file, no JSON, a method that is not read here, a wrong type or value, or a
        field that changes what the tensors mean and that we cannot follow; it names the field.
    """
    fields = _load(folder)
    try:
        return parse_config(fields)
    except LoraxError as error:
        raise LoraxError(f"'{folder / CONFIG_NAME}': {error}") from None


def parse_config(fields: Mapping[str, Any]) -> PeftConfig:
    """The same from the parsed JSON."""
    kind = fields.get("peft_type")
    if not isinstance(kind, str) or kind not in _METHODS:
        raise LoraxError(f"peft_type is {short(kind)}: expected one of {', '.join(_METHODS)}")
    method = _METHODS[kind]
    for name, value in fields.items():
        _check_field(name, value, method)
    found = {
        known: _READ[known](name, fields[name])
        for name, known in method.common.items()
        if name in fields
    }
    own = {
        name: reader(name, fields.get(name, value)) for name, (value, reader) in method.own.items()
    }
    dora = kind == "LORA" and own.pop("use_dora")
    config = PeftConfig(**{**method.defaults, **found}, method="DORA" if dora else kind, own=own)
    if isinstance(config.target_modules, str) and config.layers_to_transform is not None:
        raise LoraxError(
            "layers_to_transform is given with target_modules as a regular expression: PEFT "
            "accepts it with a list of names only; put the layers into the expression"
        )
    return config


def known_fields(method: str) -> set[str]:
    """The names of all fields of a method, as `PeftConfig.method` calls it."""
    lora = method in ("LORA", "DORA")
    return _METHODS["LORA" if lora else method].names | (set(_REFUSED) if lora else set())


def config_text(fields: Mapping[str, Any]) -> str:
    """`fields` as PEFT lays out its file: sorted keys, two spaces."""
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def _load(folder: pathlib.Path) -> dict[str, Any]:
    file = folder / CONFIG_NAME
    if not folder.is_dir():
        raise LoraxError(f"'{folder}' does not exist: expected a folder that PEFT wrote")
    if not file.is_file():
        inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_NAME}"))
        hint = f"; there are adapters in {', '.join(map(repr, inner[:4]))}" if inner else ""
        if (folder / "adapter.json").is_file():
            hint = "; lorax.io.checkpoint wrote this folder: use its load_adapter"
        raise LoraxError(f"'{file}' does not exist: expected a folder that PEFT wrote{hint}")
    return read_json(file, SIZE_LIMIT)


# Fields that only say how an adapter was made, or where it ran.
_WITHOUT_EFFECT = frozenset(
    "auto_mapping base_model_name_or_path inference_mode peft_type peft_version revision".split()
)
_MERGE = "merge it in PEFT (merge_and_unload) and load the merged model"
# Fields of LoRA whose use changes what the tensors mean.
_REFUSED = {
    "lora_bias": "a bias on B",
    "trainable_token_indices": "replaced token rows",
    "target_parameters": "adapters on bare parameters",
    "layer_replication": "repeated layers",
    "use_qalora": "QA-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "megatron_config": "Megatron's parallel layers",
}
_BASE_CHANGING = ("pissa", "olora", "loftq", "corda", "lora_ga")

# How each attribute of PeftConfig is read.
_READ: dict[str, read.Reader] = {
    "r": read.rank,
    "lora_alpha": read.positive,
    "use_rslora": read.boolean,
    "lora_dropout": read.rate,
    "target_modules": read.modules,
    "exclude_modules": read.modules,
    "modules_to_save": read.expressions,
    "bias": read.choice("none", "all", "lora_only"),
    "layers_to_transform": read.layers,
    "layers_pattern": read.expressions,
    "rank_pattern": read.pattern(read.rank),
    "alpha_pattern": read.pattern(read.positive),
    "task_type": read.text,
    "ensure_weight_tying": read.boolean,
}


@dataclasses.dataclass(frozen=True)
class _Method:
    """The fields of one method: those of PeftConfig by their name there, its own with their
    default and reader, and those without effect on a trained adapter."""

    common: Mapping[str, str]
    own: Mapping[str, tuple[Any, read.Reader]] = dataclasses.field(default_factory=dict)
    unused: str = ""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return {*self.common, *self.own, *self.unused.split(), *_WITHOUT_EFFECT}


def _named(names: str, **renamed: str) -> dict[str, str]:
    return {name: name for name in names.split()} | renamed


_SAVED = "modules_to_save task_type"
_TARGETS = f"target_modules exclude_modules {_SAVED}"
_LAYERS = f"{_TARGETS} layers_to_transform layers_pattern"
_LYCORIS = _named(f"r rank_pattern alpha_pattern {_LAYERS}", alpha="lora_alpha")
_PRODUCT = "init_weights module_dropout rank_dropout rank_dropout_scale use_effective_conv2d"
_SIZES = {
    "num_virtual_tokens": (None, read.count),
    "token_dim": (None, read.size),
    "num_layers": (None, read.size),
    "num_attention_heads": (None, read.size),
    "num_transformer_submodules": (None, read.size),
}
_METHODS = {
    "LORA": _Method(
        _named(" ".join(_READ)),
        {"use_dora": (False, read.boolean)},
        "corda_config eva_config fan_in_fan_out init_lora_weights loftq_config lora_ga_config "
        "megatron_core qalora_group_size runtime_config",
    ),
    "VERA": _Method(
        _named(f"r {_LAYERS}", vera_dropout="lora_dropout"),
        {"save_projection": (True, read.boolean), "bias": ("none", read.choice("none"))},
        "d_initial fan_in_fan_out init_weights projection_prng_key",
        {"r": 256},
    ),
    "LOHA": _Method(_LYCORIS, {}, _PRODUCT),
    "LOKR": _Method(
        _LYCORIS,
        {"decompose_both": (False, read.boolean), "decompose_factor": (-1, read.factor)},
        _PRODUCT,
    ),
    "IA3": _Method(
        _named(_TARGETS),
        {"feedforward_modules": (None, read.modules)},
        "fan_in_fan_out init_ia3_weights",
    ),
    "PROMPT_TUNING": _Method(
        _named(_SAVED),
        _SIZES,
        "prompt_tuning_init prompt_tuning_init_text tokenizer_kwargs tokenizer_name_or_path",
    ),
    "P_TUNING": _Method(
        _named(_SAVED),
        _SIZES,
        "encoder_dropout encoder_hidden_size encoder_num_layers encoder_reparameterization_type",
    ),
    "PREFIX_TUNING": _Method(
        _named(_SAVED), _SIZES, "encoder_hidden_size init_weights prefix_projection"
    ),
}


def _check_field(name: str, value: Any, method: _Method) -> None:
    empty = value is None or value is False or value == "" or value in ([], {})
    if name in _REFUSED and not empty:
        raise LoraxError(f"{name} is {short(value)}: {_REFUSED[name]} cannot be read; {_MERGE}")
    if name == "init_lora_weights":
        _check_init(value)
    if name not in {*method.names, *_REFUSED} and not empty:
        warnings.warn(
            f"field {short(name)} of {CONFIG_NAME} is unknown and is ignored: an adapter of a "
            "later PEFT may mean something else",
            LoraxWarning,
            stacklevel=5,
        )


def _check_init(value: Any) -> None:
    if not isinstance(value, bool | str):
        raise LoraxError(f"init_lora_weights is {short(value)}: expected true, false or a name")
    if isinstance(value, str) and value.lower().startswith(_BASE_CHANGING):
        raise LoraxError(
            f"init_lora_weights is {short(value)}, which changed the base before training: "
            "convert it to plain LoRA in PEFT (save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )
