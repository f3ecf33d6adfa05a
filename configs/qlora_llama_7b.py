"""QLoRA: LLaMA 7B in 4 bits learns to follow instructions on one GPU, by LoRA on every matrix.

Command:

    python -m experiments.train --config=configs/qlora_llama_7b.py --workdir=runs/qlora
    ... --config=configs/qlora_llama_7b.py:13b
    ... --config=configs/qlora_llama_7b.py:int8        # one byte a weight, one scale an output
    ... --config=configs/qlora_llama_7b.py:plain       # the same LoRA on the base in 16 bits
    ... --config=configs/qlora_llama_7b.py:full        # all weights, which are then not quantised

Cost: not measured here. From shapes: nf4 takes 0.294 of the 16-bit weights, 4.0 GB for 7B with the
embedding and the head in bfloat16. `--dry_run` tells the rest.

Expected: no figure for Alpaca's 7B with these rows. The paper compares by MMLU (table 5: 7B trained
on Alpaca, 38.8 with 5 examples) and by judges, neither of which is in this run; to compare words of
this page, look at validation/loss and samples.jsonl.

Source: Dettmers et al., "QLoRA", arXiv:2305.14314, appendix B.2 and table 9 ("All" at 7B): r = 64,
alpha = 16, dropout 0.1 (0.05 above 13B), on all linear layers; nf4 base, computation in bfloat16;
batch 16, 2e-4, constant, 10,000 updates, Adam's b2 0.999, gradients clipped at 0.3; 384 tokens of
source and 128 of target; the loss on the target alone; rows of like length together.

Needs: as configs/alpaca_llama.py, and `pip install 'lorax-flax[quant]'`.

What differs: scales are 16-bit numbers a block of 64, 4.25 bits a weight; the paper quantises them
once more, 4.127 bits. Its optimizer is paged to the host's memory; here it stays on the device. A
row has 512 tokens in all. The rate of `full` is that of configs/alpaca_llama.py.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, one_of, smoke

SIZES = ("7b", "13b")
BASES = {"nf4": "nf4", "int8": "int8", "plain": ""}
"""What the frozen matrices are kept as."""


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: 7b or 13b, nf4, int8 or plain, full, bitfit, smoke; 7b and nf4 by default."""
    words = arguments(arg, (*SIZES, *BASES, *BASELINES, "smoke"))
    size = one_of(words, SIZES, "7b")
    config = defaults()
    model = {"source": f"huggyllama/llama-{size}", "family": "llama", "scan": True, "remat": "full"}
    config.model.update({**model, "preset": f"LLAMA_{size.upper()}"})
    config.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})
    config.model.quantize = "" if "full" in words else BASES[one_of(words, tuple(BASES), "nf4")]
    lora = {"rank": 64, "alpha": 16.0, "dropout": 0.1, "exclude": ("params/lm_head/kernel",)}
    config.adapter.update(lora)
    data = {"task": "completion", "format": "instructions", "train": "alpaca/alpaca_data.json"}
    config.data.update({**data, "length": 512, "too_long": "cut", "packing": "bucket"})
    # a few of its outputs are empty
    config.data.update({"split": (0.98, 0.01, 0.01), "on_bad_row": "skip"})
    config.train.update({"batch": 16, "accumulate": 4, "steps": 10_000})
    config.optimizer.update({"learning_rate": 2e-4, "schedule": "constant", "clip": 0.3})
    config.optimizer.chunk = 1024
    config.eval.update({"every": 1000, "batch": 4, "generate": 20, "max_new_tokens": 256})
    config.checkpoint.update({"every": 500, "best": "validation/loss"})
    baseline(config, words, {"full": 2e-5, "bitfit": 1.6e-3})
    if "smoke" in words:
        smoke(config)
        config.model.quantize_block = 16  # which divides the width of a toy
    return config
