"""How small may the rank be? Table 6 of the LoRA paper on RoBERTa base, its table 18 on GPT-2.

Command:

    export LORAX_DATA=...
    python -m experiments.sweep --config=configs/rank_sweep.py --workdir=runs/ranks      # MNLI
    ... --config=configs/rank_sweep.py:rte            # or another task of GLUE
    ... --config=configs/rank_sweep.py:e2e            # GPT-2 medium on E2E, ranks 1 to 1024
    ... --config=configs/rank_sweep.py:smoke          # two ranks at two rates, two steps each
    ... --config=configs/rank_sweep.py --sweep=rank,lr,seed       # on query and value alone

225 units: r = 1, 2, 4, 8 and 64 on {q}, {q, v} and {q, k, v, o}, each at five learning rates around
that of table 9 and with three seeds. Of each rank the rate that is best on validation is reported.

Cost: not measured here. Analytic: a unit is a run of configs/glue_roberta_base.py; for MNLI 30
epochs of 392,702 pairs of some 40 tokens at 4 x 125M products and sums, 2.4e17, so 5e19 for all.
RTE is some 80 times less; --config.train.epochs=3 makes it ten times less again.

Expected: no published figures for this model; on MNLI, configs/glue_roberta_base.py has 87.5 at
r = 8 on {q, v}. The paper's own are of GPT-3 175B, WikiSQL (+- 0.5) / MNLI (+- 0.1):

              r=1          r=2          r=4          r=8          r=64
    q         68.8 / 90.7  69.6 / 90.9  70.5 / 91.1  70.4 / 90.7  70.0 / 90.7
    q,v       73.4 / 91.3  73.3 / 91.4  73.7 / 91.3  73.8 / 91.6  73.5 / 91.4
    q,k,v,o   74.1 / 91.2  73.7 / 91.7  74.0 / 91.7  74.0 / 91.5  73.9 / 91.4

The claim to be looked at: r = 1 is enough on {q, v}, and {q} alone is not made good by any rank.
`e2e`, table 18, q and v of GPT-2 medium after 26,000 steps: validation loss 1.23, 1.21, 1.18, 1.17,
then 1.16 from r = 16 to 512, and 1.17 at 1024; BLEU 68.7 to 70.4, highest at r = 4, for which some
hyper-parameters were tuned.

Source: Hu et al., arXiv:2106.09685, tables 6, 9, 11 and 18. The five rates are ours: the paper has
one for all ranks, which cannot tell a poor rank from a poor rate.

Needs: as configs/glue_roberta_base.py and, for `e2e`, configs/e2e_gpt2_medium.py say.

What differs, and what is open:
 - The classifier of RoBERTa is trained whole beside every rank: 0.6M parameters, as many as rank 16
   on {q, v} has.
 - `e2e` adapts query, key and value as one matrix, with which {q} and {q, v} cannot be told apart;
   its targets are that one, and with it the output.
 - A seed is that of A, the head is the same in all: --config.seed.base=1 draws another.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs import _e2e, _glue
from configs._attention import attention
from configs._sweeps import NAMED, Point, axis, best_of, label, product
from configs._words import BASELINES, arguments, one_of, smoke

KNOWN = (*_glue.EXAMPLES, "e2e", *BASELINES, "smoke")
TARGETS = (attention("q"), attention("q,v"), attention("q,k,v,o"))
FUSED = (
    label("qkv", (r".*/attention/qkv/kernel",)),
    label("qkv,o", (r".*/attention/(qkv|out)/kernel",)),
)

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit; words: a task of GLUE (mnli is the default), e2e, full, bitfit, smoke."""
    words = arguments(arg, KNOWN)
    task = one_of(words, (*_glue.EXAMPLES, "e2e"), "mnli")
    rest = ",".join(words - {task, "smoke"})
    if task == "e2e":
        config = _e2e.page(rest, "medium")
    else:
        config = _glue.page(f"{task},{rest}", "base", {"full": 2e-5, "bitfit": 1e-3})
    if "smoke" in words:
        smoke(config)
    return config


def sweep(arg: str = "") -> Iterator[Point]:
    """Targets x ranks x rates x seeds; of a baseline, which has no rank, rates x seeds."""
    words = arguments(arg, KNOWN)
    tuned = (NAMED["lr"](get_config(arg)), axis("seed", (0, 1, 2)))
    if words & {*BASELINES}:
        return product(*tuned)
    targets, ranks = TARGETS, (1, 2, 4, 8, 64)
    if "e2e" in words:
        targets, ranks = FUSED, tuple(2**n for n in range(11))
    return product(axis("adapter.where", targets), axis("rank", ranks), *tuned)


def sweep_where(arg: str = "") -> list[Point]:
    """The targets alone, for --sweep=where,rank,lr."""
    return axis("adapter.where", FUSED if "e2e" in arguments(arg, KNOWN) else TARGETS)
