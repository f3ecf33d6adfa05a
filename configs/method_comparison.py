"""Every method on one base with one budget of tuning: what is learnt, what is forgotten, the cost.

Command:

    export LORAX_DATA=...
    python -m experiments.sweep --config=configs/method_comparison.py --workdir=runs/methods
    ... --config=configs/method_comparison.py:clinc       # classification, on the same base
    ... --config=configs/method_comparison.py:full        # or :bitfit: rates and seeds of these
    ... --config=configs/method_comparison.py:smoke       # two methods at two rates, two steps each
    python -m experiments.benchmarks.methods              # the cost of a step, read by the report

345 units a task: 23 methods x 5 learning rates x 3 seeds, those of a method in one program. A seed
is that of the first draw, of the order of examples and of dropout.

Cost: about three quarters of an hour of CPU time a task.

Expected, at the best rate of each method, mean of three seeds (intervals, the other methods and
what is forgotten on the sentences in experiments/reports/methods_shakespeare and methods_clinc):

                 trainable  Shakespeare, nats a token  forgotten  CLINC150, accuracy  forgotten
    frozen base          0                      5.247                          0.267
    Full           260,032                      3.017       0.04               0.906       2.97
    AdaLoRA         69,780                      3.128      -0.09               0.903       2.60
    DoRA            49,240                      3.130       0.32               0.894       3.08
    LoRA            46,240                      3.138       0.28               0.897       6.07
    LoRA-FA         24,000                      3.204       0.29               0.953       4.54
    Adapter-P       20,960                      3.209      -0.05               0.775       5.58
    VeRA             5,240                      3.335       0.26               0.825       3.11
    BitFit             704                      3.573       0.08               0.567       4.78
    IA3              1,180                      3.589       0.15               0.675       4.50
    Prompt           1,024                      3.880      -0.19               0.289       1.92
    TinyLoRA            64                      4.231      -0.01               0.231       0.45

Protocol: validation chooses the rate, of five half a decade apart, and test is reported; forgotten
is the rise of the loss on TinyStories sentences. Shakespeare as in configs/stories260k_ranks.py,
120 updates of 2 windows. CLINC150: four intents, 400 sentences to learn, 80 and 120 held out; the
name of the intent follows the sentence, and the likeliest of the four names is the answer; 80
updates of 8 rows of 32 tokens. Intervals are a paired bootstrap over test items and seeds.

Source: the papers that the adapters name; Larson et al., arXiv:1909.02027, for CLINC150. No figures
are published for this model.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does, and
clinc150/data_full.json.xz (github.com/clinc/oos-eval).

What differs, and what is open:
 - The width is 64 and training is short: virtual tokens, which learn slowly, are far from done.
 - The best rate lies within the five everywhere but for P-tuning on CLINC150, which learns nothing
   there (four classes, 0.297).
 - By rates alone much of the forgetting is chosen: on CLINC150 two neighbouring rates of LoRA are
   as accurate, and forget 3.1 and 6.1 nats a token.
 - Three seeds say little of how much seeds matter.
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
"""Fields of an adapter, and the rate around which it is tuned, on either task."""

_LADDER = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)


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
    """Five rates half a decade apart, this one in their middle."""
    at = _LADDER.index(rate)
    return _LADDER[at - 2 : at + 3]


METHODS: Mapping[str, Method] = {
    "LoRA": (_lora(), 1e-2),
    "rsLoRA": (_lora(scaling="rslora"), 3e-3),
    "DoRA": (_like("DoRA", 8), 1e-2),
    "AdaLoRA": (_like("AdaLoRA", 12, target_rank=8, final=20), 3e-2),
    "LoRA-FA": (_like("LoRAFA", 8), 1e-2),
    "LoRA-XS": (_like("LoRAXS", 16), 1e-2),
    "TinyLoRA": ({"adapter": "TinyLoRA", "numbers": 64, "where": LINEAR}, 0.1),
    "VeRA": ({"adapter": "VeRA", "rank": 64, "where": LINEAR}, 0.1),
    "LoHa": (_like("LoHa", 4), 3e-2),
    "LoKr": (_like("LoKr", 8), 3e-2),
    "IA3": ({"adapter": "IA3"}, 0.1),
    "Adapter-H": (_bottleneck(16), 3e-2),
    "Adapter-L": (_bottleneck(32, where=MLP, norm=True), 3e-2),
    "Adapter-P": (_bottleneck(32, where=MLP), 3e-2),
    "Prompt": ({"adapter": "PromptTuning", "tokens": 16}, 0.3),
    "P-tuning": ({"adapter": "PTuning", "tokens": 16, "hidden": 64}, 1e-2),
    "Prefix": ({"adapter": "PrefixTuning", "tokens": 16}, 0.1),
    "PrefixLayer": ({"adapter": "PrefixLayer", "tokens": 8}, 0.1),
    "LoRA+PE": (_chain(_lora(), {"adapter": "PromptTuning", "tokens": 8}), 1e-2),
    "LoRA+PL": (_chain(_lora(), {"adapter": "PrefixLayer", "tokens": 8}), 1e-2),
    "BitFit": ({"adapter": "BitFit", "where": (r".*norm/scale",)}, 0.1),
    "Subspace": ({"adapter": "Subspace", "dim": 1000, "projection": "fastfood"}, 3e-2),
    "Full": ({"adapter": "Full"}, 3e-3),
}  # fmt: skip
"""One entry a method: its name in folders and figures, its fields, its rate."""

OF_WORD = {"full": "Full", "bitfit": "BitFit"}

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit of LoRA; words: shakespeare (the default), clinc, full, bitfit, smoke."""
    words = arguments(arg, KNOWN)
    task = one_of(words, TASKS, TASKS[0])
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
        yield from product(adapters, axis("lr", _around(rate)), axis("seed", (0, 1, 2)))
