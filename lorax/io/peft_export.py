"""How does one of our deltas become a directory that PEFT reads? Config and tensors, in its terms.

Every module is named so that an old or a new PEFT understands the same: patterns are anchored and
exclusive, lists are sorted, and no field is written that only some versions know.
Source: github.com/huggingface/peft, version 0.21.
"""

import functools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError, check_choice
from lorax.io.atomic import new_directory
from lorax.io.names import architecture
from lorax.io.pairs import Parts
from lorax.io.parts import base_leaves, take_apart
from lorax.io.peft_config import (
    CONFIG_NAME,
    TENSORS_NAME,
    PeftConfig,
    config_text,
    known_fields,
)
from lorax.io.peft_kinds import ADAPTERS, KINDS
from lorax.io.peft_names import (
    PREFIX,
    Tensor,
    matrices,
    other_modules,
    target_names,
    tensor_table,
)
from lorax.io.peft_prompt import describe_prompt, is_prompt
from lorax.io.peft_slots import slots, theirs
from lorax.io.peft_vera import joined
from lorax.io.peft_whole import Tensors, of_base, split, task_fields
from lorax.io.tensors import safetensors_for, write_tensors
from lorax.io.vllm import for_vllm

Path = str | os.PathLike[str]
TARGETS = ("peft", "vllm")


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
    if is_prompt(adapter):
        if target == "vllm":
            raise LoraxError("target='vllm' with virtual tokens, which vLLM does not serve")
        fields, tensors = describe_prompt(model, table, adapter, delta, base)
    else:
        parts = take_apart(model, table, adapter, delta, base)
        if not parts.pairs:
            raise LoraxError(
                "adapter trains whole leaves only: expected a LoRA among them, since PEFT's format "
                "is that of LoRA; save the merged model, or use lorax.io.checkpoint"
            )
        if target == "vllm":
            parts = for_vllm(model, table, parts)
        stored = None if base is None else base_leaves(base, model)
        fields, tensors = describe(model, table, parts, stored, copies=target == "peft")
    fields["base_model_name_or_path"] = base_model_name
    with new_directory(directory, CONFIG_NAME, overwrite=overwrite) as folder:
        write_tensors(folder / TENSORS_NAME, tensors)
        (folder / CONFIG_NAME).write_text(config_text(fields), "utf-8")


