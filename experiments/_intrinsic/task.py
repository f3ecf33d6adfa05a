"""What does a study train on? One model, all examples on the device, and how each is measured."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import lorax
from experiments._train import method
from experiments._train.base import with_base
from experiments._train.data import reordered
from experiments._train.scoring import Held, Measure, make_measure, numbers_of
from experiments._train.setting import Setting
from lorax.core import paths
from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.data.collate import collate
from lorax.train.step import Loss
from lorax.train.stop import Stop

TRAIN = "train"


@dataclasses.dataclass(frozen=True)
class Task:
    """One model and its data, opened for all units of a study.

    Attributes:
      setting: of the page's own run, its base drawn, read or trained.
      data: all training examples, (N + 1, ...) each; the last row is one that does not count.
      held: by name, with "train" itself.
      total: D, numbers of all leaves that the page's adapter chooses.
      measure: numbers of a held-out set, of (held, params, None).
      workdir: of the study; a base that is trained lies in it.
      stop: asked between batches of evaluations.
      bases: θ0 by seed, of those that were asked for.
      compiled: programs by adapter, for units that come later.
    """

    setting: Setting
    data: Batch
    held: Mapping[str, Held]
    total: int
    measure: Measure
    workdir: pathlib.Path
    stop: Stop
    bases: dict[int, Any] = dataclasses.field(default_factory=dict)
    compiled: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> ConfigDict:
        """Of the page."""
        return self.setting.config

    @property
    def steps(self) -> int:
        """Updates of an epoch."""
        return self.setting.data.pipeline.steps_per_epoch

    def loss(self, adapter: lorax.Adapter) -> Loss:
        """That of the task under an adapter."""
        return method.make_loss(self.config, self.setting.fn, adapter)

    def base(self, seed: int) -> Any:
        """θ0 of a seed; a base that is read or trained is the same for all."""
        if seed == self.config.seed.base or self.setting.subject.loaded or self.setting.pretrains:
            return self.setting.subject.base
        if seed not in self.bases:
            config = ConfigDict(self.config.to_dict())
            config.seed.base = seed
            fresh = dataclasses.replace(self.setting, config=config)
            self.bases[seed] = with_base(fresh, self.workdir, self.stop).subject.base
        return self.bases[seed]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """(steps, B) int32, the rows of `data` in each batch, as `experiments.train` has them."""
        config = ConfigDict(self.config.to_dict())
        config.seed.data = seed
        order = reordered(self.setting.data, config).pipeline.order
        filler = [len(self.data.mask) - 1]
        rows = [order.rows(epoch * self.steps + step) for step in range(self.steps)]
        return np.array([[(row or filler)[0] for row in batch] for batch in rows], np.int32)

    def numbers(self, params: Any, *names: str) -> dict[str, float]:
        """{"validation/loss": ...} of these held-out sets, those that there are."""
        found: dict[str, float] = {}
        for name in names:
            if name in self.held:
                found |= self.measure(self.held[name], params, None)
        return found


def check(setting: Setting, metric: str) -> None:
    """Finds what cannot be studied, before anything is drawn or written.

    Raises:
      LoraxError: another adapter than a Subspace, examples that share rows, no whole epoch, or a
        metric that nothing reports.
    """
    config, data = setting.config, setting.data
    if not isinstance(setting.adapter, lorax.Subspace):
        raise LoraxError(
            f"config.adapter is {type(setting.adapter).__name__}: expected Subspace, whose "
            "projection, scope and leaves are those of the study; leave out words such as full"
        )
    if config.data.packing != "none":
        raise LoraxError(
            f"config.data.packing is '{config.data.packing}': expected none, as a study holds all "
            "examples at once, one a row"
        )
    if not config.train.epochs:
        raise LoraxError("config.train.epochs is 0: expected 1 or more; units train whole epochs")
    held = [*data.held.values(), Held(TRAIN, data.pipeline.examples, [], [])]
    names = [name for one in held for name in numbers_of(config.data.task, setting.metrics, one)]
    if metric not in names:
        near = (paths.nearest(metric, names, 1) or ("validation/loss",))[0]
        raise LoraxError(
            f"config.study.metric is '{metric}', which nothing reports: did you mean '{near}'?"
        )


def open_task(setting: Setting, workdir: pathlib.Path, stop: Stop) -> Task:
    """The base drawn or trained, the data on the device.

    Args:
      setting: of `make_setting`.
      workdir: of the study.
      stop: asked between pieces of work.
    """
    config = setting.config
    setting = with_base(setting, workdir, stop)
    pipeline = setting.data.pipeline
    on_device = functools.partial(jax.tree.map, jnp.asarray)
    data = _collated(pipeline.examples, config.data.length, pipeline.pad, filler=True)
    held = {
        name: dataclasses.replace(one, batches=[on_device(batch) for batch in one.batches])
        for name, one in setting.data.held.items()
    }
    size = config.eval.batch or config.train.batch
    parts = [
        _collated(pipeline.examples[i : i + size], config.data.length, pipeline.pad)
        for i in range(0, len(pipeline.examples), size)
    ]
    held[TRAIN] = Held(TRAIN, pipeline.examples, parts, [])
    fn = setting.fn
    apply: Callable[..., Any] = lambda params, _, *args, **kwargs: fn(params, *args, **kwargs)
    measure = make_measure(config.data.task, apply, setting.metrics, stop.check)
    return Task(setting, on_device(data), held, total_of(setting), measure, workdir, stop)


def _collated(examples: Any, length: int, pad: int, filler: bool = False) -> Batch:
    rows = [[example] for example in examples] + ([[]] if filler else [])
    return collate(rows, length, like=examples[0], pad=pad)


def chosen(setting: Setting) -> dict[str, Any]:
    """The leaves that the page's adapter moves, by path; shapes suffice."""
    assert isinstance(setting.adapter, lorax.Subspace)  # as `check` wants it
    return setting.adapter.chosen(setting.subject.base)


def total_of(setting: Setting) -> int:
    """D, how many numbers they have."""
    return sum(math.prod(leaf.shape) for leaf in chosen(setting).values())
