"""What does a config come to? Data, model, adapter, loss and optimizer, before anything is done."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import lorax
from configs import _page
from experiments._train import method
from experiments._train.data import (
    PACKINGS,
    Data,
    example_inputs,
    labels_of,
    make_data,
    read_splits,
    reordered,
)
from experiments._train.model import (
    Subject,
    make_subject,
    make_tokenizer,
    program,
    quantised,
)
from experiments._train.placing import placement
from experiments._train.scoring import numbers_of
from lorax.core.errors import LoraxError, check_choice
from lorax.core.paths import nearest
from lorax.data.rows import ROLES
from lorax.ops.quantize import KINDS
from lorax.parallel.layout import Layout, single
from lorax.train.step import Loss

FROM_CONFIG = ("learning_rate", "schedule", "warmup", "weight_decay", "clip")
"""Fields of `config.pretrain` that are the optimizer's."""

LEAST = {
    "data.length": 1, "data.limit": 0, "data.retention_characters": 0, "data.workers": 0,
    "data.shuffle_seed": 0,
    "train.batch": 1, "train.accumulate": 1, "train.log_every": 0,
    "optimizer.chunk": 0, "pretrain.steps": 0, "pretrain.batch": 1,
    "eval.every": 0, "eval.batch": 0, "eval.limit": 0, "eval.generate": -1, "eval.beams": 1,
    "eval.max_new_tokens": 1, "checkpoint.every": 0, "checkpoint.keep": 1,
}  # fmt: skip
"""The lowest value of fields that count something."""

