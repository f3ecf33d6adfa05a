"""VeRA, vectors beside shared random matrices, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/vera.py --workdir=runs/vera
    ... --config=configs/vera.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.335 ± 0.007 with 5,240 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.264, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Kopiczko et al., arXiv:2310.11454, for the method.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - The bound of each random matrix is that of its own fan-in; PEFT takes the largest of all. The
   matrices come from a seed and are in no file.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("VeRA", 0.1, arg)
