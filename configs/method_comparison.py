"""Every method on one base with one budget of tuning: what is learnt, what is forgotten, the cost.

Command:

    export LORAX_DATA=...
    python -m experiments.sweep --config=configs/method_comparison.py --workdir=runs/methods
    ... --config=configs/method_comparison.py:sst2        # classification, on the same base
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

TASKS = ("shakespeare", "sst2")
KNOWN = (*TASKS, *BASELINES, "smoke")

LINEAR, MLP = "all-linear", (r".*/mlp/down/kernel",)

Method = tuple[Mapping[str, Any], tuple[float, ...]]
"""Fields of an adapter, and the rates that it is tuned over."""

_LADDER = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


def _lora(**fields: Any) -> dict[str, Any]:
    return {"adapter": "LoRA", "rank": 8, "alpha": 16.0, "where": LINEAR, **fields}


def _like(adapter: str, rank: int, **fields: Any) -> dict[str, Any]:
    """One of LoRA's kin: alpha is twice the rank, as there."""
    return {"adapter": adapter, "rank": rank, "alpha": 2.0 * rank, "where": LINEAR, **fields}


def _chain(*members: Mapping[str, Any]) -> dict[str, Any]:
    return {"adapter": "Chain", "members": members}


def _bottleneck(rank: int, **fields: Any) -> dict[str, Any]:
    return {"adapter": "Bottleneck", "rank": rank, **fields}


def _around(rate: float) -> tuple[float, ...]:
    """Three rates half a decade apart, the one in the middle first guessed, then tried."""
    at = _LADDER.index(rate)
    return _LADDER[at - 1 : at + 2]


METHODS: Mapping[str, Method] = {
    "LoRA": (_lora(), _around(1e-2)),
    "rsLoRA": (_lora(scaling="rslora"), _around(3e-3)),
    "DoRA": (_like("DoRA", 8), _around(1e-2)),
    "AdaLoRA": (_like("AdaLoRA", 12, target_rank=8, final=20), _around(3e-2)),
    "LoRA-FA": (_like("LoRAFA", 8), _around(1e-2)),
    "LoRA-XS": (_like("LoRAXS", 16), _around(3e-2)),
    "VeRA": ({"adapter": "VeRA", "rank": 64, "where": LINEAR}, _around(0.1)),
    "LoHa": (_like("LoHa", 4), _around(1e-2)),
    "LoKr": (_like("LoKr", 8), _around(1e-2)),
    "IA3": ({"adapter": "IA3"}, _around(0.1)),
    "BitFit": ({"adapter": "BitFit", "where": (r".*norm/scale",)}, _around(3e-2)),
    "Adapter-H": (_bottleneck(16), _around(1e-2)),
    "Adapter-L": (_bottleneck(32, where=MLP, norm=True), _around(1e-2)),
    "Adapter-P": (_bottleneck(32, where=MLP), _around(1e-2)),
    "Prompt": ({"adapter": "PromptTuning", "tokens": 16}, _around(0.3)),
    "P-tuning": ({"adapter": "PTuning", "tokens": 16, "hidden": 64}, _around(3e-3)),
    "Prefix": ({"adapter": "PrefixTuning", "tokens": 16}, _around(0.1)),
    "PrefixLayer": ({"adapter": "PrefixLayer", "tokens": 8}, _around(0.1)),
    "LoRA+PE": (_chain(_lora(), {"adapter": "PromptTuning", "tokens": 8}), _around(1e-2)),
    "LoRA+PL": (_chain(_lora(), {"adapter": "PrefixLayer", "tokens": 8}), _around(1e-2)),
    "Subspace": (
        {"adapter": "Subspace", "dim": 1000, "projection": "fastfood"}, _around(3e-2)
    ),
    "Full": ({"adapter": "Full"}, _around(3e-3)),
}  # fmt: skip
"""One entry a method: its name in folders and figures, its fields, its rates for Shakespeare."""

OF_WORD = {"full": "Full", "bitfit": "BitFit"}

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit of LoRA; words: shakespeare (the default), sst2, full, bitfit, smoke."""
    words = arguments(arg, KNOWN)
    task = one_of(words, TASKS, "shakespeare")
    config = one_run(one_of(words, BASELINES, ""))
    config.optimizer.warmup = 10
    config.eval.update({"every": 0, "batch": 32, "limit": 128, "prompt": "", "by_item": True})
    config.train.update({"batch": 2, "steps": 120})
    if task == "sst2":
        _sst2(config)
    config.checkpoint.update({"every": config.train.steps, "keep": 1})
    if "smoke" in words:
        smoke(config)
    return config


def _sst2(config: ConfigDict) -> None:
    """Sentences of films, answered by a word of the stories."""
    files = {part: f"sst2/{file}.tsv.xz" for part, file in
             (("train", "train"), ("validation", "dev"), ("test", "test"))}  # fmt: skip
    config.data.update({"task": "completion", "format": "tsv", **files, "limit": 20_000})
    config.data.update({"labels": ("sad", "happy"), "length": 64, "too_long": "cut"})
    config.data.update({"packing": "pack", "retention_characters": 6_000})
    config.data.columns.update({"text": "sentence", "label": "label"})
    config.train.update({"batch": 4, "steps": 150})
    config.eval.update({"batch": 50, "limit": 200})


def sweep(arg: str = "") -> Iterator[Point]:
    """Methods x the rates of each x seeds; of a baseline its rates x seeds."""
    words = arguments(arg, KNOWN)
    chosen = [OF_WORD[word] for word in words & {*BASELINES}] or list(METHODS)
    scale = 0.1 if "sst2" in words else 1.0
    for name in chosen:
        fields, rates = METHODS[name]
        rates = tuple(float(f"{scale * rate:.3g}") for rate in rates)
        adapters = axis("adapter", [label(name, fields)])
        yield from product(adapters, axis("lr", rates), axis("seed", (0, 1, 2)))
