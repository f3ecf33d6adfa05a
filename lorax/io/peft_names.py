"""Which tensor of a PEFT adapter is which? Its key grammar, its targeting rules, its patterns.

    key  := "base_model.model." module "." slot | "base_model.model." parameter
    slot := "lora_A.weight" | "lora_B.weight" | "lora_embedding_A" | "lora_embedding_B"
          | "base_layer.weight" | "base_layer.bias"

Modules and parameters have the names of the Hugging Face model; a parameter alone is a part of a
module that is trained whole, or a bias. Source: github.com/huggingface/peft, version 0.21,
utils/save_and_load.py, tuners/tuners_utils.py and utils/other.py.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lorax.core.errors import LoraxError
from lorax.io.names import architecture, entries, leaf_shapes, module_name, ties
from lorax.io.peft_config import PeftConfig
from lorax.io.peft_fields import Modules

PREFIX = "base_model.model."


class Tensor(NamedTuple):
    """A tensor of the Hugging Face model.

    Attributes:
      name: theirs, "model.layers.0.self_attn.q_proj.weight".
      path: of our leaf.
      layer: index on the leading axis of a scanned leaf, or None.
      kind: "linear", "conv1d", "embedding" or "vector", as they store it.
      shape: as they store it.
      tied: whether it is a second name of a leaf.
    """

    name: str
    path: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    tied: bool

    @property
    def module(self) -> str:
        """Its module's name: "model.layers.0.self_attn.q_proj"."""
        return module_name(self.name)

    @property
    def sides(self) -> tuple[int, int]:
        """(fan-in, fan-out) of a matrix; a lookup maps rows to width."""
        first, second = self.shape
        return (second, first) if self.kind == "linear" else (first, second)


def tensor_table(model: Any) -> dict[str, Tensor]:
    """Every tensor of `model`'s Hugging Face counterpart by name, tied copies included."""
    shapes = leaf_shapes(model)
    table = {}
    for path, layer, name, kind in entries(model):
        shape = shapes[path].shape[0 if layer is None else 1 :]
        shape = shape[::-1] if kind == "linear" else shape
        table[name] = Tensor(name, path, layer, kind, tuple(shape), False)
    for name, path in ties(model).items():
        shape = tuple(shapes[path].shape)  # an embedding (V, D) is the head's weight (V, D)
        kind = "linear" if len(shape) == 2 else "vector"
        table[name] = Tensor(name, path, None, kind, shape, True)
    return table


