"""P-tuning, virtual tokens through a small network, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/p_tuning.py --workdir=runs/p_tuning
    ... --config=configs/p_tuning.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.906 ± 0.041 with 13,504 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: -0.179, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Liu et al., arXiv:2103.10385, for the method; the networks are PEFT's.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - `--config.adapter.encoder=lstm` takes the recurrent network.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("P-tuning", 0.03, arg)
