"""Which units are one program? Those that differ in traced numbers, rank, seeds and data order."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from experiments import _workdir
from experiments._sweep.units import Unit
from experiments._train.setting import pretraining
from lorax.adapters.lora_init import DECOMPOSITIONS

TRACED = ("learning_rate", "weight_decay", "b1", "b2", "eps", "loraplus")
"""Fields of `config.optimizer` that may differ between units of a program."""

PADDED = tuple(
    f"adapter.{name}"
    for name in ("rank", "alpha", "scaling", "initializer", "init_scale", "dropout")
)
"""Fields that may differ between units of LoRA: `Padded` has them beside A and B."""

FREE = (
    *PADDED,
    *(f"optimizer.{name}" for name in TRACED),
    *(f"seed.{name}" for name in ("init", "data", "dropout", "sample")),
)
"""Fields that may differ between units of a program; everything else starts another one."""


def programs(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units by program, in the order of their first ones."""
    found: dict[str, list[Unit]] = {}
    for unit in units:
        found.setdefault(program_of(unit.config), []).append(unit)
    return list(found.values())


def program_of(config: Any) -> str:
    """A short text that is the same for units of one program, and for no others."""
    fields = _workdir.plain(config)
    kept = [
        fields["adapter"].get("initializer") in DECOMPOSITIONS,  # these have an offset beside A B
        _value(fields, "adapter.rank") if not fields["optimizer"]["eps"] else 0,  # 0 / 0 is NaN
        fields["seed"]["data"] if fields["data"]["packing"] == "bucket" else 0,  # lengths of rows
        base_of(config),
    ]
    for name in FREE:
        if name in PADDED and fields["adapter"].get("adapter") != "LoRA":
            continue  # of any other adapter all units of a program have the same one
        *parts, last = name.split(".")
        node = fields
        for part in parts:
            node = node[part]
        node.pop(last, None)
    return short([fields, kept])


def base_of(config: Any) -> str:
    """The same for all configs that train the same base first, or none, which is empty."""
    if not config.pretrain.steps or config.model.source:
        return ""
    made = _workdir.plain(pretraining(config))
    parts = (made[name] for name in ("model", "data", "train", "optimizer", "adapter"))
    return short([made["seed"]["base"], *parts])


def differing(units: Sequence[Unit]) -> tuple[str, ...]:
    """Those of `TRACED` that are not the same in all units: they are arguments of the program."""
    return tuple(
        name for name in TRACED if len({unit.config.optimizer[name] for unit in units}) > 1
    )


def short(value: Any) -> str:
    """Ten hexadecimal digits of a JSON value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _value(fields: Any, name: str) -> Any:
    for part in name.split("."):
        fields = fields.get(part, {})
    return fields
