"""What do the units of one program share? Data, model, base, the adapted program and its step."""

import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import lorax
from experiments._sweep.program import base_of, differing, short
from experiments._sweep.units import Unit
from experiments._train import method, training
from experiments._train.base import with_base
from experiments._train.job import make_job, make_program
from experiments._train.scoring import Held
from experiments._train.setting import Setting, make_setting, sibling
from lorax.adapters.padded import Padded, PaddedDelta, with_numbers
from lorax.core.errors import LoraxWarning
from lorax.data.batch import Batch
from lorax.data.order import describe
from lorax.data.pipeline import Pipeline
from lorax.io.fingerprint import fingerprint
from lorax.train.packed import PackedStep, make_packed_step
from lorax.train.stacks import common, pad
from lorax.train.step import State, init_state
from lorax.train.stop import Stop

Numbers = Mapping[str, Any]

_KEPT = 4
"""Batches of an order that are kept: units of a pack may be at different steps."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One unit of a pack.

    Attributes:
      unit: of the sweep.
      setting: of its run.
      job: as `experiments._train.training` takes it.
      state: to begin with, of the unit's own shapes.
      numbers: what the program does not know of it.
    """

    unit: Unit
    setting: Setting
    job: training.Job
    state: State
    numbers: Numbers


class Shared:
    """A program, opened for some of its units.

    Args:
      units: that are to be trained.
      folder: of the sweep.
      stop: asked while a base is trained, and between batches of evaluations.
      say: told what a reader should know of data and adapters, once.

    Attributes:
      setting: of the first unit, the base drawn or trained.
      base: with what the units' adapter derives from it, where that is the same in all of them.
      mark: the fingerprint of the base.
      rows: of a unit's batch that one product sees: tokens, or examples of a model of images.
    """

    def __init__(
        self, units: Sequence[Unit], folder: pathlib.Path, stop: Stop, say: Callable[[str], None]
    ):
        self._stop = stop
        setting = make_setting(units[0].config)
        self._settings = {unit.name: sibling(setting, unit.config) for unit in units}
        self._made: pathlib.Path | None = None
        if setting.pretrains:
            self._made = folder / "bases" / base_of(setting.config)
            _ = setting.before  # its mistakes write nothing
        self.setting = self._with_base(setting)
        self._plain = self.setting.subject.base
        self.mark = fingerprint(self._plain)
        example = jnp.zeros(setting.example.shape, setting.example.dtype)
        self._roles = lorax.roles(setting.fn, self._plain, example)
        adapters = [one.adapter for one in self._settings.values()]
        self._drops = any(_drops(adapter) for adapter in adapters)
        self._traced = differing(units)
        self._padded = Padded(setting.adapter)
        self._program = make_program(setting, self._padded, stop)
        self._pipelines: dict[str, Pipeline] = {}
        self._frozen: dict[str, Mapping[str, float]] = {}
        with warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("always", LoraxWarning)
            self.state_shapes, self.number_shapes = self._shapes()
        shapes = PaddedDelta(self.state_shapes.delta, {}, {}, {})
        self.base = self._padded.prepare(self._plain, shapes)
        for text in dict.fromkeys([*setting.data.notes, *(str(one.message) for one in noticed)]):
            say(text)
        part = setting.config.train
        length = setting.config.data.length if setting.example.ndim == 2 else 1
        self.rows = part.batch // part.accumulate * length

    def step(self, width: int) -> PackedStep:
        """The jitted step of any number of units, `width` of them side by side."""
        loss = method.make_loss(self.setting.config, self.setting.fn, self._padded)
        accumulate = self.setting.config.train.accumulate
        return make_packed_step(
            loss, self._optimizer, _complete, width=width, accumulate=accumulate
        )

    def member(self, unit: Unit, workdir: pathlib.Path) -> Member:
        """A unit as it is before its first step, in its own folder."""
        setting = self._settings[unit.name]
        config = setting.config
        data = dataclasses.replace(setting.data, pipeline=self._pipeline(setting))
        setting = dataclasses.replace(setting, subject=self.setting.subject, data=data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LoraxWarning)  # told when the program was opened
            delta = method.first_delta(
                config, setting.fn, setting.adapter, self._plain, None, self._roles
            )
        numbers = self._numbers(setting, delta)
        whole = pad(numbers, self.number_shapes)
        given = lambda own: _complete(pad(own, self.state_shapes.delta), whole)
        own = dataclasses.replace(self._program, given=given)
        job = make_job(setting, workdir, "train", self._stop, delta, own)
        if not config.adapter_from:  # the same for all units
            own = functools.partial(self._of_base, job.frozen)
            job = dataclasses.replace(job, frozen=own)
        tx, _ = method.make_optimizer(config.optimizer, setting.steps, setting.adapter)
        state = init_state(delta, tx, jax.random.key(config.seed.dropout))
        return Member(unit, setting, job, state, numbers)

    def before(self, member: Member) -> Mapping[str, float]:
        """The evaluation of a unit before its first step."""
        job, held = member.job, self.setting.data.held
        watched = [one for name, one in held.items() if name != "test"]
        return {k: v for one in watched for k, v in job.frozen(one, self.base).items()}

    def link(self, workdir: pathlib.Path) -> None:
        """Lets the folder of a unit have the base that was trained for all."""
        place = workdir / "base"
        if self._made is not None and not place.exists():
            place.symlink_to(os.path.relpath(self._made / "base", workdir))

    def _of_base(self, frozen: Callable[..., Any], held: Held, base: Any) -> Mapping[str, float]:
        if held.name not in self._frozen:
            self._frozen[held.name] = frozen(held, base)
        return self._frozen[held.name]

    def _with_base(self, setting: Setting) -> Setting:
        if self._made is None:
            return with_base(setting, pathlib.Path(), self._stop)
        self._made.mkdir(parents=True, exist_ok=True)
        with open(self._made / ".lock", "a", encoding="utf-8") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)  # other workers wait for it
            return with_base(setting, self._made, self._stop)

    def _shapes(self) -> tuple[State, Numbers]:
        """What holds the state, and the numbers, of every unit."""
        found = {}
        for setting in self._settings.values():
            tx, _ = method.make_optimizer(setting.config.optimizer, setting.steps, setting.adapter)

            def first(key: jax.Array, setting: Setting = setting, tx: Any = tx) -> Any:
                delta = setting.adapter.init(key, self._plain, self._roles)
                return init_state(delta, tx, key), self._numbers(setting, delta)

            if setting.adapter not in found:
                found[setting.adapter] = jax.eval_shape(first, jax.random.key(0))
        return common(list(found.values()))

    def _numbers(self, setting: Setting, delta: Any) -> Numbers:
        part = setting.config.optimizer
        whole = with_numbers(setting.adapter, self._plain, delta, dropout=self._drops)
        traced = {name: jnp.asarray(float(part[name])) for name in self._traced}
        return {"adapter": dataclasses.replace(whole, delta=None), "optimizer": traced}

    def _optimizer(self, numbers: Numbers) -> Any:
        fields = self.setting.config.optimizer.to_dict() | numbers["optimizer"]
        return method.make_optimizer(
            types.SimpleNamespace(**fields), self.setting.steps, self.setting.adapter
        )

    def _pipeline(self, setting: Setting) -> Pipeline:
        """One for all units whose data come in the same order."""
        pipeline = setting.data.pipeline
        name = short(describe(pipeline.order))
        return self._pipelines.setdefault(
            name, _Once(pipeline.examples, pipeline.order, pipeline.pad, prefetch=0)
        )


class _Once(Pipeline):
    """Makes a batch once for all units that ask for it, and reads nothing ahead.

    The host has time: it makes the batches of a step while the device is busy with those before.
    """

    def __getitem__(self, step: int) -> Batch:
        kept: dict[int, Batch] = self.__dict__.setdefault("kept", {})
        if step not in kept:
            while len(kept) >= _KEPT:
                kept.pop(next(iter(kept)))
            kept[step] = super().__getitem__(step)
        return kept[step]


def _complete(delta: Any, numbers: Numbers) -> PaddedDelta:
    return dataclasses.replace(numbers["adapter"], delta=delta)


def _drops(adapter: lorax.Adapter) -> bool:
    if isinstance(adapter, lorax.Chain):
        return any(map(_drops, adapter.members))  # which may be chains themselves
    return bool(getattr(adapter, "dropout", 0))
