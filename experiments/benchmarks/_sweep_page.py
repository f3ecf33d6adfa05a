"""The sweep whose makespan is measured: 24 units of configs/stories260k_ranks.py, less evaluated.

    python -m experiments.sweep --config=experiments/benchmarks/_sweep_page.py --workdir=DIR

stories260K adapted to Shakespeare, all linear layers, 6 ranks x 4 learning rates, 200 updates of 4
windows of 128 tokens each. Held-out numbers are of 64 windows a set, in a unit as in a run alone.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs._sweeps import Point, axis, product
from configs.stories260k_ranks import RANKS, RATES
from configs.stories260k_ranks import get_config as one_run


def get_config(arg: str = "") -> ConfigDict:
    """A unit; words: smoke."""
    config = one_run(arg)
    config.eval.update({"limit": 64})
    config.data.retention = ""
    return config


def sweep() -> Iterator[Point]:
    """Ranks x rates."""
    return product(axis("rank", RANKS), axis("lr", RATES[:4]))
