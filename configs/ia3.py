"""IA3, a factor for each key, value and hidden unit, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/ia3.py --workdir=runs/ia3
    ... --config=configs/ia3.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.589 ± 0.003 with 1,180 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.150, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Liu et al., arXiv:2205.05638, for the method.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - A factor is stored as its distance from one.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("IA3", 0.1, arg)
