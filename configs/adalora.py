"""AdaLoRA, ranks that shrink to a budget, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/adalora.py --workdir=runs/adalora
    ... --config=configs/adalora.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.128 ± 0.007 with 69,780 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: -0.090, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Zhang et al., arXiv:2303.10512, for the method.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - rank 12 falls to 8 a matrix on average, by a cubic, until 20 updates before the end. The paper's
   runs have tens of thousands of updates, and their importance time to settle.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("AdaLoRA", 0.03, arg)
