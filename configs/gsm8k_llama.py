"""Grade-school mathematics (GSM8K) from Llama 3.2 under LoRA, scored by exact match of the answer.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/gsm8k_llama.py --workdir=runs/gsm8k
    ... --config=configs/gsm8k_llama.py:full       # or :bitfit, the scales of the norms

Cost: not measured here. Analytic: 3 epochs of 7,473 problems of some 200 tokens at 6 x 3.2B
products and sums, recomputation included: 9e16, minutes at 400 teraflop/s; then 1,319 answers.

Expected: no figure for this set-up. Near it: PEFT's comparison trains Llama-3.2-3B on MetaMathQA,
another set, and tests on GSM8K: 0.478 for LoRA of rank 32 on query and value, 0.472 for full
fine-tuning, one seed each.

Source: Cobbe et al., arXiv:2110.14168, for the data; huggingface/peft, method_comparison, for the
figures. Rates: LoRA at ten times that of full fine-tuning, as in alpaca_llama.py; none is tuned.

Needs: train.jsonl and test.jsonl of github.com/openai/grade-school-math as
LORAX_DATA/gsm8k/{train,test}.jsonl.xz, and meta-llama/Llama-3.2-3B from the Hugging Face Hub, which
asks for consent to Meta's terms.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, smoke


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, smoke."""
    words = arguments(arg, (*BASELINES, "smoke"))
    config = defaults()
    model = {"source": "meta-llama/Llama-3.2-3B", "family": "llama", "preset": "LLAMA32_3B"}
    config.model.update({**model, "scan": True, "remat": "full"})
    config.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})
    config.adapter.update({"rank": 32, "alpha": 64.0})
    files = {"train": "gsm8k/train.jsonl.xz", "test": "gsm8k/test.jsonl.xz"}
    config.data.update({"task": "completion", "format": "instructions", "template": "plain"})
    config.data.update({**files, "split": (0.95, 0.05, 0.0), "length": 768, "packing": "bucket"})
    config.train.update({"batch": 32, "accumulate": 4, "epochs": 3})
    config.optimizer.update({"learning_rate": 1e-4, "schedule": "cosine", "chunk": 1024})
    config.optimizer.warmup_ratio = 0.03
    config.eval.update({"every": 222, "batch": 8, "generate": -1, "max_new_tokens": 256})
    config.checkpoint.update({"every": 111, "best": "validation/loss"})
    baseline(config, words, {"full": 1e-5, "bitfit": 8e-4})
    if "smoke" in words:
        smoke(config)
    return config
