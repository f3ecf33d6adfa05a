"""The intrinsic dimension of stories260K's way to Shakespeare, and LoRA's numbers beside it.

Command:

    export LORAX_DATA=...
    python -m experiments.intrinsic --config=configs/intrinsic_shakespeare.py --workdir=runs/lear
    # one d:
    python -m experiments.train --config=configs/intrinsic_shakespeare.py --workdir=runs/one

A language model of children's stories is adapted to Shakespeare: which d of its D = 260,032 numbers
gains 90 % of what full fine-tuning does, in validation loss from the frozen model on? LoRA of rank
1 to 8 on all linear layers is held against the same threshold.

Cost: of the whole study not yet measured; a unit of 218 updates of 16 windows takes some 75 seconds
of CPU time, and there are 35 or more.

Expected: not yet measured as it is here; nothing is published. A far task: every rank of LoRA helps
(configs/stories260k_ranks.py), so d is large. On a tenth of the text, 51 updates of 32 windows, the
validation loss went from 4.96 to 2.71 where everything learns; to 3.74 with 1,000 numbers at a rate
of 1e-2, and to 3.61 at 3e-2, where 90 % would be 2.93.

Protocol: 80 % of the text for training, 10 % validation, 10 % test, in this order; windows of 128
tokens, each behind its own BOS; 128 windows of a held-out part, spread over it; one epoch.

Source: Li et al., arXiv:1804.08838, for the method; Aghajanyan et al., arXiv:2012.13255, for that
of a pretrained model, where the share is of the metric and not of what was gained; the model is
Karpathy's (huggingface.co/karpathy/tinyllamas).

Needs, below LORAX_DATA: tinyshakespeare/input.txt.xz, and stories260K/stories260K.bin.xz with
tok512.bin beside it.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._study import study, subspace
from configs._words import BASELINES, arguments, baseline, smoke


def get_config(arg: str = "") -> ConfigDict:
    """One d of 10,000, and the study; words: full, bitfit, smoke."""
    words = arguments(arg, (*BASELINES, "smoke"))
    config = defaults()
    source = {"source": "stories260K/stories260K.bin.xz", "family": "llama"}
    config.model.update({**source, "preset": "STORIES_260K"})
    config.data.update({"task": "language", "format": "text", "length": 128})
    config.data.train = "tinyshakespeare/input.txt.xz"
    config.train.update({"batch": 16, "epochs": 1, "log_every": 20})
    config.optimizer.update({"learning_rate": 3e-2, "schedule": "cosine", "final": 0.1})
    config.optimizer.warmup = 20
    config.eval.update({"every": 100, "batch": 32, "limit": 128})
    config.adapter = subspace(10_000)
    config.study = study(
        grid=(1000, 3000, 10_000, 30_000), resolution=1000, metric="validation/loss", mode="min",
        relative="gain", rates=(3e-2,), direct_rates=(6e-3,), ranks=(1, 2, 4, 8),
        lora_rates=(2e-2,),
    )  # fmt: skip
    baseline(config, words, {"full": 6e-3, "bitfit": 2e-2})
    if "smoke" in words:
        smoke(config)
    return config
