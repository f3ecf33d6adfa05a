"""Which adapters of other libraries are analysed here? PEFT's fixtures, and loralib's MNLI."""

import functools
import io
import json
from typing import Any

import numpy as np

import lorax
from lorax.io import peft
from tests.interop.measure import FOLDER, model_of
from tests.shared_data import shared


@functools.cache
def from_peft(name: str, scan: bool = False) -> tuple[lorax.Adapter, Any, Any]:
    """(adapter, base, delta) of a fixture that PEFT wrote."""
    folder = FOLDER / "adapters" / name
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    found = model_of(config["base_model_name_or_path"], scan)
    adapter, delta = peft.load(folder, found)
    return adapter, found.base, delta


@functools.cache
def mnli() -> tuple[lorax.LoRA, dict[str, lorax.Factors]]:
    """The published adapter of RoBERTa-base on MNLI, 24 pairs of rank 8; a skip without it."""
    arrays = np.load(io.BytesIO(shared("lora_adapters/roberta_base_lora_mnli_lora_only.npz.xz")))
    delta = {}
    for name in (n for n in arrays.files if n.endswith("lora_A")):
        a, b = arrays[name].T, arrays[name.replace("lora_A", "lora_B")].T
        delta[name.removesuffix(".lora_A")] = lorax.Factors(a, b, lorax.Roles((), (0,), (1,)))
    return lorax.LoRA(rank=8, alpha=8.0, where=(".*",)), delta
