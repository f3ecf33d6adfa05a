"""The intrinsic dimension of stories260K's way to Shakespeare, and LoRA's numbers beside it.

Command:

    export LORAX_DATA=...
    python -m experiments.intrinsic --config=configs/intrinsic_shakespeare.py --workdir=runs/lear
    # one d:
    python -m experiments.train --config=configs/intrinsic_shakespeare.py --workdir=runs/one

A language model of children's stories is adapted to Shakespeare: which d of its D = 260,032 numbers
gains 90 % of what full fine-tuning does, in validation loss from the frozen model on? LoRA of rank
1 to 8 on all linear layers is held against the same threshold.

Cost: some 50 units of 25 seconds of CPU time on two shared cores, of which a third is compilation;
the smaller study below, 15 units, took 7 minutes on two busy cores.

Expected: nothing is published. A smaller study (experiments/results/intrinsic_shakespeare: two
projections, LoRA of rank 1 and 2 at 1e-2, resolution 3,000), validation loss from 5.205; direct
training ends at 2.932, so the threshold is 3.159:

    d           6,000   12,000   15,000   18,000   24,000      LoRA r = 1 (5,780)   r = 2 (11,560)
    nats        3.270   3.180    3.155    3.156    3.134       3.318                3.242
    error       0.003   0.004    0.013    0.002    0.010       0.012                0.014

so d_int90 is 15,000 (interpolated 14,500), and at as many numbers a random subspace of all weights
is ahead of a LoRA whose rate was not searched for.

Protocol: the first 16 % of the text for training, the next 10 % for validation, the next for the
test; windows of 128 tokens, each behind its own BOS; 128 windows of a held-out part, spread over
it; one epoch of 217 updates of 4 windows. Fastfood, as its step takes as long for every d: at this
D P theta and its gradient take 4 ms of CPU time, and a sparse P at d = 10,000 takes 34.

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
    config.data.split = (0.16, 0.1, 0.1)
    config.train.update({"batch": 4, "epochs": 1, "log_every": 20})
    config.optimizer.update({"learning_rate": 2e-2, "schedule": "cosine", "final": 0.1})
    config.optimizer.warmup = 20
    config.eval.update({"every": 100, "batch": 32, "limit": 128})
    config.adapter = subspace(10_000, "fastfood")
    config.study = study(
        grid=(3000, 6000, 12_000, 24_000), resolution=1500, projection="fastfood",
        metric="validation/loss", mode="min", relative="gain", rates=(2e-2,), direct_rates=(6e-3,),
        ranks=(1, 2, 4, 8), lora_rates=(1e-2, 2e-2),
    )  # fmt: skip
    baseline(config, words, {"full": 6e-3, "bitfit": 2e-2})
    if "smoke" in words:
        smoke(config)
    return config