def describe(
    model: Any,
    table: Mapping[str, Tensor],
    parts: Parts,
    stored: Mapping[str, Any] | None,
    copies: bool = True,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields of the configuration, and every tensor by its key.

    Args:
      stored: the base's leaves by path, or None where they are not known.
      copies: whether to add what PEFT copies of the base.

    Raises:
      LoraxError: a choice of trained biases that PEFT has no name for, a module of which some
        tensors are trained and the others are not known, or no base where the method needs it.
    """
    method, weights = ADAPTERS[parts.kind], matrices(table)
    known, own = known_fields(method), KINDS[method].own(parts.fields)
    whole, biases = split(table, parts, stored)
    saved = {table[name].module for name in whole}
    bias = _bias_mode(table, parts, whole, biases)
    if bias != "none" and method not in ("LORA", "DORA"):
        raise LoraxError(f"biases are trained beside {method}: expected none, as PEFT has it")
    targets, layers = _targets(model, table, parts, saved, "layers_to_transform" in known)
    if method == "IA3":
        targets, own = _feedforward(parts, targets)
    adapted = {f"{module}.bias" for module in parts.pairs}
    keys = {name: _base_layer(name) if name in adapted else name for name in biases}
    tensors = dict(whole)
    tensors |= {keys[name]: array for name, array in biases.items()}
    updates, shared = _updates(weights, parts, stored, PeftConfig(method=method, own=own))
    tensors |= updates
    if copies and stored is not None:
        tensors |= _base_copies(targets, parts.pairs, weights, stored)
    fields = {
        **{name: value for name, value in _values(parts, method).items() if name in known},
        **own,
        "target_modules": targets,
        "layers_to_transform": layers,
        "fan_in_fan_out": _fan_in_fan_out(model, weights, parts),
        "bias": bias,
        **_patterns(parts),
        **task_fields(model, table, saved),
    }
    fields = {name: value for name, value in fields.items() if name in known}
    if copies and stored is not None and bias == "all":
        tensors |= _second_copies(table, whole, stored, fields["modules_to_save"] or ())
    return fields, {PREFIX + key: array for key, array in tensors.items()} | shared


def _updates(
    weights: Mapping[str, Tensor],
    parts: Parts,
    stored: Mapping[str, Any] | None,
    config: PeftConfig,
) -> tuple[Tensors, Tensors]:
    """The tensors of every adapted module by canonical key, and those that all share."""
    pairs, method = parts.pairs, config.method
    found: Tensors = {}
    shared: Tensors = {}
    if {pair.rank for pair in pairs.values()} != {parts.rank} and method == "VERA":
        raise LoraxError("VeRA has several ranks: expected one, which is what PEFT can hold")
    if method == "VERA":
        pairs, shared = joined(pairs)
    for module, pair in pairs.items():
        matrix = functools.partial(_matrix, weights[module], stored, method)
        found |= theirs(method, pair.ours, slots(config, weights[module], pair.rank), matrix)
    return found, shared


def _values(parts: Parts, method: str) -> dict[str, Any]:
    """The fields that are numbers, and those that are always the same, by each method's names."""
    alpha = _plain(parts.alpha)
    return {
        "peft_type": "LORA" if method == "DORA" else method,
        "inference_mode": True,
        "r": parts.rank,
        "lora_alpha": alpha,
        "alpha": alpha,
        "lora_dropout": parts.dropout,
        "vera_dropout": parts.dropout,
        "use_rslora": parts.scaling == "rslora",
        "use_dora": method == "DORA",
        "lora_bias": False,
        "init_lora_weights": True,
        "init_weights": True,
        "init_ia3_weights": True,
        "rank_dropout": 0.0,
        "module_dropout": 0.0,
        "save_projection": True,
    }


def _matrix(tensor: Tensor, stored: Mapping[str, Any] | None, method: str) -> np.ndarray:
    """The base's matrix of a module, in our orientation."""
    if stored is None:
        raise LoraxError(
            f"{method} counts from the base: expected base=, or a Pretrained as model; pass the "
            "base that the adapter was trained on"
        )
    array = np.asarray(stored[tensor.path])
    return array if tensor.layer is None else array[tensor.layer]


def _feedforward(parts: Parts, targets: list[str]) -> tuple[list[str], dict[str, Any]]:
    """target_modules so that each is scaled on one side, and those that are on their inputs."""
    found: dict[str, bool] = {}
    for name in targets:
        own = [m for m in parts.pairs if m == name or m.endswith(f".{name}")]
        sides = {m: "inputs" in parts.pairs[m].ours for m in own}
        found |= {name: any(sides.values())} if len(set(sides.values())) == 1 else sides
    return sorted(found), {"feedforward_modules": sorted(name for name in found if found[name])}


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
    model: Any, table: Mapping[str, Tensor], parts: Parts, saved: Iterable[str], layered: bool
) -> tuple[list[str], list[int] | None]:
    """target_modules and layers_to_transform, the shortest that say what is adapted."""
    saved = set(saved)
    modules = [name for name in (*matrices(table), *other_modules(model)) if name not in saved]
    names = target_names(parts.pairs, modules)
    layer = {m: re.search(r"\.(\d+)\.", m) for m in parts.pairs}
    numbers = sorted({int(found[1]) for found in layer.values() if found})
    if layered and all(layer.values()) and any(name in parts.pairs for name in names):
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
    return {f"{name}.base_layer.weight": of_base(weights[name], stored) for name in copied}


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
            found[f"{inside[1]}.original_module.{inside[2]}"] = of_base(table[name], stored)
    return found


def _base_layer(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}"


def _plain(number: float) -> float | int:
    """PEFT's own files hold whole numbers as integers."""
    return int(number) if float(number).is_integer() else float(number)
