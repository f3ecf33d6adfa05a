"""On which matrices is a budget spent best? Table 5 of the LoRA paper on RoBERTa base.

Command:

    export LORAX_DATA=...
    python -m experiments.sweep --config=configs/weight_types.py --workdir=runs/weights  # MNLI
    ... --config=configs/weight_types.py:rte          # or another task of GLUE
    ... --config=configs/weight_types.py:full         # or :bitfit, at five rates
    ... --config=configs/weight_types.py:smoke        # four units of two steps

Seven ways to spend 147,456 parameters: r = 8 on one of Wq, Wk, Wv, Wo, r = 4 on {q, k} or {q, v},
r = 2 on all four. Each at five learning rates around that of table 9 and with three seeds: 105
units. Of each the rate that is best on validation is reported.

Cost: not measured here. Analytic: 105 runs of configs/glue_roberta_base.py; for MNLI 2.4e17
products and sums each, 2.5e19 in all. RTE is some 80 times less.

Expected: no published figures for this model. The paper's own are of GPT-3 175B, 18.9M parameters
on all 96 layers, WikiSQL +- 0.5 and MNLI +- 0.1:

              q     k     v     o     q,k   q,v   q,k,v,o
    r         8     8     8     8     4     4     2
    WikiSQL   70.4  70.0  73.0  73.2  71.4  73.7  73.7
    MNLI      91.0  90.8  91.0  91.3  91.3  91.3  91.7

The claim to be looked at: a low rank on more matrices is worth more than a higher rank on one. The
paper calls {q, v} best overall; by its own table all four tie with it on WikiSQL and are 0.4 better
on MNLI.

Source: Hu et al., arXiv:2106.09685, tables 5 and 9. The five rates are ours: the paper has one.

Needs: as configs/glue_roberta_base.py says.

What differs, and what is open:
 - The classifier of RoBERTa, 0.6M parameters, is trained whole beside every budget.
 - alpha / r differs with r, as in the paper; a rate for each takes that out.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs import _glue
from configs._attention import attention
from configs._sweeps import NAMED, Point, axis, best_of, product
from configs._words import BASELINES, arguments
from configs.rank_sweep import get_config as one_of_any_rank

KNOWN = (*_glue.EXAMPLES, *BASELINES, "smoke")
BUDGET = {"q": 8, "k": 8, "v": 8, "o": 8, "q,k": 4, "q,v": 4, "q,k,v,o": 2}
"""The rank that spends it, by targets."""

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit; words: a task of GLUE (mnli is the default), full, bitfit, smoke."""
    arguments(arg, KNOWN)
    return one_of_any_rank(arg)


def sweep(arg: str = "") -> Iterator[Point]:
    """Ways to spend the budget x rates x seeds; of a baseline rates x seeds."""
    tuned = (NAMED["lr"](get_config(arg)), axis("seed", (0, 1, 2)))
    if arguments(arg, KNOWN) & {*BASELINES}:
        return product(*tuned)
    ways = [{"adapter.where": attention(t), "rank": rank} for t, rank in BUDGET.items()]
    return product(ways, *tuned)
