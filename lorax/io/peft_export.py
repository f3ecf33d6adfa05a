"""How does one of our deltas become a directory that PEFT reads? Config and tensors, in its terms.

Every module is named so that an old or a new PEFT understands the same: patterns are anchored and
exclusive, lists are sorted, and no field is written that only some versions know.
Source: github.com/huggingface/peft, version 0.21.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError, check_choice
from lorax.io.atomic import new_directory
from lorax.io.names import architecture, turn
from lorax.io.pairs import Parts
from lorax.io.parts import base_leaves, take_apart
from lorax.io.peft_config import CONFIG_NAME, TENSORS_NAME, config_text
from lorax.io.peft_names import (
    PREFIX,
    Tensor,
    factor_keys,
    matrices,
    other_modules,
    target_names,
    tensor_table,
)
from lorax.io.tensors import safetensors_for, write_tensors
from lorax.io.vllm import for_vllm

Path = str | os.PathLike[str]
TARGETS = ("peft", "vllm")

_CLASSIFIER = ("classifier.dense", "classifier.out_proj")
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "none": "RobertaModel",
    "classification": "RobertaForSequenceClassification",
    "masked_lm": "RobertaForMaskedLM",
}


def save_peft(
    directory: Path,
    adapter: Adapter,
    delta: Delta,
    model: Any,
    *,
    base: Base | None = None,
    base_model_name: str | None = None,
    target: str = "peft",
    overwrite: bool = False,
) -> None:
    """See `lorax.io.peft.save`."""
    check_choice("target", target, TARGETS)
    safetensors_for(directory)
    table = tensor_table(model)
    parts = take_apart(model, table, adapter, delta, base)
    if not parts.pairs:
        raise LoraxError(
            "adapter trains whole leaves only: expected a LoRA among them, since PEFT's format is "
            "that of LoRA; save the merged model, or use lorax.io.checkpoint"
        )
    if target == "vllm":
        parts = for_vllm(model, table, parts)
    stored = None if base is None else base_leaves(base, model)
    fields, tensors = describe(model, table, parts, stored if target == "peft" else None)
    fields["base_model_name_or_path"] = base_model_name
    with new_directory(directory, CONFIG_NAME, overwrite=overwrite) as folder:
        write_tensors(folder / TENSORS_NAME, tensors)
        (folder / CONFIG_NAME).write_text(config_text(fields), "utf-8")


def describe(
    model: Any, table: Mapping[str, Tensor], parts: Parts, stored: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields of the configuration, and every tensor by its key.

    Args:
      stored: the base's leaves by path, for what PEFT copies of it; None leaves that out.

    Raises:
      LoraxError: a choice of trained biases that PEFT has no name for, or a module of which some
        tensors are trained and the others are not known.
    """
    whole, biases = _split(table, parts, stored)
    saved = {table[name].module for name in whole}
    bias = _bias_mode(table, parts, whole, biases)
    targets, layers = _targets(model, table, parts, saved)
    adapted = {f"{module}.bias" for module in parts.pairs}
    keys = {name: _base_layer(name) if name in adapted else name for name in biases}
    tensors = dict(whole)
    tensors |= {keys[name]: array for name, array in biases.items()}
    weights = matrices(table)
    for module, pair in parts.pairs.items():
        key_a, key_b = factor_keys(weights[module])
        tensors |= {key_a: pair.A, key_b: pair.B}
    if stored is not None:
        tensors |= _base_copies(targets, parts.pairs, weights, stored)
    fields = {
        "peft_type": "LORA",
        "r": parts.rank,
        "lora_alpha": _plain(parts.alpha),
        "use_rslora": parts.scaling == "rslora",
        "use_dora": False,
        "lora_bias": False,
        "lora_dropout": parts.dropout,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": targets,
        "layers_to_transform": layers,
        "fan_in_fan_out": _fan_in_fan_out(model, weights, parts),
        "bias": bias,
        **_patterns(parts),
        **_task(model, table, saved),
    }
    if stored is not None and bias == "all":
        tensors |= _second_copies(table, whole, stored, fields["modules_to_save"] or ())
    return fields, {PREFIX + key: array for key, array in tensors.items()}


Tensors = dict[str, np.ndarray]


def _split(
    table: Mapping[str, Tensor], parts: Parts, stored: Mapping[str, Any] | None
) -> tuple[Tensors, Tensors]:
    """The trained tensors of modules that are trained whole, and the other trained biases."""
    modules: dict[str, list[str]] = {}
    for name, tensor in table.items():
        modules.setdefault(tensor.module, []).append(name)
    whole: Tensors = {}
    biases: Tensors = {}
    for own in modules.values():
        trained = {name: parts.whole[name] for name in own if name in parts.whole}
        if all(name.endswith(".bias") for name in trained):
            biases |= trained
            continue
        for name in own:
            if name not in trained and stored is None:
                raise LoraxError(
                    f"'{table[own[0]].path}' is trained and '{table[name].path}' is not, but PEFT "
                    "saves a module whole: expected base= to fill it in; pass the base, or train "
                    "both"
                )
            whole[name] = trained[name] if name in trained else _of_base(table[name], stored)
    return whole, biases


def _of_base(tensor: Tensor, stored: Mapping[str, Any] | None) -> np.ndarray:
    assert stored is not None
    array = np.asarray(stored[tensor.path])
    array = array if tensor.layer is None else array[tensor.layer]
    return array if tensor.tied else turn(tensor.kind, array)


