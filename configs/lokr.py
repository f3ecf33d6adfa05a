"""LoKr, a Kronecker product, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/lokr.py --workdir=runs/lokr
    ... --config=configs/lokr.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.299 ± 0.016 with 8,840 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.122, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Yeh et al., "LyCORIS", arXiv:2309.14859, for the method.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - Where a matrix is small ΔW is formed, and `lorax.report` says so.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("LoKr", 0.03, arg)
