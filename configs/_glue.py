"""What do the pages of GLUE share? Eight tasks, their hyper-parameters, and a tiny model.

Source of the numbers: Hu et al., arXiv:2106.09685, tables 9 and 10.
"""

from typing import Any

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, one_of, smoke
from lorax.core.errors import LoraxError
from lorax.data import glue

EXAMPLES = {
    "mnli": 392_702,
    "sst2": 67_349,
    "mrpc": 3_668,
    "cola": 8_551,
    "qnli": 104_743,
    "qqp": 363_846,
    "rte": 2_490,
    "stsb": 5_749,
}
"""To train on, by task: what an epoch is."""

# in the order of EXAMPLES
PAPER: dict[str, dict[str, tuple[float, ...]]] = {
    "base": {
        "batch": (16, 16, 16, 32, 32, 16, 32, 16),
        "epochs": (30, 60, 30, 80, 25, 25, 80, 40),
        "learning_rate": (5e-4, 5e-4, 4e-4, 4e-4, 4e-4, 5e-4, 5e-4, 4e-4),
        "length": (512,) * 8,
    },
    "large": {
        "batch": (4, 4, 4, 4, 4, 4, 8, 8),
        "epochs": (10, 10, 20, 20, 10, 20, 20, 30),
        "learning_rate": (3e-4, 4e-4, 3e-4, 2e-4, 2e-4, 3e-4, 4e-4, 2e-4),
        "length": (128, 128, 512, 128, 512, 512, 512, 512),
    },
    "restricted": {
        "batch": (4,) * 8,
        "epochs": (10, 10, 20, 20, 10, 20, 20, 10),
        "learning_rate": (3e-4, 4e-4, 3e-4, 2e-4, 2e-4, 3e-4, 4e-4, 2e-4),
        "length": (128,) * 8,
    },
}

ALPHA = {"base": 8.0, "large": 16.0, "restricted": 16.0}

TINY = {
    "sst2": ("sst2/train.tsv.xz", "sst2/dev.tsv.xz", "sst2/test.tsv.xz"),
    "rte": tuple(f"glue_small/RTE_{part}.tsv.xz" for part in ("train", "val", "dev")),
    "cola": tuple(f"glue_small/CoLA_{part}.tsv.xz" for part in ("train", "val", "dev")),
}
"""Real data that `tiny` trains on from scratch: training, validation and test files."""


def page(arg: str, size: str, rates: dict[str, float]) -> ConfigDict:
    """The config of RoBERTa `size`, "base" or "large", on the task that `arg` names.

    Args:
      arg: words, see the pages.
      size: of the model.
      rates: the learning rates of full fine-tuning and of BitFit.
    """
    own = ("restricted",) if size == "large" else ()
    words = arguments(arg, (*EXAMPLES, *own, *BASELINES, "tiny", "smoke"))
    name = one_of(words, tuple(EXAMPLES), "sst2")
    one_of(words, (*BASELINES, "tiny"), "")
    setting = "restricted" if "restricted" in words else size
    config = defaults()
    model = {"source": f"FacebookAI/roberta-{size}", "family": "roberta", "dropout": 0.1}
    config.model.update({**model, "preset": f"ROBERTA_{size.upper()}"})
    config.model.update({"scan": True, "remat": "full" if size == "large" else ""})
    where = (r".*/attention/(query|value)/kernel",)
    config.adapter.update({"rank": 8, "alpha": ALPHA[setting], "where": where})
    config.also_train = (r"params/classifier/.*",)
    _apply(config, name, setting)
    baseline(config, words, rates)
    if "full" in words:
        config.train.epochs = min(config.train.epochs, 10)  # as Liu et al. trained
    if "tiny" in words:
        _tiny(config, name)
    if "smoke" in words:
        smoke(config)
    return config


def _apply(config: ConfigDict, name: str, setting: str) -> None:
    """The task, with its hyper-parameters."""
    task, row = glue.TASKS[name], list(EXAMPLES).index(name)
    paper: dict[str, Any] = {field: values[row] for field, values in PAPER[setting].items()}
    roles = ("train", "validation", "test")  # the last for MNLI's second held-out file
    files = {
        roles[i]: f"glue/{task.folder}/{file}" for i, file in enumerate(("train.tsv", *task.dev))
    }
    config.data.update({"task": task.kind, "format": "glue", "name": name, **files})
    config.data.on_bad_row = "skip" if name == "qqp" else "error"  # a few of its rows are broken
    config.data.update({"length": paper["length"], "too_long": "cut", "packing": "bucket"})
    config.train.update({"batch": paper["batch"], "epochs": paper["epochs"], "log_every": 50})
    config.optimizer.update({"learning_rate": paper["learning_rate"], "weight_decay": 0.1})
    config.optimizer.warmup_ratio = 0.06
    epoch = -(-EXAMPLES[name] // config.train.batch)
    config.eval.update({"every": epoch, "batch": 32})
    best = f"validation/{task.metrics[0]}"
    config.checkpoint.update({"every": min(epoch, 1000), "best": best, "mode": "max"})


def _tiny(config: ConfigDict, name: str) -> None:
    """A RoBERTa of a million parameters from scratch, end to end, on data that is small."""
    if name not in TINY:
        raise LoraxError(
            f"config argument 'tiny' has no data for '{name}': expected one of {', '.join(TINY)}"
        )
    train, validation, test = TINY[name]
    size = {"dim": 128, "layers": 2, "heads": 4, "hidden_dim": 512, "max_length": 512}
    config.model.update({"source": "", "preset": "", "tokenizer": "bpe:4096"})
    config.model.update({"scan": False, "remat": ""})
    config.model.fields = ConfigDict(size)
    config.adapter = ConfigDict({"adapter": "Full"})
    config.also_train = ()
    config.data.update({"train": train, "validation": validation, "test": test})
    config.data.length = 256 if name == "rte" else 96
    config.train.update({"batch": 32, "epochs": {"sst2": 3, "rte": 5, "cola": 10}[name]})
    config.optimizer.update({"learning_rate": 5e-4, "weight_decay": 0.01})
    epoch = {"sst2": 1896, "rte": 68, "cola": 227}[name]
    config.eval.every = epoch
    config.checkpoint.every = min(epoch, 500)
