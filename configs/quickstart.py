"""One model, four ways to adapt it: English to Python source on a laptop.

make quickstart
python -m experiments.quickstart --workdir=runs/quickstart
python -m experiments.quickstart --config=configs/quickstart.py:smoke --workdir=/tmp/smoke
"""

from ml_collections import ConfigDict

from lorax.core.errors import LoraxError


def get_config(arg: str = "") -> ConfigDict:
    """The quickstart; `smoke` is two steps of a tiny model on a little of the same text."""
    config = ConfigDict()
    config.seed = ConfigDict({"init": 0, "data": 1, "sample": 2})
    config.model = ConfigDict(
        {
            "vocab_size": 256,
            "dim": 128,
            "layers": 5,
            "heads": 4,
            "kv_heads": 2,
            "hidden_dim": 384,
            "max_length": 512,
            "tied": True,
        }
    )
    config.data = ConfigDict(
        {"batch": 16, "length": 128, "eval_bytes": 24_576, "hold_out_every": 10}
    )
    config.pretrain = ConfigDict(
        {"steps": 450, "learning_rate": 2.5e-3, "warmup": 30, "weight_decay": 0.1, "clip": 1.0}
    )
    config.adapt = ConfigDict(
        {"steps": 200, "warmup": 20, "weight_decay": 0.0, "clip": 1.0, "evaluations": 5}
    )
    config.methods = ConfigDict(
        {
            "lora_r1": _lora(1, 5e-3),
            "lora_r4": _lora(4, 5e-3),
            "lora_r16": _lora(16, 5e-3),
            "full": {"adapter": {"adapter": "Full"}, "learning_rate": 2e-3},
        }
    )
    config.compare = ("lora_r1", "lora_r4", "lora_r16", "full")
    # prompt and sample together stay within data.length, the longest context ever trained on
    config.sample = ConfigDict({"prompt": "def ", "length": 124, "temperature": 0.5})
    config.log_every = 10
    if arg == "smoke":
        _shrink(config)
    elif arg:
        raise LoraxError(f"config argument '{arg}' is unknown: expected none, or smoke")
    return config


def _lora(rank: int, learning_rate: float) -> dict:
    adapter = {"adapter": "LoRA", "rank": rank, "alpha": 16.0, "where": "all-linear"}
    return {"adapter": adapter, "learning_rate": learning_rate}


def _shrink(config: ConfigDict) -> None:
    config.model.update({"dim": 32, "layers": 1, "heads": 2, "kv_heads": 1, "hidden_dim": 32})
    config.data.update({"batch": 2, "length": 16, "eval_bytes": 64})
    config.pretrain.update({"steps": 2, "warmup": 1})
    config.adapt.update({"steps": 2, "warmup": 1, "evaluations": 1})
    config.compare = ("lora_r4", "full")
    config.sample.length = 8
    config.log_every = 1
