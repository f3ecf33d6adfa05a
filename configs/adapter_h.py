"""The adapters of Houlsby, after attention and MLP, on stories260K to Shakespeare.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/adapter_h.py --workdir=runs/adapter_h
    ... --config=configs/adapter_h.py:full     # or :bitfit: the baselines

Cost: about a minute on two CPU cores.

Expected, in nats a token on the test part of Shakespeare, mean and standard error of 3 seeds:
3.238 ± 0.005 with 21,280 trained numbers; the frozen base has 5.247, LoRA of rank 8 3.138 with
46,240. Forgotten, on TinyStories: -0.051, LoRA +0.283. The rate is the best of those tried, on
validation (configs/method_comparison.py; all in experiments/reports/methods_shakespeare).

Source: Houlsby et al., arXiv:1902.00751, for the method; Hu et al., arXiv:2106.09685, call it
Adapter^H (GPT-3, 7.1M numbers: WikiSQL 71.9, MNLI-m 89.8; LoRA of 4.7M: 73.4, 91.7).

Needs, below LORAX_DATA, what configs/stories260k_shakespeare.py does.

What differs:
 - Norms of the model are not trained beside them; lorax.Chain with lorax.Full does that.
"""

from ml_collections import ConfigDict

from configs._methods import one


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    return one("Adapter-H", 0.03, arg)
