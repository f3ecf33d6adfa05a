"""The adapters of Pfeiffer, after the MLP, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/adapter_p.py --workdir=runs/adapter_p
    ... --config=configs/adapter_p.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.209 ± 0.006 with 20,960 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: -0.052, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Pfeiffer et al., arXiv:2005.00247, for the method; Hu et al., arXiv:2106.09685, call it
Adapter^P (RoBERTa large, 0.8M numbers, GLUE mean 87.9; LoRA of 0.8M: 88.6).

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("Adapter-P", 0.03, arg)
