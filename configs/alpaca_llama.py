"""LLaMA learns to follow instructions, from the 52,002 of Stanford Alpaca: LoRA, or all weights.

Command:

    python -m experiments.train --config=configs/alpaca_llama.py --workdir=runs/alpaca
    ... --config=configs/alpaca_llama.py:13b
    ... --config=configs/alpaca_llama.py:full          # as Stanford trained; :13b,full
    ... --config=configs/alpaca_llama.py:bitfit        # scales of the norms: LLaMA has no biases

Cost: not measured here. Analytic, 7B under LoRA: 1,194 updates of 128 rows, some 2e7 tokens at 6 x
6.7B products and sums, recomputation included: 8e17, half an hour at 400 teraflop/s. `--dry_run`
tells the memory.

Expected: no figure. Stanford's evaluation was a blind comparison by its authors of 7B against
text-davinci-003: 90 wins to 89. To compare methods, look at validation/loss and samples.jsonl.

Source: Taori et al., "Stanford Alpaca", github.com/tatsu-lab/stanford_alpaca: batch 128, 3 epochs,
length 512, no weight decay, 2e-5; for 13B 5 epochs and 1e-5. Cosine and 3 % of warm-up are in its
command. It trained all weights. The rate of LoRA is 10 times that of full fine-tuning, which is
best over 14 models in Schulman et al., "LoRA Without Regret" (Thinking Machines, 2025), and lies in
the 5e-5 to 5e-4 of Biderman et al., arXiv:2405.09673; alpaca-lora has 3e-4 with r = 8 on query and
value. That of `bitfit` is 8 times LoRA's, as in table 12 of Hu et al. for GPT-3: untried here.

Needs: alpaca_data.json of that repository as LORAX_DATA/alpaca/alpaca_data.json (or
--config.data.train=hub:tatsu-lab/alpaca:train), and LLaMA's weights, under the terms of Meta: here
the copy huggyllama/llama-7b or -13b of the Hugging Face Hub; --config.model.source= names another
repository, or a directory.

What differs: the loss is on the response alone, as Stanford's code has it (alpaca-lora's default
counts the prompt too). What is longer than 512 tokens loses the beginning of its prompt, there the
end. One example in fifty is held out; Stanford held out none.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, one_of, smoke

SIZES = {"7b": (2e-5, 3), "13b": (1e-5, 5)}
"""The rate of full fine-tuning, and epochs."""


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: 7b (the default), 13b, full, bitfit, smoke."""
    words = arguments(arg, (*SIZES, *BASELINES, "smoke"))
    size = one_of(words, tuple(SIZES), "7b")
    rate, epochs = SIZES[size]
    config = defaults()
    model = {"source": f"huggyllama/llama-{size}", "family": "llama", "scan": True, "remat": "full"}
    config.model.update({**model, "preset": f"LLAMA_{size.upper()}"})
    config.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})
    config.adapter.update({"rank": 16, "alpha": 32.0, "exclude": ("params/lm_head/kernel",)})
    data = {"task": "completion", "format": "instructions", "train": "alpaca/alpaca_data.json"}
    config.data.update({**data, "length": 512, "too_long": "cut", "packing": "bucket"})
    # a few of its outputs are empty
    config.data.update({"split": (0.98, 0.01, 0.01), "on_bad_row": "skip"})
    config.train.update({"batch": 128, "accumulate": 32, "epochs": epochs})
    config.optimizer.update({"learning_rate": 10 * rate, "schedule": "cosine", "chunk": 1024})
    config.optimizer.warmup_ratio = 0.03
    config.eval.update({"every": 200, "batch": 4, "generate": 20, "max_new_tokens": 256})
    config.checkpoint.update({"every": 100, "best": "validation/loss"})
    baseline(config, words, {"full": rate, "bitfit": 80 * rate})
    if "smoke" in words:
        smoke(config)
    return config