def _bias_mode(
    table: Mapping[str, Tensor], parts: Parts, whole: Iterable[str], biases: Iterable[str]
) -> str:
    whole, trained = set(whole), set(biases)
    everywhere = {name for name in table if name.endswith(".bias")} - whole
    adapted = {f"{module}.bias" for module in parts.pairs} & everywhere
    for mode, wanted in (("none", set()), ("lora_only", adapted), ("all", everywhere)):
        if trained == wanted:
            return mode
    odd = sorted(trained - adapted) or sorted(adapted - trained)
    raise LoraxError(
        f"{len(trained)} biases are trained, '{table[odd[0]].path}' among the others: expected "
        f"none, those of the {len(adapted)} adapted modules that have one, or all "
        f"{len(everywhere)}, which is what PEFT can say; choose one of these in BitFit(where=…)"
    )


def _targets(
    model: Any, table: Mapping[str, Tensor], parts: Parts, saved: Iterable[str]
) -> tuple[list[str], list[int] | None]:
    """target_modules and layers_to_transform, the shortest that say what is adapted."""
    saved = set(saved)
    modules = [name for name in (*matrices(table), *other_modules(model)) if name not in saved]
    names = target_names(parts.pairs, modules)
    layer = {m: re.search(r"\.(\d+)\.", m) for m in parts.pairs}
    numbers = sorted({int(found[1]) for found in layer.values() if found})
    if all(layer.values()) and any(name in parts.pairs for name in names):
        chosen = [m for m in modules if (f := re.search(r"\.(\d+)\.", m)) and int(f[1]) in numbers]
        shorter = target_names(parts.pairs, chosen)
        if not any(name in parts.pairs for name in shorter):
            return shorter, numbers
    return names, None


def _fan_in_fan_out(model: Any, weights: Mapping[str, Tensor], parts: Parts) -> bool:
    """Whether the last adapted product is a Conv1D, which is what PEFT leaves in the field."""
    kinds = [t.kind for m, t in weights.items() if m in parts.pairs and t.kind != "embedding"]
    return kinds[-1] == "conv1d" if kinds else architecture(model) == "gpt2"


def _patterns(parts: Parts) -> dict[str, Any]:
    """rank_pattern and alpha_pattern: each key is one module's whole name, so order is nothing."""
    name = lambda module: "^" + re.escape(module)
    pairs = parts.pairs.items()
    return {
        "rank_pattern": {name(m): pair.rank for m, pair in pairs if pair.rank != parts.rank},
        "alpha_pattern": {
            name(m): _plain(pair.alpha) for m, pair in pairs if pair.alpha != parts.alpha
        },
    }


def _task(model: Any, table: Mapping[str, Tensor], saved: set[str]) -> dict[str, Any]:
    """task_type, or the model's class in its place; and modules_to_save."""
    kind = architecture(model)
    if kind == "roberta":
        kind = model.config.head
        if saved.issuperset(_CLASSIFIER):
            names = ["classifier", "score", *_saved_names(table, saved - set(_CLASSIFIER))]
            return {"task_type": "SEQ_CLS", "modules_to_save": names}
    fields: dict[str, Any] = {"modules_to_save": _saved_names(table, saved) or None}
    if kind in ("llama", "gpt2"):
        return fields | {"task_type": "CAUSAL_LM"}
    library = "transformers.models.roberta.modeling_roberta"
    mapping = {"base_model_class": _CLASSES[kind], "parent_library": library}
    return fields | {"task_type": None, "auto_mapping": mapping}


def _saved_names(table: Mapping[str, Tensor], saved: set[str]) -> list[str]:
    """The last part of each name where PEFT finds only saved modules by it, else the whole."""
    modules = {tensor.module for tensor in table.values()}
    names = set()
    for module in saved:
        part = module.rpartition(".")[2]
        alike = {name for name in modules if name.endswith(part)}
        names.add(part if alike <= saved else module)
    return sorted(names)


def _base_copies(
    targets: Iterable[str],
    pairs: Iterable[str],
    weights: Mapping[str, Tensor],
    stored: Mapping[str, Any],
) -> Tensors:
    """The base's own matrix of an adapted input embedding and head, where PEFT saves it as well.

    PEFT goes by the names of Llama's embedding and of the head; a head that merely repeats the
    embedding is among its targets or not, so it alone is no reason.
    """
    named = [name for name in targets if name in ("embed_tokens", "lm_head")]
    if not any(name not in weights or not weights[name].tied for name in named):
        return {}
    lookup = next(name for name, tensor in weights.items() if tensor.kind == "embedding")
    copied = [name for name in pairs if name in (lookup, "lm_head")]
    return {f"{name}.base_layer.weight": _of_base(weights[name], stored) for name in copied}


def _second_copies(
    table: Mapping[str, Tensor],
    whole: Tensors,
    stored: Mapping[str, Any],
    saved_names: Iterable[str],
) -> Tensors:
    """What PEFT with bias="all" writes twice: biases of saved modules, trained and as they were."""
    found: Tensors = {}
    saved = "|".join(map(re.escape, saved_names))
    for name in (name for name in whole if name.endswith(".bias")):
        inside = re.fullmatch(rf"((?:.*\.)?(?:{saved}))\.(.+)", name)
        if inside:
            found[f"{inside[1]}.modules_to_save.default.{inside[2]}"] = whole[name]
            found[f"{inside[1]}.original_module.{inside[2]}"] = _of_base(table[name], stored)
    return found


def _base_layer(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}"


def _plain(number: float) -> float | int:
    """PEFT's own files hold whole numbers as integers."""
    return int(number) if float(number).is_integer() else float(number)
