"""LoRA together with prefix-layer tuning (LoRA+PL), on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/lora_pl.py --workdir=runs/lora_pl
    ... --config=configs/lora_pl.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.276 ± 0.024 with 48,800 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: +0.643, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Hu et al., arXiv:2106.09685, table 15: on GPT-3 LoRA+PL has 72.9 on WikiSQL, and LoRA alone
73.3 to 74.1.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("LoRA+PL", 0.01, arg)
