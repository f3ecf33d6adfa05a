"""What do the words after a page's colon do? Variants, baselines, and `smoke` on every page.

A page `get_config(arg)` takes its words with `arguments(arg, KNOWN)`, applies its own, then
`baseline`, and `smoke` last.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import _study
from lorax.core.errors import LoraxError

BASELINES = ("full", "bitfit")


def arguments(arg: str, known: Sequence[str]) -> set[str]:
    """The comma-separated words of a page's argument, `mrpc,bitfit,smoke` say.

    Raises:
      LoraxError: a word that the page does not know, naming those it does.
    """
    words = {word for word in arg.split(",") if word}
    for word in sorted(words - set(known)):
        raise LoraxError(
            f"config argument '{word}' is unknown: expected none, or some of {', '.join(known)}"
        )
    return words


def one_of(words: Collection[str], names: Sequence[str], default: str) -> str:
    """The one of `names` that is among `words`; `default` where none is.

    Raises:
      LoraxError: two of them, which exclude each other.
    """
    found = [name for name in names if name in words]
    if len(found) > 1:
        raise LoraxError(
            f"config arguments '{found[0]}' and '{found[1]}' exclude each other: choose one"
        )
    return found[0] if found else default


def baseline(config: ConfigDict, words: Collection[str], rates: Mapping[str, float]) -> None:
    """Puts the baseline that `words` names in the adapter's place, with its own learning rate.

    A LLaMA has no biases: there `bitfit` trains the scales of its norms, their nearest kin.

    Args:
      config: changed in place.
      words: of `arguments`.
      rates: the learning rate of each of `BASELINES`.
    """
    name = one_of(words, BASELINES, "")
    if not name:
        return
    config.optimizer.learning_rate = rates[name]
    if name == "full":
        config.adapter = ConfigDict({"adapter": "Full"})
        config.also_train = ()  # the head is part of it
        return
    where = (r".*norm/scale",) if config.model.family == "llama" else (r"(.*/)?bias",)
    fields = {"adapter": "BitFit", "where": where, "exclude": config.also_train}
    config.adapter = ConfigDict(fields)  # the biases of a head that is trained whole are its own


_TOYS: dict[str, dict[str, Any]] = {
    "llama": {"dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden_dim": 32},
    "gpt2": {"dim": 16, "layers": 1, "heads": 2},
    "roberta": {"dim": 16, "layers": 1, "heads": 2, "hidden_dim": 32},
    "mlp": {"hidden": (16,)},
    "lenet": {},
}


def smoke(config: ConfigDict, length: int = 128) -> None:
    """Makes of a page two steps of a toy of its family on generated data, with nothing to download.

    Method, task, packing and what is evaluated stay as they are.

    Args:
      config: changed in place.
      length: tokens of a row, which are bytes here.
    """
    fields, tokenizer = dict(_TOYS[config.model.family]), ""
    if config.model.family not in ("mlp", "lenet"):
        fields["max_length"], tokenizer = 2 * length, "bytes:special"
    config.model.fields = ConfigDict(fields)
    config.model.update({"source": "", "revision": "", "preset": "", "tokenizer": tokenizer})
    config.model.update({"dtype": "float32", "param_dtype": "", "scan": False, "remat": ""})
    if "rank" in config.adapter:
        config.adapter.rank = 2
    if "dim" in config.adapter:
        config.adapter.dim = min(config.adapter.dim, 100)
    if "study" in config:
        _study.shorten(config.study)
    nothing = {"train": "", "validation": "", "test": "", "retention": ""}
    config.data.update({"format": "toy", "length": length, "limit": 64, **nothing})
    config.data.update({"retention_characters": 0, "buckets": ()})
    config.train.update({"batch": 2, "accumulate": 1, "steps": 2, "epochs": 1, "log_every": 1})
    config.optimizer.update({"warmup": 0, "warmup_ratio": 0.0})
    config.eval.update({"every": 2, "batch": 0, "limit": 4, "max_new_tokens": 4})
    config.eval.generate = 2 if config.eval.generate else 0
    config.eval.beams = min(config.eval.beams, 2)
    config.checkpoint.update({"every": 2, "keep": 1, "best": ""})
    if config.pretrain.steps:
        config.pretrain.update({"steps": 2, "batch": 2, "warmup": 0, "format": "toy", "train": ""})
    config.adapter_from, config.plan_only = "", False
