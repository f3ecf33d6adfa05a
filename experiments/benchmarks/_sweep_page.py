"""The sweep whose makespan is measured: 24 units of configs/stories260k_ranks.py, less evaluated.

    python -m experiments.sweep --config=experiments/benchmarks/_sweep_page.py --workdir=DIR

stories260K adapted to Shakespeare, all linear layers, 6 ranks x 4 learning rates, 200 updates of 2
windows of 64 tokens each; with the word `long` of 128 tokens, as that page has them. Held-out
numbers are of 64 windows a set, in a unit as in a run alone.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs._sweeps import Point, axis, product
from configs._words import arguments
from configs.stories260k_ranks import RANKS, RATES
from configs.stories260k_ranks import get_config as one_run


def get_config(arg: str = "") -> ConfigDict:
    """A unit; words: long, smoke."""
    words = arguments(arg, ("long", "smoke"))
    config = one_run(",".join(words - {"long"}))
    config.data.update({"retention": "", "length": 128 if "long" in words else 64})
    config.train.batch = 2
    config.eval.limit = 64
    return config


def sweep() -> Iterator[Point]:
    """Ranks x rates."""
    return product(axis("rank", RANKS), axis("lr", RATES[:4]))
