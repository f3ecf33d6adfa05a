"""TinyLoRA, 64 numbers in all between singular vectors, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/tiny_lora.py --workdir=runs/tiny_lora
    ... --config=configs/tiny_lora.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
4.231 ± 0.006 with 64 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with 46,240.
Forgotten, on TinyStories: -0.009, LoRA +0.283. The rate is the best of those tried, on validation
(configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Morris et al., arXiv:2602.04118, for the method.

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - 64 numbers serve all matrices; `--config.adapter.numbers=1` is where the paper ends. Its tasks
   are of reasoning, learnt by reinforcement.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("TinyLoRA", 0.03, arg)
