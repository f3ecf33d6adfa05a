"""What does adapter_config.json say? The configuration of PEFT's LoRA, read strictly.

A field is either understood, or known and without effect on a trained adapter, or refused by name;
an unknown one is ignored with a warning unless it is empty, as PEFT does.
Source: github.com/huggingface/peft, src/peft/tuners/lora/config.py, version 0.21.
"""

import dataclasses
import json
import math
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lorax.core.errors import LoraxError, LoraxWarning
from lorax.io.json_file import read_json

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter_model.safetensors"

SIZE_LIMIT = 4 << 20
"""Bytes of configuration beyond which a file is refused."""

Modules = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class PeftConfig:
    """The fields that decide what an adapter's tensors are and mean; defaults are PEFT's.

    Attributes:
      r, lora_alpha, use_rslora: rank, and scale alpha / r or alpha / sqrt(r).
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


def read_config(folder: pathlib.Path) -> PeftConfig:
    """The configuration in `folder`, a directory that PEFT wrote.

    Raises:
      LoraxError: no such file, no JSON, another method than LoRA, a wrong type or value, or a
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
    if kind != "LORA":
        raise LoraxError(f"peft_type is {_short(kind)}: expected 'LORA', the one method read here")
    for name, value in fields.items():
        _check_field(name, value)
    found = {name: _READ[name](name, fields[name]) for name in _READ if name in fields}
    config = PeftConfig(**found)
    if isinstance(config.target_modules, str) and config.layers_to_transform is not None:
        raise LoraxError(
            "layers_to_transform is given with target_modules as a regular expression: PEFT "
            "accepts it with a list of names only; put the layers into the expression"
        )
    return config


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
    "auto_mapping base_model_name_or_path corda_config eva_config fan_in_fan_out inference_mode "
    "loftq_config lora_ga_config megatron_core peft_type peft_version qalora_group_size revision "
    "runtime_config".split()
)
_MERGE = "merge it in PEFT (merge_and_unload) and load the merged model"
# Fields whose use changes what the tensors mean.
_REFUSED = {
    "use_dora": "DoRA's magnitudes",
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


def _check_field(name: str, value: Any) -> None:
    empty = value is None or value is False or value == "" or value in ([], {})
    if name in _REFUSED and not empty:
        raise LoraxError(f"{name} is {_short(value)}: {_REFUSED[name]} cannot be read; {_MERGE}")
    if name == "init_lora_weights":
        _check_init(value)
    elif name not in _READ and name not in _WITHOUT_EFFECT and name not in _REFUSED and not empty:
        warnings.warn(
            f"field {_short(name)} of {CONFIG_NAME} is unknown and is ignored: an adapter of a "
            "later PEFT may mean something else",
            LoraxWarning,
            stacklevel=5,
        )


def _check_init(value: Any) -> None:
    if not isinstance(value, bool | str):
        raise LoraxError(f"init_lora_weights is {_short(value)}: expected true, false or a name")
    if isinstance(value, str) and value.lower().startswith(_BASE_CHANGING):
        raise LoraxError(
            f"init_lora_weights is {_short(value)}, which changed the base before training: "
            "convert it to plain LoRA in PEFT (save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )


Reader = Callable[[str, Any], Any]


def _wrong(name: str, value: Any, expected: str) -> LoraxError:
    return LoraxError(f"{name} is {_short(value)}: expected {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _boolean(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return bool(value)


def _rank(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise _wrong(name, value, "a rank, an integer of at least 1")
    return value


def _alpha(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1e38:
        raise _wrong(name, value, "a positive finite number")
    return value


def _rate(name: str, value: Any) -> float:
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value < 1):
        raise _wrong(name, value, "a rate in [0, 1)")
    return float(value)


def _choice(*choices: str) -> Reader:
    def read(name: str, value: Any) -> str:
        if value not in choices:
            raise _wrong(name, value, " or ".join(map(repr, choices)))
        return value

    return read


def _text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _wrong(name, value, "a string or null")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    """Names without repetition: PEFT adds the same ones again at each loading."""
    if value is None or value == "":
        return ()
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _wrong(name, value, "a list of module names")
    return tuple(dict.fromkeys(value))


def _modules(name: str, value: Any) -> Modules:
    if isinstance(value, str):
        return _expression(name, value)
    return None if value is None else _names(name, value)


def _expression(name: str, value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise _wrong(name, value, f"a regular expression ({error})") from None
    return value


def _layers(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    value = [value] if type(value) is int else value
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise _wrong(name, value, "a layer number or a list of them")
    return tuple(value)


def _pattern(read: Reader) -> Reader:
    def read_pattern(name: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _wrong(name, value, "a table from pattern to number")
        return {_expression(name, key): read(f"{name}[{key!r}]", v) for key, v in value.items()}

    return read_pattern


def _expressions(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_expression(name, item) for item in _names(name, value))


_READ: dict[str, Reader] = {
    "r": _rank,
    "lora_alpha": _alpha,
    "use_rslora": _boolean,
    "lora_dropout": _rate,
    "target_modules": _modules,
    "exclude_modules": _modules,
    "modules_to_save": _expressions,
    "bias": _choice("none", "all", "lora_only"),
    "layers_to_transform": _layers,
    "layers_pattern": _expressions,
    "rank_pattern": _pattern(_rank),
    "alpha_pattern": _pattern(_alpha),
    "task_type": _text,
    "ensure_weight_tying": _boolean,
}
