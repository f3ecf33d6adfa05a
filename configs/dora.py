"""DoRA, the length of each column apart from its direction, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/dora.py --workdir=runs/dora
    ... --config=configs/dora.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.130 ± 0.004 with 49,240 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.322, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Liu et al., arXiv:2402.09353, for the method and its published gain over LoRA on LLaMA-7B
(commonsense mean at r = 32: 78.4 against 76.3; README of the authors' code).

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - The norm takes no part in the gradient, and comes from the factors
   (lorax/adapters/column_norms.py); a step is measured against LoRA's in
   experiments/benchmarks/methods.py. PEFT's masks of dropout also reach a part of the base's
   product; here they are on the input of A alone.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("DoRA", 0.01, arg)
