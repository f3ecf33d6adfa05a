"""GPT-3 175B under LoRA: what it would take, counted from shapes. Nothing is trained.

Command:

    python -m experiments.train --config=configs/gpt3_175b.py --dry_run
    ... --config=configs/gpt3_175b.py:mnli --dry_run       # or samsum, full, bitfit

Cost: seconds, and no more memory than Python takes. Training it is out of reach here, and its
weights are not public.

Expected: 18,874,368 trainable parameters for rank 4 on query and value, 37.7 MB in 16 bits (the
paper prints 18M, and 35 MB); the paper's base in 16 bits is 350 GB, and training memory fell from
1.2 TB to 350 GB (3.43 times; its abstract says 3). Quality at that size, table 15: 73.7 on WikiSQL,
91.3 on MNLI; full fine-tuning, table 4: 73.8 and 89.5.

Source: Hu et al., arXiv:2106.09685, section 4.2, tables 4, 12 and 15; the shape is GPT-3's, Brown
et al., arXiv:2005.14165, table 2.1: 96 layers, width 12,288, 96 heads. Rates: table 12.

Needs: nothing.

What differs, and what is open:
 - lorax adapts GPT-2's fused query, key and value as one matrix of rank 4. The count is the same as
   of two pairs, r (D + 3 D) = 2 r (D + D), the update is not: A is shared, and the key moves.
 - GPT-2's shape at this size has 174.6G parameters; the paper prints 175,255.8M.
 - Every second layer of GPT-3 has sparse attention; here all are dense, which changes no parameter.
 - The paper gives no alpha for GPT-3. Its 250,000 warm-up tokens are counted as full rows.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, one_of, smoke

SETS = {"wikisql": (56_355, 384), "mnli": (392_702, 768), "samsum": (14_732, 2048)}
"""Examples to train on, and the length of a row."""

BATCH, EPOCHS, WARMUP_TOKENS = 128, 2, 250_000


def get_config(arg: str = "") -> ConfigDict:
    """The plan; words: wikisql (the default), mnli, samsum, full, bitfit, smoke."""
    words = arguments(arg, (*SETS, *BASELINES, "smoke"))
    examples, length = SETS[one_of(words, tuple(SETS), "wikisql")]
    config = defaults()
    shape = {"vocab_size": 50257, "dim": 12288, "layers": 96, "heads": 96, "max_length": 2048}
    config.model.fields = ConfigDict(shape)
    config.model.update({"family": "gpt2", "scan": True, "remat": "full"})
    config.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})
    lora = {"rank": 4, "alpha": 4.0, "where": (r".*/attention/qkv/kernel",)}
    config.adapter.update(lora)
    config.data.update({"task": "completion", "format": "toy", "length": length})
    config.train.update({"batch": BATCH, "epochs": EPOCHS, "steps": EPOCHS * examples // BATCH})
    config.optimizer.update({"learning_rate": 2e-4, "weight_decay": 0.1})
    config.optimizer.warmup = WARMUP_TOKENS // (BATCH * length)
    config.plan_only = True
    baseline(config, words, {"full": 5e-6, "bitfit": 1.6e-3})
    if "smoke" in words:
        smoke(config)
    return config