def matrices(table: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weight of every module that an adapter may be on, by module."""
    return {t.module: t for t in table.values() if t.kind != "vector"}


def tied_partners(table: Mapping[str, Tensor], names: Iterable[str]) -> set[str]:
    """`names`, tensors, and every other name of the same leaves."""
    named = {(table[name].path, table[name].layer) for name in names}
    return {name for name, t in table.items() if (t.path, t.layer) in named}


def canonical(key: str) -> str:
    """A key without the prefix and without an adapter's name, which older files contain."""
    key = key.removeprefix(PREFIX)
    key = re.sub(r"(\.lora_[AB])\.[^.]+(\.weight)$", r"\1\2", key)
    return re.sub(r"(\.lora_embedding_[AB])\.[^.]+$", r"\1", key)


def factor_keys(tensor: Tensor) -> tuple[str, str]:
    """The canonical keys of A and B on the module of `tensor`."""
    form = "{}.lora_embedding_{}" if tensor.kind == "embedding" else "{}.lora_{}.weight"
    return form.format(tensor.module, "A"), form.format(tensor.module, "B")


# What PEFT adapts where the configuration names nothing.
_DEFAULT_TARGETS = {
    "llama": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "roberta": ("query", "value"),
}
_IA3_TARGETS = {
    "llama": ("k_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "roberta": ("key", "value", "output.dense"),
}
_HEADS = ("lm_head", "lm_head.decoder")  # the output embedding, which "all-linear" leaves out
_CLASSIFIERS = ("classifier", "score")


def completed(config: PeftConfig, model: Any) -> PeftConfig:
    """`config` with PEFT's own choice of modules for this architecture where it names none."""
    ia3 = config.method == "IA3"
    if config.target_modules is None:
        names = (_IA3_TARGETS if ia3 else _DEFAULT_TARGETS)[architecture(model)]
        config = dataclasses.replace(config, target_modules=names)
    if ia3 and config.own["feedforward_modules"] is None:
        last = _IA3_TARGETS[architecture(model)][-1:]
        config = dataclasses.replace(config, own={"feedforward_modules": last})
    return config


def saved_modules(config: PeftConfig) -> tuple[str, ...]:
    """`modules_to_save` with the names that a task adds when PEFT loads the adapter."""
    added = {"SEQ_CLS": _CLASSIFIERS, "TOKEN_CLS": _CLASSIFIERS, "QUESTION_ANS": ("qa_outputs",)}
    names = (*config.modules_to_save, *added.get(config.task_type or "", ()))
    return tuple(dict.fromkeys(names))


def saved_tensors(config: PeftConfig, table: Mapping[str, Tensor]) -> set[str]:
    """The tensors of the modules that are trained whole.

    A name stands for every module that ends in it, even in the middle of a word.
    """
    whole = saved_modules(config)
    return {name for name in table if any(m.endswith(whole) for m in _ancestors(name))}


def _ancestors(name: str) -> list[str]:
    """Every module around a tensor, as PEFT names it: "a.b.weight" -> ["….a", "….a.b"]."""
    parts = name.split(".")[:-1]
    return [PREFIX + ".".join(parts[: i + 1]) for i in range(len(parts))]


def targeted(config: PeftConfig, model: Any, modules: Mapping[str, Tensor]) -> list[str]:
    """Those of `modules`, the `matrices` of `model`, that get an adapter by PEFT's rules."""
    targets = completed(config, model).target_modules
    if isinstance(targets, str) and targets.lower() == "all-linear":
        linear = [name for name, tensor in modules.items() if tensor.kind != "embedding"]
        targets = tuple(name for name in linear if name not in _HEADS)
    whole = [_around(name) for name in saved_modules(config)]
    return [
        name
        for name in modules
        if not _named(config.exclude_modules, name)
        and not any(regex.match(name) for regex in whole)
        and _is_target(config, targets, name)
    ]


def _is_target(config: PeftConfig, targets: Modules, name: str) -> bool:
    if isinstance(targets, str) or name in (targets or ()):
        return _named(targets, name)
    if not _named(targets, name):
        return False
    if config.layers_to_transform is None:
        return True
    lists = config.layers_pattern or (r"[^.]*",)
    around = r"(?:^|.*?\.)" if config.layers_pattern else r".*?\."
    regexes = (_compiled(rf"{around}{part}\.(?P<index>\d+)\.", part) for part in lists)
    match = next(filter(None, (regex.match(name) for regex in regexes)), None)
    return match is not None and int(match["index"]) in config.layers_to_transform


def _named(modules: Modules, name: str) -> bool:
    if isinstance(modules, str):
        return bool(modules) and re.fullmatch(modules, name) is not None
    return any(name == item or name.endswith(f".{item}") for item in modules or ())


def _around(name: str) -> re.Pattern[str]:
    return _compiled(rf"(^|.*\.){name}($|\..*)", name)


def matching(patterns: Mapping[str, Any], module: str) -> list[Any]:
    """The values of all `patterns` that match, in their order; PEFT takes the first."""
    found = []
    for key, value in patterns.items():
        if _compiled(rf"(.*\.)?({key})$", key).match(module):
            found.append(value)
    return found


def check_patterns_used(field: str, patterns: Mapping[str, Any], modules: Sequence[str]) -> None:
    """Raises LoraxError for a pattern that matches no adapted module."""
    for key in patterns:
        if not any(matching({key: None}, module) for module in modules):
            raise LoraxError(
                f"{field} has {key!r}, which matches none of {len(modules)} adapted modules "
                f"({modules[0]}, …): expected one that does; correct or drop it"
            )


def _compiled(regex: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise LoraxError(f"{name!r} is no regular expression ({error}): correct it") from None


def target_names(adapted: Iterable[str], modules: Iterable[str]) -> list[str]:
    """The shortest sorted list of names that targets `adapted`, and nothing else of `modules`.

    The last part of a name where all modules that end in it are adapted, else the full name.
    """
    adapted, found = set(adapted), set()
    last: dict[str, set[str]] = {}
    for name in modules:
        last.setdefault(name.rpartition(".")[2], set()).add(name)
    for name in adapted:
        part = name.rpartition(".")[2]
        found.add(part if last[part] <= adapted else name)
    return sorted(found)


def other_modules(model: Any) -> tuple[str, ...]:
    """Matrices of the Hugging Face model that ours has no counterpart of: RoBERTa's pooler."""
    if architecture(model) == "roberta" and model.config.head == "none":
        return ("pooler.dense",)
    return ()
