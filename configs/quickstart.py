"""English to Python source: a small language model from nothing, then a LoRA of it.

Command:

    python -m experiments.train --config=configs/quickstart.py --workdir=runs/q
    ... --config=configs/quickstart.py --config.adapter.rank=16
    ... --config=configs/quickstart.py:full        # or :bitfit, which is the scales of the norms
    ... --config=configs/quickstart.py:smoke

A LLaMA of a million parameters that reads bytes is first trained whole on the English text that
ships with Python (`config.pretrain`, kept in <workdir>/base), then adapted to the source of the
standard library. Nothing is downloaded. `python -m experiments.quickstart` compares ranks and
methods in one table.

Cost: 4.5 minutes of CPU time, most of it for the base: some two minutes on two idle cores (counted
from the steps of experiments.quickstart), 7.7 with three times as much other work running.

Expected (Python 3.11, jax 0.10.2; another Python has other texts): bits per byte on the test part
of the Python source, 2.667 for the frozen base and 2.172 for LoRA of rank 4; on English that the
base has not seen, 2.088 before and 2.280 after. experiments.quickstart, which holds other files
out, has 2.691 and 2.193, and 2.071 for full fine-tuning.

Source: Hu et al., arXiv:2106.09685, at a size where it can be seen in minutes. Rates: the grid in
configs/quickstart_compare.py; that of `bitfit` is untuned.

Needs: nothing but Python and its library.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, smoke


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    words = arguments(arg, (*BASELINES, "smoke"))
    config = defaults()
    config.model.update({"family": "llama", "preset": "BYTE_1M", "tokenizer": "bytes"})
    config.adapter.update({"rank": 4, "alpha": 16.0})
    data = {"task": "language", "format": "python", "train": "source", "retention": "english"}
    config.data.update({**data, "length": 128})
    config.train.update({"batch": 16, "steps": 200})
    config.optimizer.update({"learning_rate": 5e-3, "schedule": "cosine", "final": 0.1})
    config.optimizer.warmup = 20
    base = {"steps": 450, "batch": 16, "learning_rate": 2.5e-3, "warmup": 30, "weight_decay": 0.1}
    config.pretrain.update({**base, "format": "python", "train": "english"})
    config.eval.update({"every": 50, "limit": 192})
    # prompt and sample together stay within data.length, the longest context ever trained on
    config.eval.update({"prompt": "def ", "max_new_tokens": 124, "temperature": 0.7})
    baseline(config, words, {"full": 2e-3, "bitfit": 1e-2})
    if "smoke" in words:
        smoke(config)
    return config
