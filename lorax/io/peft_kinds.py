"""Which of our adapters is each of PEFT's methods for weights? One row a method, both ways."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lorax.adapters.dora import DoRA
from lorax.adapters.ia3 import IA3
from lorax.adapters.loha import LoHa
from lorax.adapters.lokr import LoKr
from lorax.adapters.lora import LoRA
from lorax.adapters.vera import VeRA
from lorax.core import paths
from lorax.core.adapter import Delta
from lorax.core.leaf import Factors, Learnt
from lorax.io.peft_config import PeftConfig


@dataclasses.dataclass(frozen=True)
class Kind:
    """A method of PEFT and an adapter of ours.

    Attributes:
      adapter: our class.
      fields: of the adapter, beyond rank, alpha, scaling and dropout, from the configuration.
      own: fields of the configuration alone, from those of the adapter.
    """

    adapter: type[Any]
    fields: Callable[[PeftConfig], Mapping[str, Any]] = lambda config: {}
    own: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda fields: {}


KINDS: dict[str, Kind] = {
    "LORA": Kind(LoRA),
    "DORA": Kind(DoRA),
    "VERA": Kind(VeRA, lambda config: {"seed": None}),
    "LOHA": Kind(LoHa),
    "LOKR": Kind(
        LoKr,
        lambda config: {"factor": config.own["decompose_factor"]},
        lambda fields: {"decompose_factor": fields["factor"], "decompose_both": False},
    ),
    "IA3": Kind(IA3),
}
"""By peft_type; "DORA" for a LORA with use_dora."""

ADAPTERS = {kind.adapter: method for method, kind in KINDS.items()}
"""The method of each of our adapters."""


def packed(kind: Any, learnt: Mapping[str, Learnt]) -> Delta:
    """The delta of this kind of adapter from the arrays of its leaves; inverse of `unpacked`."""
    factors = {
        path: Factors(leaf["A"], leaf["B"], leaf.roles)
        for path, leaf in learnt.items()
        if kind in (LoRA, DoRA)
    }
    if kind is DoRA:
        return {"lora": factors, "magnitude": {path: leaf["m"] for path, leaf in learnt.items()}}
    if kind is IA3:  # one gain, of the side that its name says
        return {
            path: Learnt({"gain": gain}, leaf.roles)
            for path, leaf in learnt.items()
            for gain in leaf.arrays.values()
        }
    return factors or dict(learnt)


def unpacked(adapter: Any, delta: Delta) -> dict[str, Learnt]:
    """The arrays of a delta's leaves, by the names of `peft_slots`."""
    if isinstance(adapter, DoRA):
        return {
            path: Learnt({"A": pair.A, "B": pair.B, "m": delta["magnitude"][path]}, pair.roles)
            for path, pair in delta["lora"].items()
        }
    if isinstance(adapter, IA3):
        inputs = lambda path: any(paths.matches(pattern, path) for pattern in adapter.feedforward)
        return {
            path: Learnt({"inputs" if inputs(path) else "outputs": leaf["gain"]}, leaf.roles)
            for path, leaf in delta.items()
        }
    return dict(delta)
