"""LoRA-XS, r² numbers a matrix between singular vectors, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/lora_xs.py --workdir=runs/lora_xs
    ... --config=configs/lora_xs.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.313 ± 0.006 with 8,960 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.439, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Bałazy et al., arXiv:2405.17604, for the method.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - R starts at exactly zero; the paper has a deviation of 1e-5.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("LoRA-XS", 0.01, arg)
