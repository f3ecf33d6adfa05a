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

Expected: held-out bits per byte on Python source, 2.69 for the frozen base, near 2.19 for LoRA of
rank 4, 2.07 for `full`; on English 2.25 before and near 2.40 after. Measured by
experiments.quickstart (configs/quickstart_compare.py), with the same model, texts, rates and steps;
held-out files are others here, and so are the last digits.

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
