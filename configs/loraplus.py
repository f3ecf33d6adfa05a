"""Should B learn faster than A? LoRA+: the rate of B over the rate of A, 1 to 32.

Command:

    export LORAX_DATA=...
    python -m experiments.sweep --config=configs/loraplus.py --workdir=runs/plus
    ... --config=configs/loraplus.py:mnli             # RoBERTa base on that task of GLUE
    ... --config=configs/loraplus.py:full             # or :bitfit, at five rates
    ... --config=configs/loraplus.py:smoke            # two ratios at two rates, two steps each

By default stories260K adapted to Shakespeare, as in configs/stories260k_ranks.py: rank 8 on all
linear layers. Six ratios x seven rates of A x three seeds, 126 units; of each ratio the rate that
is best on validation is reported. The rate is A's: B learns at `loraplus` times that.

Cost: not measured; 126 of the units of configs/stories260k_ranks.py, of which 180 are meant
to take some twenty minutes on two CPU cores.

Expected: no figure of our own yet.

The published claim: with a ratio above 1, 1 to 2 % better and up to about twice as fast; the
authors' example takes 20, more for harder tasks, at half the rate of A.

Source: Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", arXiv:2402.12354, and
the authors' README, github.com/nikhil-ghosh-berkeley/loraplus.

Needs: as configs/stories260k_shakespeare.py says; for tasks of GLUE, configs/glue_roberta_base.py.

What differs, and what is open:
 - At one rate of A a ratio above 1 also means larger steps of B, so that a comparison at one rate
   is one of rates. Here every ratio has its own best rate.
 - One task, near which no ratio may matter: the claim is of the limit of a wide model.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs import _glue
from configs._sweeps import NAMED, Point, axis, best_of, product
from configs._words import BASELINES, arguments
from configs.rank_sweep import get_config as glue
from configs.stories260k_ranks import get_config as shakespeare

KNOWN = (*_glue.EXAMPLES, *BASELINES, "smoke")
RATIOS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Of the page's rate: the best rate of A falls as the ratio rises."""

reduction = best_of("lr")


def get_config(arg: str = "") -> ConfigDict:
    """A unit of ratio 1; words: a task of GLUE, full, bitfit, smoke."""
    words = arguments(arg, KNOWN)
    return glue(arg) if words & {*_glue.EXAMPLES} else shakespeare(arg)


def sweep(arg: str = "") -> Iterator[Point]:
    """Ratios x rates x seeds; of a baseline, which has no B, rates x seeds."""
    config, seeds = get_config(arg), axis("seed", (0, 1, 2))
    if arguments(arg, KNOWN) & {*BASELINES}:
        return product(NAMED["lr"](config), seeds)
    rate = config.optimizer.learning_rate
    rates = axis("lr", [float(f"{rate * factor:.4g}") for factor in FACTORS])
    return product(axis("optimizer.loraplus", RATIOS), rates, seeds)
