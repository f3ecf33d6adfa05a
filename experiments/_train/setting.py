"""What does a config come to? Data, model, adapter, loss and optimizer, before anything is done."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import lorax
from configs import _page
from experiments._train import method
from experiments._train.data import Data, example_inputs, labels_of, make_data, read_splits
from experiments._train.model import Subject, make_subject, make_tokenizer, program
from lorax.core.errors import LoraxError
from lorax.train.step import Loss


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run, ready to begin.

    Attributes:
      config: of the run.
      subject: the model; the base of a fresh one is shapes until it is drawn.
      data: examples and batches.
      metrics: what a classification or regression is scored by.
      adapter: what learns.
      fn: the bare program of (params, inputs).
      loss: as `make_step` wants it.
      example: the form of one row of inputs.
      steps: updates.
    """

    config: Any
    subject: Subject
    data: Data
    metrics: tuple[str, ...]
    adapter: lorax.Adapter
    fn: Callable[..., Any]
    loss: Loss
    example: jax.ShapeDtypeStruct
    steps: int

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer of the delta."""
        return method.make_optimizer(self.config.optimizer, self.steps)[0]


def make_setting(config: Any) -> Setting:
    """Everything read, encoded and checked; no parameters are drawn and nothing is written.

    Raises:
      LoraxError: whatever of the config cannot be, in one line.
    """
    check(config)
    found = read_splits(config)
    example = example_inputs(config, found)
    tokenizer = make_tokenizer(config.model, found.texts)
    subject = make_subject(config, tokenizer, example, labels_of(config, found))
    data = make_data(config, found, subject.tokenizer, subject.max_length)
    adapter, fn = method.make_adapter(config), program(subject.model)
    steps = steps_of(config, data.pipeline.steps_per_epoch)
    method.make_optimizer(config.optimizer, steps)
    setting = Setting(
        config, subject, data, found.metrics, adapter, fn,
        method.make_loss(config, fn, adapter), example, steps,
    )  # fmt: skip
    _check_fits(setting)
    return setting


def check(config: Any) -> None:
    """Finds what can be told from the config alone.

    Raises:
      LoraxError: a field that is missing, unknown or a list, or numbers that cannot be.
    """
    _page.check(config)
    part = config.train
    if part.batch < 1 or part.accumulate < 1 or part.batch % part.accumulate:
        raise LoraxError(
            f"config.train.batch is {part.batch} in {part.accumulate} parts: expected a multiple "
            "of config.train.accumulate; change one of them"
        )
    if part.steps < 0 or part.epochs < 0 or not part.steps + part.epochs:
        raise LoraxError(
            f"config.train has {part.steps} steps and {part.epochs} epochs: expected a positive "
            "number of one of them"
        )


def steps_of(config: Any, steps_per_epoch: int) -> int:
    """Updates of the run: as many as the config says, or those of its epochs."""
    return config.train.steps or config.train.epochs * steps_per_epoch


def _check_fits(setting: Setting) -> None:
    """The adapter fits the model: found before anything is drawn or written."""
    apply = lorax.adapt(setting.fn, setting.adapter, on_fallback="allow")
    example = np.zeros(setting.example.shape, setting.example.dtype)
    try:
        jax.eval_shape(
            lambda base: apply.init(jax.random.key(0), base, example), setting.subject.base
        )
    except LoraxError as error:
        raise LoraxError(f"config.adapter: {error}") from None
