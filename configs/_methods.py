"""How does the page of one method start? As its unit of the comparison, at its own best rate."""

from ml_collections import ConfigDict

from configs._words import BASELINES, arguments
from configs.method_comparison import METHODS
from configs.method_comparison import get_config as comparison

KNOWN = (*BASELINES, "smoke")

SMALL = {"AdaLoRA": {"final": 0}, "LoRA-XS": {"rank": 4}}
"""What the small model and the two updates of a smoke run take, where the method takes less."""


def one(name: str, learning_rate: float, arg: str) -> ConfigDict:
    """stories260K to Shakespeare by the method that `METHODS` has under `name`.

    Args:
      name: of the method.
      learning_rate: its best of those that were tried.
      arg: of the page; words: full, bitfit, smoke.
    """
    words = arguments(arg, KNOWN)
    config = comparison(arg)
    if not words & {*BASELINES}:
        small = SMALL.get(name, {}) if "smoke" in words else {}
        config.adapter = ConfigDict({**METHODS[name][0], **small})
        config.optimizer.learning_rate = learning_rate
    config.eval.by_item = False
    return config
