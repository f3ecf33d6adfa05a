"""Every method on one base with one budget of tuning: what is learnt, what is forgotten, the cost.

Command:

    export LORAX_DATA=...
    python -m experiments.sweep --config=configs/method_comparison.py --workdir=runs/methods
    ... --config=configs/method_comparison.py:clinc       # classification, on the same base
    ... --config=configs/method_comparison.py:full        # or :bitfit: rates and seeds of these
    ... --config=configs/method_comparison.py:smoke       # two methods at two rates, two steps each
    python -m experiments.benchmarks.methods --output=experiments/benchmarks/results/methods.json
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs._sweeps import Point, axis, best_of, label, product
from configs._words import BASELINES, arguments, one_of, smoke
from configs.stories260k_shakespeare import get_config as one_run

TASKS = ("shakespeare", "clinc")
KNOWN = (*TASKS, *BASELINES, "smoke")

LINEAR, MLP = "all-linear", (r".*/mlp/down/kernel",)

INTENTS = ("balance", "calories", "recipe", "translate")

Method = tuple[Mapping[str, Any], float]
"""Fields of an adapter, and the rate around which it is tuned on Shakespeare."""

_LADDER = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


def _lora(**fields: Any) -> dict[str, Any]:
    return {"adapter": "LoRA", "rank": 8, "alpha": 16.0, "where": LINEAR, **fields}


def _like(adapter: str, rank: int, **fields: Any) -> dict[str, Any]:
    """One of LoRA's kin: alpha is twice the rank, as there."""
    return {"adapter": adapter, "rank": rank, "alpha": 2.0 * rank, "where": LINEAR, **fields}


def _chain(*members: Mapping[str, Any]) -> dict[str, Any]:
    return {"adapter": "Chain", "members": members}


def _bottleneck(rank: int, **fields: Any) -> dict[str, Any]:
    return {"adapter": "Bottleneck", "rank": rank, **fields}


def _around(rate: float, *, lower: bool = False) -> tuple[float, ...]:
    """Three rates half a decade apart with this one in their middle, or one step lower."""
    at = _LADDER.index(rate) - lower
    return _LADDER[at - 1 : at + 2]


METHODS: Mapping[str, Method] = {
    "LoRA": (_lora(), 1e-2),
    "rsLoRA": (_lora(scaling="rslora"), 3e-3),
    "DoRA": (_like("DoRA", 8), 1e-2),
    "AdaLoRA": (_like("AdaLoRA", 12, target_rank=8, final=20), 3e-2),
    "LoRA-FA": (_like("LoRAFA", 8), 1e-2),
    "LoRA-XS": (_like("LoRAXS", 16), 3e-2),
    "VeRA": ({"adapter": "VeRA", "rank": 64, "where": LINEAR}, 0.1),
    "LoHa": (_like("LoHa", 4), 1e-2),
    "LoKr": (_like("LoKr", 8), 1e-2),
    "IA3": ({"adapter": "IA3"}, 0.1),
    "BitFit": ({"adapter": "BitFit", "where": (r".*norm/scale",)}, 3e-2),
    "Adapter-H": (_bottleneck(16), 1e-2),
    "Adapter-L": (_bottleneck(32, where=MLP, norm=True), 1e-2),
    "Adapter-P": (_bottleneck(32, where=MLP), 1e-2),
    "Prompt": ({"adapter": "PromptTuning", "tokens": 16}, 0.3),
    "P-tuning": ({"adapter": "PTuning", "tokens": 16, "hidden": 64}, 3e-3),
    "Prefix": ({"adapter": "PrefixTuning", "tokens": 16}, 0.1),
    "PrefixLayer": ({"adapter": "PrefixLayer", "tokens": 8}, 0.1),
    "LoRA+PE": (_chain(_lora(), {"adapter": "PromptTuning", "tokens": 8}), 1e-2),
    "LoRA+PL": (_chain(_lora(), {"adapter": "PrefixLayer", "tokens": 8}), 1e-2),
    "Subspace": (
        {"adapter": "Subspace", "dim": 1000, "projection": "fastfood"}, 3e-2
    ),
    "Full": ({"adapter": "Full"}, 3e-3),
}  # fmt: skip
"""One entry a method: its name in folders and figures, its fields, its rate."""

OF_WORD = {"full": "Full", "bitfit": "BitFit"}

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit of LoRA; words: shakespeare (the default), clinc, full, bitfit, smoke."""
    words = arguments(arg, KNOWN)
    task = one_of(words, TASKS, "shakespeare")
    config = one_run(one_of(words, BASELINES, ""))
    config.optimizer.warmup = 10
    config.eval.update({"every": 0, "batch": 32, "limit": 128, "prompt": "", "by_item": True})
    config.train.update({"batch": 2, "steps": 120})
    if task == "clinc":
        _clinc(config)
    config.checkpoint.update({"every": config.train.steps, "keep": 1})
    if "smoke" in words:
        smoke(config)
    return config


def _clinc(config: ConfigDict) -> None:
    """What is wanted by a sentence, one of four things, answered by its name."""
    file = "clinc150/data_full.json.xz"
    files = {"train": f"{file}:train", "validation": f"{file}:val", "test": f"{file}:test"}
    config.data.update({"task": "completion", "format": "clinc", **files, "labels": INTENTS})
    config.data.update({"length": 32, "too_long": "cut", "packing": "pack"})
    config.data.retention_characters = 6_000
    config.train.update({"batch": 8, "steps": 80})
    config.eval.update({"batch": 60, "limit": 0})


def sweep(arg: str = "") -> Iterator[Point]:
    """Methods x the rates of each x seeds; of a baseline its rates x seeds."""
    words = arguments(arg, KNOWN)
    chosen = [OF_WORD[word] for word in words & {*BASELINES}] or list(METHODS)
    for name in chosen:
        fields, rate = METHODS[name]
        adapters = axis("adapter", [label(name, fields)])
        rates = axis("lr", _around(rate, lower="clinc" in words))
        yield from product(adapters, rates, axis("seed", (0, 1, 2)))
