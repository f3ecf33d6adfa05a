"""How are numbers and configs said to people? Units, thousands separators, methods in words."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "–"

_NAMES = {
    "bleu": "BLEU", "f1": "F1", "nist": "NIST", "rouge_l": "ROUGE-L", "meteor": "METEOR",
    "cider": "CIDEr", "ter": "TER", "mse": "MSE", "rmse": "RMSE",
    "matthews": "Matthews correlation", "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}  # fmt: skip
_HIGHER = ("accuracy", "f1", "bleu", "nist", "rouge", "meteor", "cider", "exact", "matthews",
           "pearson", "spearman", "correlation", "precision", "recall", "auc")  # fmt: skip
_FAMILIES = {
    "llama": "LLaMA",
    "gpt2": "GPT-2",
    "roberta": "RoBERTa",
    "mlp": "MLP",
    "lenet": "LeNet",
}
_UNITS = {"language": "nats/token", "completion": "nats/token", "regression": ""}


def score(name: str) -> str:
    """`validation/bits_per_byte` is "validation bits per byte"."""
    split, _, metric = name.rpartition("/")
    said = _NAMES.get(metric) or " ".join(_NAMES.get(word, word) for word in metric.split("_"))
    return f"{split.replace('/', ' ')} {said}".strip()


def unit(name: str, config: Mapping[str, Any]) -> str:
    """Of a score; empty where it has none."""
    if name.rpartition("/")[2] != "loss":
        return ""
    return _UNITS.get(_text(_part(config, "data"), "task"), "nats")


def higher_is_better(name: str) -> bool:
    """Of a score; what is not known as a measure of quality counts as a loss."""
    return any(word in name.rpartition("/")[2].lower() for word in _HIGHER)


def number(value: float | None) -> str:
    """Four digits or so: 0.9123, 3.170, 1,234; NaN where there is no number."""
    if value is None or not math.isfinite(value):
        return "NaN"
    size = abs(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < size < 0.001:
        return f"{value:.2e}"
    digits = next((d for limit, d in ((1000, 0), (100, 1), (10, 2), (1, 3)) if size >= limit), 4)
    return f"{value:,.{digits}f}"


def mean(value: float, error: float | None) -> str:
    """A mean with its standard error to two digits, "2.8904 ± 0.0012"; alone where there is none.

    Args:
      value: the mean.
      error: None of a single number.
    """
    if error is None:
        return number(value)
    digits = max(0, 1 - math.floor(math.log10(error))) if error else 4
    return f"{value:,.{digits}f} ± {error:.{digits}f}"


def share(value: float | None) -> str:
    """Of a whole: "0.354 %"."""
    return ABSENT if value is None else f"{100 * value:.3g} %"


def seconds(value: float | None) -> str:
    """A time: "0.157 s", "23.1 ms"."""
    if value is None:
        return ABSENT
    if value < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3f} s" if value < 10 else f"{value:,.1f} s"


def size(value: float | None) -> str:
    """Bytes: "361 KiB"."""
    if value is None:
        return ABSENT
    for name in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.{3 if value < 1000 else 4}g} {name}"
        value /= 1024
    return f"{value:,.2f} GiB"


def task(config: Mapping[str, Any]) -> str:
    """What is learnt, "classification of MRPC"; empty where the config does not say."""
    data = _part(config, "data")
    kind = _text(data, "task")
    if not kind:
        return ""
    train = data.get("train")
    places = train if isinstance(train, list) else [_text(data, "train")]
    names = ", ".join("/".join(pathlib.PurePath(str(p)).parts[-2:]) for p in places if p)
    of = _text(data, "name").upper() or names or _text(data, "format")
    of = {"toy": "toy data", "python": f"Python's {names}"}.get(_text(data, "format"), of)
    kind = {"language": "language modelling"}.get(kind, kind)
    return f"{kind} of {of}" if of else kind


def model(config: Mapping[str, Any]) -> str:
    """What is adapted, "roberta-base"; empty where the config does not say."""
    part = _part(config, "model")
    family = _text(part, "family")
    if _text(part, "source"):
        return _text(part, "source").rstrip("/").rpartition("/")[2]
    if not family:
        return ""
    name = _text(part, "preset") or _FAMILIES.get(family, family)
    steps = _part(config, "pretrain").get("steps")
    if isinstance(steps, int) and steps:
        return f"a {name} pretrained for {steps:,} steps"
    return f"a fresh {name}"


def adapter(fields: Mapping[str, Any], also: Any = None) -> str:
    """A method in words, "LoRA of rank 8, alpha 16, on all linear layers"; empty if unknown.

    Args:
      fields: `config.adapter`.
      also: `config.also_train`.
    """
    name = _text(fields, "adapter")
    if not name:
        return ""
    said = {"Full": "full fine-tuning"}.get(name, name)
    for field, joint in (("rank", " of rank"), ("alpha", ", alpha"), ("dropout", ", dropout")):
        if isinstance(fields.get(field), int | float) and fields[field]:
            said += f"{joint} {fields[field]:g}"
    where = fields.get("where")
    if where in ("all-linear", ["all-linear"]):
        said += ", on all linear layers"
    elif isinstance(where, list) and where:
        said += f", on {' and '.join(map(str, where))}"
    if isinstance(also, list) and also:
        said += f", with {' and '.join(map(str, also))} trained whole"
    return said


def adapter_of(config: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    """The adapter's fields of a run, where there is one or an entry of `config.methods`."""
    if label == "pretrain":
        return {"adapter": "Full"}
    methods = _part(config, "methods")
    return _part(config, "adapter") or _part(_part(methods, label.partition("@")[0]), "adapter")


def short(value: Any, most: int = 60) -> str:
    """A value of a config as JSON, a long one with its middle left out; text without quotes."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"


def brief(names: Sequence[str], most: int = 40) -> list[str]:
    """Names with the middle of long ones left out, if they still differ then."""
    cut = [short(name, most) for name in names]
    return cut if len(set(cut)) == len(set(names)) else list(names)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _text(part: Mapping[str, Any], name: str) -> str:
    value = part.get(name)
    return value if isinstance(value, str) else ""
