"""What would a run do? `--dry_run`: shown from shapes, with nothing written and nothing drawn."""

from typing import Any

import jax
import numpy as np

from experiments._cli import Call
from experiments._preflight import Preflight
from experiments._preflight import show as show_preflight
from experiments._train import method
from experiments._train.data import example_inputs
from experiments._train.model import make_subject
from experiments._train.scoring import LANGUAGE
from experiments._train.setting import check, make_setting, steps_of
from lorax.core.errors import LoraxError
from lorax.data.batch import Batch


def show(call: Call) -> None:
    """Prints the preflight of a config.

    Raises:
      LoraxError: whatever of the config cannot be.
    """
    show_preflight(plan(call.config, call.overrides))


def plan(config: Any, overrides: Any) -> Preflight:
    """The preflight; data that is not there leaves the length of an epoch unknown."""
    return _planned(config, overrides) if config.plan_only else _read(config, overrides)


def _read(config: Any, overrides: Any) -> Preflight:
    setting = make_setting(config)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(_part(config, x.shape), x.dtype), setting.data.pipeline[0]
    )
    return Preflight(
        config, overrides, setting.fn, (setting.example,), setting.loss, setting.adapter,
        setting.subject.base, batch, setting.tx, setting.steps,
        len(setting.data.pipeline.examples),
        _logits(config, setting.subject.model, batch),
    )  # fmt: skip


def _planned(config: Any, overrides: Any) -> Preflight:
    """Of a page that is a plan only: no data, and the shapes of a fresh model."""
    check(config)
    example = example_inputs(config, None)
    subject = make_subject(config, None, example, None)
    adapter, fn = method.make_adapter(config), method.program(subject)
    rows = (config.train.batch, config.data.length)
    batch = Batch(
        *(jax.ShapeDtypeStruct(_part(config, rows), kind) for kind in (np.int32, np.int32, bool))
    )
    steps = steps_of(config, 0)
    if not steps:
        raise LoraxError("config.train.steps is 0 in a plan without data: expected a number")
    return Preflight(
        config, overrides, fn, (example,), method.make_loss(config, fn, adapter), adapter,
        subject.base, batch, method.make_optimizer(config.optimizer, steps)[0], steps, None,
        _logits(config, subject.model, batch),
    )  # fmt: skip


def _part(config: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] // config.train.accumulate, *shape[1:])


def _logits(config: Any, model: Any, batch: Any) -> jax.ShapeDtypeStruct | None:
    if config.data.task not in LANGUAGE:
        return None
    rows, tokens = batch.inputs.shape
    count = min(rows * tokens, config.optimizer.chunk or rows * tokens)
    return jax.ShapeDtypeStruct((count, model.config.vocab_size), np.float32)
