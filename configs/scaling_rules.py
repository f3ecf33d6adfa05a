"""alpha / r or alpha / sqrt(r)? Both rules for r = 4 to 256, each at its own best learning rate.

Command:

    python -m experiments.sweep --config=configs/scaling_rules.py --workdir=runs/scaling
    ... --config=configs/scaling_rules.py:full        # or :bitfit, at five rates
    ... --config=configs/scaling_rules.py:e2e         # GPT-2 medium, as configs/e2e_gpt2_medium.py
    ... --config=configs/scaling_rules.py:smoke       # four units of two steps

The base of configs/quickstart.py at width 256, so that r = 256 is full rank: a LLaMA that reads
bytes, trained whole on the English that ships with Python and then adapted to its source code, on
all four matrices of attention. Four ranks x two rules x seven rates, 56 units; alpha is 16.

Cost: not measured. Analytic: a base of 2.4M parameters, 450 updates of 2,048 tokens, 1.3e13
products and sums; 56 units of 200 updates of 512 tokens, 1e12 each.

Expected: no figure of our own yet.

The published claim: under alpha / r the updates, and so the gradients, fade as r grows, and a high
rank is no better than a low one; under alpha / sqrt(r) they stay level and a high rank helps. That
is at one rate. The first gradient of B is alpha / r times one that does not depend on r, so 64
times smaller at r = 256 than at r = 4 in each entry, 8 times in norm. Under Adam, which divides by
the gradient's size, the rule acts as the rate does: the two should be equally good at their best
rates, and the best rate under alpha / sqrt(r) should fall as 1 / sqrt(r).

Source: Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
arXiv:2312.03732, abstract.

Needs: nothing but Python and its library; for `e2e` what configs/e2e_gpt2_medium.py does.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs import _e2e
from configs._attention import attention
from configs._sweeps import NAMED, Point, axis, best_of, product
from configs._words import BASELINES, arguments, smoke
from configs.quickstart import get_config as quickstart

KNOWN = ("e2e", *BASELINES, "smoke")
RANKS = (4, 16, 64, 256)
FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Of the page's rate."""

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit of rank 4; words: e2e, full, bitfit, smoke."""
    words = arguments(arg, KNOWN)
    rest = ",".join(words - {"e2e", "smoke"})
    if "e2e" in words:
        config = _e2e.page(rest, "medium")
    else:
        config = quickstart(rest)
        width = {"dim": 256, "layers": 3, "heads": 4, "kv_heads": 4, "hidden_dim": 768}
        config.model.fields = ConfigDict(width)
        config.train.update({"batch": 4, "steps": 200})
        config.optimizer.warmup = 10
        config.eval.update({"every": 0, "batch": 16, "prompt": ""})
        config.checkpoint.update({"every": 200, "keep": 1})
        if "rank" in config.adapter:
            config.adapter.where = attention("q,k,v,o").value
    if "smoke" in words:
        smoke(config)
    return config


def sweep(arg: str = "") -> Iterator[Point]:
    """Rules x ranks x rates; of a baseline, which has no rank, rates."""
    words, config = arguments(arg, KNOWN), get_config(arg)
    if words & {*BASELINES}:
        yield from NAMED["lr"](config)
        return
    rate = config.optimizer.learning_rate
    rates = axis("lr", [float(f"{rate * factor:.4g}") for factor in FACTORS])
    yield from product(NAMED["scaling"](config), axis("rank", RANKS), rates)
