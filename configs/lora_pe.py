"""LoRA together with virtual tokens (LoRA+PE), on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/lora_pe.py --workdir=runs/lora_pe
    ... --config=configs/lora_pe.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.167 ± 0.009 with 46,752 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.360, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Hu et al., arXiv:2106.09685, table 15: on GPT-3 LoRA+PE has 75.0 to 76.2 on WikiSQL, and
LoRA alone 73.3 to 74.1.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("LoRA+PE", 0.01, arg)
