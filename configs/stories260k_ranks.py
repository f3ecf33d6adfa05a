"""Ranks 1 to 64 of stories260K adapted to Shakespeare, each at its own best learning rate.

Command:

    export LORAX_DATA=...
    python -m experiments.sweep --config=configs/stories260k_ranks.py --workdir=runs/ranks
    python -m experiments.analyse --sweep=runs/ranks --workdir=runs/ranks_analysed
    ... --config=configs/stories260k_ranks.py:full        # or :bitfit: rates and seeds of these
    ... --config=configs/stories260k_ranks.py:smoke       # two ranks at two rates, two steps each

180 units: 6 ranks x 5 learning rates x 3 seeds, on query and value and on all linear layers, under
alpha / r with the same alpha. A seed is that of A, of the order of examples and of dropout.

Cost: 45 minutes on two CPU cores with four times as much other work running, all 180 of them; the
analysis 3 minutes.

Expected, test loss in nats a token at the best rate of each rank, mean of three seeds (standard
errors 0.003 to 0.013; all in experiments/reports/stories260k_ranks), frozen base 5.247:

    r                   1      2      4      8      16     64
    query and value     3.498  3.412  3.365  3.324  3.300  3.289    best rate 0.01 at every rank
    all linear          3.198  3.149  3.090  3.040  3.030  3.003    best rate 0.005 at every rank

The best rate does not move with the rank, on a grid of steps of 2. Of r = 8 and r = 64 on query and
value, phi(1, 1) of A is 0.28 (query) and 0.54 (value), 0.02 by chance and at the start.

Protocol: 80 % of the text for training, 10 % validation, 10 % test, in this order; windows of 128
tokens, each behind its own BOS, 128 of a held-out part, spread over it; 200 updates of 2 windows.
The rate is chosen on validation, test is reported. Forgetting on the first 12,000 characters of
TinyStories sentences.

Published beside it: under alpha / r the best rate moves by less than 2 times from r = 4 to 512, and
is lower at r = 1 (Schulman et al., "LoRA Without Regret", 2025, for models of 1B and more); a small
rank suffices where the task is near (Hu et al., arXiv:2106.09685, table 6: WikiSQL 73.4, 73.3,
73.7, 73.8 and 73.5 for r = 1, 2, 4, 8 and 64 on query and value of GPT-3).

Source: those two; the model is Karpathy's (huggingface.co/karpathy/tinyllamas).

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs, and what is open:
 - The width is 64, and 32 the output of value: rank 64 is more than the matrix of value has, and
   the rows of its A span all there is. Chance of the subspace similarity is 64 / 64 there.
 - Leaving the stories behind takes all of the model: the task is far, not near; every rank helps.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs._attention import attention
from configs._sweeps import NAMED, Point, axis, best_of, label, product
from configs._words import BASELINES, arguments, smoke
from configs.stories260k_shakespeare import get_config as one_run

KNOWN = (*BASELINES, "smoke")
RANKS = (1, 2, 4, 8, 16, 64)
RATES = (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)
TARGETS = (attention("q,v"), label("all-linear", ("all-linear",)))

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit of rank 8; words: full, bitfit, smoke."""
    words = arguments(arg, KNOWN)
    config = one_run(",".join(words - {"smoke"}))
    config.train.update({"batch": 2, "steps": 200})
    config.optimizer.warmup = 10
    config.eval.update({"every": 0, "batch": 32, "limit": 128, "prompt": ""})
    config.checkpoint.update({"every": 200, "keep": 1})
    if "smoke" in words:
        smoke(config)
    return config


def sweep(arg: str = "") -> Iterator[Point]:
    """Targets x ranks x rates x seeds; of a baseline, which has no rank, rates x seeds."""
    seeds = axis("seed", (0, 1, 2))
    if arguments(arg, KNOWN) & {*BASELINES}:
        return product(NAMED["lr"](get_config(arg)), seeds)
    targets = axis("adapter.where", TARGETS)
    return product(targets, axis("rank", RANKS), axis("lr", RATES), seeds)
