"""GPT-3 175B under LoRA: what it would take, counted from shapes. Nothing is trained.

Command:

    python -m experiments.train --config=configs/gpt3_175b.py --dry_run
    ... --config=configs/gpt3_175b.py:mnli --dry_run       # or samsum, full, bitfit
    python -m experiments.inspect --plan --config=configs/gpt3_175b.py --compile

Cost: seconds, and no more memory than Python takes; --compile takes half a minute, and makes the
real step for 64 devices that the host pretends to have. Training it is out of reach here, and its
weights are not public.

Expected: 18,874,368 trainable parameters for rank 4 on query and value, 37.7 MB in 16 bits (the
paper prints 18M, and 35 MB); the paper's base in 16 bits is 350 GB, and training memory fell from
1.2 TB to 350 GB (3.43 times; its abstract says 3). The plan prints each claim beside what follows
from the shapes, with its arithmetic, and 10.9 GiB on each of 64 devices. Quality at that size,
table 15: 73.7 on WikiSQL, 91.3 on MNLI; full fine-tuning, table 4: 73.8 and 89.5.

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
LAYERS, WIDTH, RANK = 96, 12_288, 4


def get_config(arg: str = "") -> ConfigDict:
    """The plan; words: wikisql (the default), mnli, samsum, full, bitfit, smoke."""
    words = arguments(arg, (*SETS, *BASELINES, "smoke"))
    examples, length = SETS[one_of(words, tuple(SETS), "wikisql")]
    config = defaults()
    shape = {"vocab_size": 50257, "dim": WIDTH, "layers": LAYERS, "heads": 96, "max_length": 2048}
    config.model.fields = ConfigDict(shape)
    config.model.update({"family": "gpt2", "scan": True, "remat": "full"})
    config.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})
    lora = {"rank": RANK, "alpha": 4.0, "where": (r".*/attention/qkv/kernel",)}
    config.adapter.update(lora)
    config.data.update({"task": "completion", "format": "toy", "length": length})
    config.train.update({"batch": BATCH, "epochs": EPOCHS, "steps": EPOCHS * examples // BATCH})
    config.optimizer.update({"learning_rate": 2e-4, "weight_decay": 0.1})
    config.optimizer.warmup = WARMUP_TOKENS // (BATCH * length)
    config.mesh.update({"data": 1, "fsdp": 64})
    config.plan_only = True
    baseline(config, words, {"full": 5e-6, "bitfit": 1.6e-3})
    if "smoke" in words:
        smoke(config)
    return config


def claims(parameters: int) -> list[tuple[str, str, str, str]]:
    """What the paper says of memory, and what follows from the shapes.

    Args:
      parameters: of the base, by count.

    Returns:
      Rows of (what, claimed, derived, arithmetic). GB are 10^9 bytes, as in the paper.
    """
    pair, fused = 2 * RANK * (WIDTH + WIDTH), RANK * (WIDTH + 3 * WIDTH)
    trained, base = LAYERS * pair, 2 * parameters
    lora = base + 16 * trained
    whole = {number: number * parameters / 1e12 for number in (6, 8, 12, 16)}
    shape, layers = f"{WIDTH:,} + {WIDTH:,}", f"{LAYERS} layers"
    return [
        ("trainable parameters, r = 4 on q and v", "18M, 18.8M", f"{trained:,}",
         f"{layers} x 2 matrices x {RANK} x ({shape}) = {trained:,}; of the fused matrix planned "
         f"here {layers} x {RANK} x ({WIDTH:,} + {3 * WIDTH:,}) = {LAYERS * fused:,}"),
        ("its checkpoint in 16 bits", "35 MB", f"{2 * trained / 1e6:.1f} MB",
         f"{trained:,} x 2 B = {2 * trained:,} B = {2 * trained / 2**20:.0f} MiB; 35 MB would be "
         "17.5M parameters. lorax keeps A and B in 32 bits, and Adam's moments beside them"),
        ("checkpoint of all weights", "350 GB", f"{base / 1e9:.1f} GB",
         f"{parameters:,} x 2 B = {base / 1e9:.1f} GB; of 175,255.8M, as printed, 350.5 GB"),
        ("the one over the other", "10,000", f"{parameters / trained:,.0f}",
         f"{parameters:,} / {trained:,} = {parameters / trained:,.0f}; 350 GB / 35 MB = 10,000"),
        ("memory of training with LoRA", "350 GB", f"{lora / 1e9:.1f} GB",
         f"{base / 1e9:.1f} GB are the 16-bit weights alone; A, B, gradients and two moments in 32 "
         f"bits add 16 B x {trained:,} = {16 * trained / 1e9:.1f} GB; activations are not in it"),
        ("memory of full fine-tuning, Adam", "1.2 TB", f"{whole[8]:.2f} to {whole[16]:.2f} TB",
         f"1.2 TB is {1.2e12 / parameters:.2f} B a parameter, which no standard account gives: "
         f"weights, gradients and moments in 16 bits 8 B, {whole[8]:.2f} TB; moments in 32 bits "
         f"12 B, {whole[12]:.2f} TB; everything in 32 bits 16 B, {whole[16]:.2f} TB; and with one "
         f"moment, which is not Adam, in 16 bits 6 B, {whole[6]:.2f} TB"),
        ("the one over the other", "3, 3.43", f"{8 * parameters / lora:.1f} to "
         f"{16 * parameters / lora:.1f}",
         f"1.2 TB / 350 GB = 3.43, 3 in the abstract; {whole[8]:.2f} TB / {lora / 1e9:.1f} GB = "
         f"{8 * parameters / lora:.2f}, {whole[16]:.2f} TB / {lora / 1e9:.1f} GB = "
         f"{16 * parameters / lora:.2f}; activations, the same on both sides, lower them"),
    ]  # fmt: skip
