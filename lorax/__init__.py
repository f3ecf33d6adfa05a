"""Low-rank adaptation of any JAX program: a frozen base, a small delta, one transform.

adapter = lorax.LoRA(rank=8, alpha=16.0)
apply = lorax.adapt(model.apply, adapter)
delta = apply.init(key, base, tokens)
logits = apply(base, delta, tokens)
params = adapter.merge(base, delta)
"""

import importlib
import types

from lorax.adapters.adalora import AdaLoRA
from lorax.adapters.bitfit import BitFit
from lorax.adapters.bottleneck import Bottleneck
from lorax.adapters.dora import DoRA
from lorax.adapters.full import Full
from lorax.adapters.ia3 import IA3
from lorax.adapters.loha import LoHa
from lorax.adapters.lokr import LoKr
from lorax.adapters.lora import LoRA
from lorax.adapters.lora_fa import LoRAFA
from lorax.adapters.lora_xs import LoRAXS
from lorax.adapters.p_tuning import PTuning
from lorax.adapters.prefix_layer import PrefixLayer
from lorax.adapters.prefix_tuning import PrefixTuning
from lorax.adapters.prompt_tuning import PromptTuning
from lorax.adapters.subspace import Subspace
from lorax.adapters.tiny_lora import TinyLoRA
from lorax.adapters.vera import VeRA
from lorax.core.adapter import Adapter, Chain, Prepared
from lorax.core.description import from_dict, from_json
from lorax.core.engine import Adapted, adapt
from lorax.core.errors import LoraxError, LoraxTypeError, LoraxWarning
from lorax.core.freeze import freeze_base
from lorax.core.leaf import Factors, Learnt, LowRank, Rescaled, Roles, Shift
from lorax.core.report import Report, report
from lorax.core.roles import roles
from lorax.generation.generate import generate
from lorax.ops.quantize import dequantize, quantize

__version__ = "0.1.0"

__all__ = [
    "AdaLoRA",
    "Adapted",
    "Adapter",
    "BitFit",
    "Bottleneck",
    "Chain",
    "DoRA",
    "Factors",
    "Full",
    "IA3",
    "Learnt",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRAFA",
    "LoRAXS",
    "LoraxError",
    "LoraxTypeError",
    "LoraxWarning",
    "LowRank",
    "PTuning",
    "PrefixLayer",
    "PrefixTuning",
    "Prepared",
    "PromptTuning",
    "Report",
    "Rescaled",
    "Roles",
    "Shift",
    "Subspace",
    "TinyLoRA",
    "VeRA",
    "adapt",
    "dequantize",
    "freeze_base",
    "from_dict",
    "from_json",
    "generate",
    "quantize",
    "report",
    "roles",
]

_PACKAGES = ("adapters", "analysis", "core", "data", "generation", "io", "models", "ops", "train")


def __getattr__(name: str) -> types.ModuleType:
    """Packages are imported when they are first named: `lorax.models` takes flax along."""
    if name in _PACKAGES:
        return importlib.import_module(f"lorax.{name}")
    raise AttributeError(f"module 'lorax' has no attribute '{name}'")
