"""The adapters of Lin, normalised and after the MLP, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/adapter_l.py --workdir=runs/adapter_l
    ... --config=configs/adapter_l.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.218 ± 0.008 with 21,600 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: -0.132, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Lin et al., arXiv:2004.03829, for the method; Hu et al., arXiv:2106.09685, call it
Adapter^L (GPT-2 medium, E2E, 11.09M numbers: BLEU 68.9; LoRA of 0.35M: 70.4).

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("Adapter-L", 0.01, arg)
