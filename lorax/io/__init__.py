"""Disk, and other people's names: checkpoints, pretrained models, PEFT and loralib, tokenizers."""

import importlib
import types

_MODULES = ("checkpoint", "loralib", "peft", "pretrained", "tokenizer")


def __getattr__(name: str) -> types.ModuleType:
    """`lorax.io.peft` and its neighbours, imported when they are first named."""
    if name in _MODULES:
        return importlib.import_module(f"lorax.io.{name}")
    raise AttributeError(f"module 'lorax.io' has no attribute '{name}'")