CHOICES = {
    "data.task": tuple(ROLES),
    "data.packing": PACKINGS,
    "data.too_long": ("error", "cut", "skip"),
    "data.on_bad_row": ("error", "skip"),
    "data.shuffle": ("", "pixels", "labels"),
    "checkpoint.mode": ("min", "max"),
    "model.quantize": ("", *KINDS),
}
"""Values of fields that name something."""


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
      layout: where arrays lie; everything on one device where it is not given.
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
    layout: Layout = dataclasses.field(default_factory=single)

    @property
    def pretrains(self) -> bool:
        """Whether the base is trained first."""
        return bool(self.config.pretrain.steps) and self.subject.loaded is None

    @functools.cached_property
    def before(self) -> "Setting":
        """That of the run which trains the base; read when it is asked for, once.

        Raises:
          LoraxError: whatever of `config.pretrain` cannot be.
        """
        try:
            return make_setting(pretraining(self.config), self.layout)
        except LoraxError as error:
            raise LoraxError(f"config.pretrain, of which the base is made: {error}") from None

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer of the delta."""
        return method.make_optimizer(self.config.optimizer, self.steps, self.adapter)[0]


def make_setting(config: Any, layout: Layout | None = None) -> Setting:
    """Everything read, encoded and checked; no parameters are drawn and nothing is written.

    Args:
      config: of the run.
      layout: from `placing.make_layout`; None for one device, whatever the config says.

    Raises:
      LoraxError: whatever of the config cannot be, in one line.
    """
    check(config)
    layout = layout or single()
    found = read_splits(config)
    example = example_inputs(config, found)
    tokenizer = make_tokenizer(config.model, found.texts)
    labels = labels_of(config, found)
    subject = make_subject(config, tokenizer, example, labels, placement(layout))
    data = make_data(config, found, subject.tokenizer, layout.rows)
    adapter = method.make_adapter(config, subject.tokenizer)
    fn = program(subject.model)
    steps = steps_of(config, data.pipeline.steps_per_epoch)
    method.make_optimizer(config.optimizer, steps)
    setting = Setting(
        config, subject, data, found.metrics, adapter, fn,
        method.make_loss(config, fn, adapter, layout), example, steps, layout,
    )  # fmt: skip
    _check_fits(setting)
    _check_best(setting)
    return setting


def sibling(setting: Setting, config: Any) -> Setting:
    """That of a config which differs in the adapter's numbers, the optimizer's, and in seeds.

    Nothing is read again: data and model are those of `setting`.

    Raises:
      LoraxError: numbers that cannot be.
    """
    adapter = method.make_adapter(config, setting.subject.tokenizer)
    method.make_optimizer(config.optimizer, setting.steps)
    return dataclasses.replace(
        setting, config=config, adapter=adapter, data=reordered(setting.data, config),
        loss=method.make_loss(config, setting.fn, adapter, setting.layout),
    )  # fmt: skip


def check(config: Any) -> None:
    """Finds what can be told from the config alone.

    Raises:
      LoraxError: a field that is missing, unknown or a list, or numbers that cannot be.
    """
    _page.check(config)
    for name, least in LEAST.items():
        value = operator.attrgetter(name)(config)
        if value < least:
            raise LoraxError(f"config.{name} is {value}: expected {least} or more")
    for name, choices in CHOICES.items():
        check_choice(f"config.{name}", operator.attrgetter(name)(config), choices)
    if not all(isinstance(share, int | float) for share in config.data.split):
        raise LoraxError(
            f"config.data.split is {config.data.split}: expected the shares of train, validation "
            "and test, (0.8, 0.1, 0.1) say"
        )
    part = config.train
    if part.batch % part.accumulate:
        raise LoraxError(
            f"config.train.batch is {part.batch} in {part.accumulate} parts: expected a multiple "
            "of config.train.accumulate; change one of them"
        )
    if part.steps < 0 or part.epochs < 0 or not part.steps + part.epochs:
        raise LoraxError(
            f"config.train has {part.steps} steps and {part.epochs} epochs: expected a positive "
            "number of one of them"
        )


def pretraining(config: Any) -> Any:
    """The config of the run that makes the base: everything learns, on another text."""
    part, made = config.pretrain, ConfigDict(config.to_dict())
    made.adapter, made.model.quantize = ConfigDict({"adapter": "Full"}), ""
    made.also_train, made.adapter_from = (), ""
    made.data.update({"format": part.format, "train": part.train, "limit": 0})
    made.data.update({"validation": "", "test": "", "retention": ""})
    made.train.update({"steps": part.steps, "batch": part.batch, "accumulate": 1})
    made.optimizer.update({name: part[name] for name in FROM_CONFIG})
    made.optimizer.update({"warmup_ratio": 0.0, "loraplus": 1.0, "label_smoothing": 0.0})
    made.checkpoint.best = ""
    # one base for all seeds of what is trained on it; its own are those that a page begins with
    made.seed.update({"data": config.seed.base + 1, "dropout": config.seed.base + 2})
    made.pretrain.steps = 0
    return made


def steps_of(config: Any, steps_per_epoch: int) -> int:
    """Updates of the run: as many as the config says, or those of its epochs."""
    return config.train.steps or config.train.epochs * steps_per_epoch


def _check_fits(setting: Setting) -> None:
    """The adapter fits the model: found before anything is drawn or written."""
    apply = lorax.adapt(setting.fn, setting.adapter, on_fallback="allow")
    example = np.zeros(setting.example.shape, setting.example.dtype)
    base = jax.eval_shape(lambda base: quantised(setting.config, base), setting.subject.base)

    def first(base: Any) -> Any:
        delta = apply.init(jax.random.key(0), base, example)
        memory = setting.adapter.watch(delta)
        if memory is not None:
            setting.adapter.settle(delta, delta, delta, memory, jnp.int32(0), setting.steps)
        return delta

    try:
        jax.eval_shape(first, base)
    except ValueError as error:  # a LoraxError, or a model's: no room for a prompt, say
        raise LoraxError(f"config.adapter: {error}") from None
    if setting.config.adapter_from:
        first = lambda base: method.first_delta(
            setting.config, setting.fn, setting.adapter, base, example
        )
        jax.eval_shape(first, base)


def _check_best(setting: Setting) -> None:
    """What is to be best is measured while training goes on."""
    best = setting.config.checkpoint.best
    names = [
        name
        for held in setting.data.held.values()
        if held.name != "test"
        for name in numbers_of(setting.config.data.task, setting.metrics, held)
    ]
    if best and best not in names:
        near = nearest(best, names, 1) or ("validation/loss",)
        raise LoraxError(
            f"config.checkpoint.best is '{best}', which no evaluation reports: did you mean "
            f"'{near[0]}'?"
            if names
            else f"config.checkpoint.best is '{best}', but nothing is held out: set it empty, or "
            "config.data.validation"
        )
