"""stories260K, a language model of children's stories, adapted to Shakespeare: LoRA against full.

    LORAX_DATA=... python -m experiments.compare --config=configs/stories260k_compare.py \
        --workdir=runs/shakespeare

Cost: 14 runs of 400 steps, about a quarter of an hour on two CPU cores. Expected, in nats a token
on held-out Shakespeare: frozen base 5.26, full fine-tuning 2.75; LoRA of rank 8 on all linear
layers closes at least 90 % of what full fine-tuning closes, each method at its own best learning
rate, chosen on a validation part that is not the one reported.

Protocol: the text is cut into 80 % training, 10 % validation, 10 % test, in this order; each part
is encoded whole, windows of 128 tokens stand each behind their own BOS, and every full window of a
part is evaluated. Forgetting is the loss on TinyStories sentences (the first 12,000 characters, new
lines as spaces, full windows).

Data: tinyshakespeare (github.com/karpathy/char-rnn), stories260K with its tokenizer
(huggingface.co/karpathy/tinyllamas), TinyStories sentences; names are looked up in the folder
LORAX_DATA, or are paths. Source of the method: Hu et al., "LoRA", arXiv:2106.09685.
"""

from ml_collections import ConfigDict

from lorax.core.errors import LoraxError


def get_config(arg: str = "") -> ConfigDict:
    """The study; `smoke` is two steps of a toy model of bytes on text that ships with Python."""
    config = ConfigDict()
    config.seed = ConfigDict({"init": 0, "data": 1})
    config.base = "stories260K/stories260K.bin.xz"
    config.data = ConfigDict(
        {
            "text": "tinyshakespeare/input.txt.xz",
            "retention": "tinystories_sents/tinystories_2000_sentences.txt.xz",
            "retention_characters": 12_000,
            "batch": 32,
            "length": 128,
        }
    )
    config.adapt = ConfigDict(
        {"steps": 400, "warmup": 20, "weight_decay": 0.0, "clip": 1.0, "evaluations": 4}
    )
    config.methods = ConfigDict(
        {
            "lora_r1": _lora(1, (5e-3, 1e-2, 2e-2)),
            "lora_r8": _lora(8, (5e-3, 1e-2, 2e-2, 4e-2)),
            "lora_r32": _lora(32, (5e-3, 1e-2, 2e-2)),
            "full": {"adapter": {"adapter": "Full"}, "learning_rates": (1e-3, 3e-3, 6e-3, 1.2e-2)},
        }
    )
    config.compare = ("lora_r1", "lora_r8", "lora_r32", "full")
    config.log_every = 20
    if arg == "smoke":
        _shrink(config)
    elif arg:
        raise LoraxError(f"config argument '{arg}' is unknown: expected none, or smoke")
    return config


def _lora(rank: int, learning_rates: tuple[float, ...]) -> dict:
    adapter = {"adapter": "LoRA", "rank": rank, "alpha": 16.0, "where": "all-linear"}
    return {"adapter": adapter, "learning_rates": learning_rates}


def _shrink(config: ConfigDict) -> None:
    config.base = "toy"
    config.data.update({"text": "toy", "retention": "toy", "batch": 2, "length": 16})
    config.adapt.update({"steps": 2, "warmup": 1, "evaluations": 1})
    config.methods.lora_r8.learning_rates = (1e-2, 2e-2)
    config.methods.full.learning_rates = (1e-3,)
    config.compare = ("lora_r8", "full")
    config.log_every = 1
