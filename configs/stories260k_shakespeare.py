"""stories260K, a language model of children's stories, adapted to Shakespeare by LoRA.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/stories260k_shakespeare.py --workdir=runs/lear
    ... --config=configs/stories260k_shakespeare.py:full     # or :bitfit, the scales of the norms

Cost: about one minute on two CPU cores (a fourteenth of experiments.compare).

Expected, in nats a token on held-out Shakespeare: frozen base 5.26, LoRA of rank 8 2.91, `full`
2.75; on TinyStories, what is forgotten: 2.64 before, 3.77 after LoRA, 3.93 after `full`. Measured
by experiments.compare, each method at the rate that was best on its validation part: 0.02 and
0.006. Windows are cut in another order here, so the last digits differ. `bitfit` is untuned.

Protocol: 80 % of the text for training, 10 % validation, 10 % test, in this order; windows of 128
tokens; forgetting on the first 12,000 characters of TinyStories sentences.

Source: Hu et al., arXiv:2106.09685, for the method; README.md for the figures.

Needs, below LORAX_DATA: tinyshakespeare/input.txt.xz (github.com/karpathy/char-rnn),
stories260K/stories260K.bin.xz with tok512.bin beside it (huggingface.co/karpathy/tinyllamas),
tinystories_sents/tinystories_2000_sentences.txt.xz.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, smoke


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    words = arguments(arg, (*BASELINES, "smoke"))
    config = defaults()
    source = {"source": "stories260K/stories260K.bin.xz", "family": "llama"}
    config.model.update({**source, "preset": "STORIES_260K"})
    config.adapter.update({"rank": 8, "alpha": 16.0})
    data = {"task": "language", "format": "text", "train": "tinyshakespeare/input.txt.xz"}
    data["retention"] = "tinystories_sents/tinystories_2000_sentences.txt.xz"
    config.data.update({**data, "retention_characters": 12_000, "length": 128})
    config.train.update({"batch": 32, "steps": 400, "log_every": 20})
    config.optimizer.update({"learning_rate": 2e-2, "schedule": "cosine", "final": 0.1})
    config.optimizer.warmup = 20
    config.eval.update({"every": 100, "prompt": "ROMEO:", "max_new_tokens": 120})
    config.eval.temperature = 0.7
    baseline(config, words, {"full": 6e-3, "bitfit": 2e-2})
    if "smoke" in words:
        smoke(config)
    return config
