"""What does a run need to train, and how does it measure? From a setting whose base is there."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import lorax
from experiments._train import method, scoring, training
from experiments._train.placing import made
from experiments._train.setting import Setting
from lorax.core.adapter import unprepared
from lorax.train.metrics import MetricsWriter
from lorax.train.stop import Stop
from lorax.train.tensorboard import TensorBoardWriter, Writers


def make_job(
    setting: Setting,
    workdir: pathlib.Path,
    label: str,
    stop: Stop,
    delta: Any = None,
    program: training.Adapted | None = None,
) -> training.Job:
    """What `training.run` needs of a setting whose base is drawn.

    Args:
      setting: of the run.
      workdir: of the run.
      label: of the records.
      stop: asked between batches of an evaluation.
      delta: to begin with; None for that of the config.
      program: the adapted one, where several runs share one; None for that of the setting.
    """
    config, base = setting.config, setting.subject.base
    if delta is None:
        delta = _first_delta(setting)
    program = program or make_program(setting, setting.adapter, stop)
    given = program.given
    measure = lambda held, prepared, delta, **asked: program.measure(
        held, prepared, given(delta), **asked
    )
    seen = [held for name, held in setting.data.held.items() if name != "test"]

    def evaluate(prepared: Any, delta: Any) -> Mapping[str, float]:
        return {k: v for held in seen for k, v in measure(held, prepared, delta).items()}

    return training.Job(
        workdir, config, label, setting.adapter, base, delta, setting.loss,
        setting.data.pipeline, setting.steps, evaluate, _sink(config, workdir), measure,
        _frozen(setting, delta, measure, stop), program.apply, given,
    )  # fmt: skip


def _frozen(
    setting: Setting, delta: Any, measure: Callable[..., Any], stop: Stop
) -> Callable[..., Any]:
    """Numbers of the frozen base, by the program that is compiled already wherever it gives them.

    What an adapter of parameters begins with is the base itself; a prompt is not.
    """
    added = jax.eval_shape(setting.adapter.additions, setting.subject.base, delta)
    if not added:
        return lambda held, prepared: measure(held, prepared, delta)
    bare = lambda base, _, *args, **given: setting.fn(unprepared(base)[0], *args, **given)
    alone = scoring.make_measure(
        setting.config.data.task, bare, setting.metrics, stop.check, setting.layout
    )
    return lambda held, prepared: alone(held, prepared, None)


def _first_delta(setting: Setting) -> Any:
    """That of the config, each part of it drawn where it lies."""
    base, layout = setting.subject.base, setting.layout
    example = jnp.zeros(setting.example.shape, setting.example.dtype)
    draw = lambda base: method.first_delta(
        setting.config, setting.fn, setting.adapter, base, example
    )
    return made(layout, draw, lambda shapes: layout.delta(shapes, base), base)


def make_program(setting: Setting, adapter: lorax.Adapter, stop: Stop) -> training.Adapted:
    """The program of a setting under `adapter`, and its measure, compiled once a shape."""
    apply = lorax.adapt(setting.fn, adapter)
    measure = scoring.make_measure(
        setting.config.data.task, apply, setting.metrics, stop.check, setting.layout
    )
    return training.Adapted(apply, measure, lambda delta: delta)


def _sink(config: Any, workdir: pathlib.Path) -> Callable[[MetricsWriter], Any] | None:
    if not config.tensorboard:
        return None
    return lambda metrics: Writers(
        metrics, TensorBoardWriter(workdir / "tensorboard", history=metrics.path)
    )
