"""LoHa, a Hadamard product of two low-rank ones, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/loha.py --workdir=runs/loha
    ... --config=configs/loha.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.138 ± 0.007 with 46,240 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.141, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Hyeon-Woo et al., "FedPara", arXiv:2108.06098; the name and the starts are LyCORIS' and
PEFT's.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - Rank 4 is factored through its 16 Khatri-Rao columns; LoHa of larger ranks forms ΔW here.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("LoHa", 0.03, arg)
