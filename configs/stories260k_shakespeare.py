"""stories260K, a language model of children's stories, adapted to Shakespeare by LoRA.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/stories260k_shakespeare.py --workdir=runs/lear
    ... --config=configs/stories260k_shakespeare.py:full     # or :bitfit, the scales of the norms

Cost: 3.5 minutes of CPU time; 5 minutes on two cores with three times as much other work running.

Expected, in nats a token on the test part of Shakespeare: frozen base 5.264, LoRA of rank 8 2.890;
on TinyStories, what is forgotten, 3.04 before and 3.48 after. Full fine-tuning has 2.754 in
experiments.compare, which chose both rates, 0.02 and 0.006, on its validation part and has 2.905
for LoRA, with windows in another order. `bitfit` is untuned.

Protocol: 80 % of the text for training, 10 % validation, 10 % test, in this order; windows of 128
tokens, each behind its own BOS; forgetting on the first 12,000 characters of TinyStories sentences,
a line each (experiments.compare has spaces for line ends there, and with them 2.64 and 3.77).

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
