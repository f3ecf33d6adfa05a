"""What do the pages of E2E share? The paper's run, and a tiny model for people without weights."""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, one_of, smoke

KNOWN = (*BASELINES, "tiny", "smoke")
RATES = {"full": 5e-5, "bitfit": 1.6e-3}
FOLDER = "e2e_nlg"
EPOCH = 5258  # updates: 42,061 lines, 8 at a time


def page(arg: str, size: str) -> ConfigDict:
    """The config of GPT-2 `size`, "medium" or "large", with the page's words applied."""
    words = arguments(arg, KNOWN)
    one_of(words, (*BASELINES, "tiny"), "")
    config = defaults()
    source = {"source": f"openai-community/gpt2-{size}", "family": "gpt2"}
    config.model.update({**source, "preset": f"GPT2_{size.upper()}", "scan": True, "remat": "full"})
    lora = {"rank": 4, "alpha": 32.0, "where": (r".*/attention/qkv/kernel",), "dropout": 0.1}
    config.adapter.update(lora)
    data = {"task": "completion", "format": "e2e", "length": 160, "packing": "bucket"}
    files = {part: f"{FOLDER}/{name}.txt.xz" for part, name in _FILES.items()}
    config.data.update({**data, **files})
    config.train.update({"batch": 8, "epochs": 5, "log_every": 50})
    config.optimizer.update(
        {"learning_rate": 2e-4, "warmup": 500, "weight_decay": 0.01, "clip": 0.0}
    )
    config.optimizer.label_smoothing = 0.1
    config.eval.update({"every": EPOCH, "batch": 32, "generate": -1, "max_new_tokens": 64})
    config.eval.update({"beams": 10, "length_penalty": 0.9, "no_repeat_ngram": 4})
    config.checkpoint.update({"every": 1000, "best": "validation/loss"})
    baseline(config, words, RATES)
    if "tiny" in words:
        _tiny(config)
    if "smoke" in words:
        smoke(config, length=640)  # bytes, so that the longest real line fits too
    return config


_FILES = {"train": "train", "validation": "valid", "test": "test"}


def _tiny(config: ConfigDict) -> None:
    """A GPT-2 of 0.9M parameters from scratch, judged on the validation lines."""
    size = {"dim": 128, "layers": 4, "heads": 4, "max_length": 256}
    config.model.update({"source": "", "preset": "", "tokenizer": "bpe:1024"})
    config.model.update({"scan": False, "remat": ""})
    config.model.fields = ConfigDict(size)
    config.adapter = ConfigDict({"adapter": "Full"})
    config.data.test = ""
    config.data.buckets = (48, 64, 96, 160)  # half of all lines have up to 51 tokens
    config.train.update({"batch": 32, "steps": 2000})
    config.optimizer.update({"learning_rate": 2e-3, "schedule": "cosine", "warmup": 100})
    config.optimizer.update({"final": 0.1, "clip": 1.0})
    config.eval.update({"every": 500, "batch": 64, "limit": 512})
    config.checkpoint.update({"every": 250, "best": ""})
