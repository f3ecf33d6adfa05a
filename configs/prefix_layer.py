"""Prefix-layer tuning, states of virtual tokens in every layer, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/prefix_layer.py --workdir=runs/prefix_layer
    ... --config=configs/prefix_layer.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.957 ± 0.028 with 2,560 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.553, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Hu et al., arXiv:2106.09685, section 5.1, for the method (GPT-3, 20.2M numbers: WikiSQL
70.1, MNLI-m 89.5).

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("PrefixLayer", 0.3, arg)
