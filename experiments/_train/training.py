"""How is one adapter trained so that nothing is lost? Step, loop, records and checkpoints together.

A checkpoint holds the state, and in its info: how long metrics.jsonl was, where the data stood, the
fingerprint of the base, and whether an evaluation was still to come. A run that is started again
restores all of it and goes on as if nothing had happened.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax

import lorax
from experiments._train.method import make_optimizer
from lorax.core.errors import LoraxError
from lorax.data.pipeline import Pipeline
from lorax.io.fingerprint import fingerprint
from lorax.io.run_checkpoint import Checkpoints
from lorax.parallel.replicas import Replicas
from lorax.train.loop import Moment, Numbers, Outcome, Plan, train
from lorax.train.metrics import MetricsWriter, Writer
from lorax.train.step import Loss, State, init_state, make_step
from lorax.train.stop import Stop

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Job:
    """What one training needs.

    Attributes:
      workdir: where metrics.jsonl and checkpoints/ go.
      config: of the run; its parts optimizer, train, eval, checkpoint and seed are used.
      label: of the records.
      adapter, base: what is adapted, and its frozen parameters.
      delta: where training begins.
      loss: as `make_step` wants it.
      pipeline: of training batches.
      steps: updates in all.
      evaluate: numbers of (base, delta), the base prepared; None for no evaluation.
      sink: makes of the writer of metrics.jsonl one that writes elsewhere too; None for none.
      measure: of one held-out set, for the end of the run.
    """

    workdir: pathlib.Path
    config: Any
    label: str
    adapter: lorax.Adapter
    base: Any
    delta: Any
    loss: Loss
    pipeline: Pipeline
    steps: int
    evaluate: Callable[[Any, Any], Numbers] | None = None
    sink: Callable[[MetricsWriter], contextlib.AbstractContextManager[Writer]] | None = None
    measure: Callable[..., Numbers] | None = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
      delta: after the last step, or the best one where the config asks for it.
      step: that it is of.
      outcome: of the loop.
      optimizer_bytes: of the real optimizer state.
      prepared: the base as the adapter wants it.
    """

    delta: Any
    step: int
    outcome: Outcome
    optimizer_bytes: int
    prepared: Any


def run(job: Job, devices: Replicas, stop: Stop, say: Callable[[str], None]) -> Trained:
    """Trains, or goes on where checkpoints/ says that training was.

    Raises:
      Stopped: a signal came; what was done is saved.
      LoraxError: checkpoints of another base or of other shapes, NaN, a disk that refuses.
    """
    config = job.config
    tx, schedule = make_optimizer(config.optimizer, job.steps)
    step = make_step(job.loss, tx, schedule, accumulate=config.train.accumulate)
    state = init_state(job.delta, tx, jax.random.key(config.seed.dropout))
    optimizer_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    mark = fingerprint(job.base)
    with Checkpoints(
        job.workdir / CHECKPOINTS,
        keep=config.checkpoint.keep,
        best=config.checkpoint.best,
        mode=config.checkpoint.mode,
    ) as checkpoints:
        found = checkpoints.latest(state, expect={"base": mark})
        for message in found.skipped if found else ():
            say(message)
        state = devices.everywhere(found.tree if found else state)
        info = found.info if found else {"metrics": 0, "pending": True}
        if found:
            say(f"Resumed {job.label} after step {info['step']} of {job.steps}.")
        prepared = job.adapter.prepare(devices.everywhere(job.base), state.delta)
        batches = job.pipeline.batches()
        if found:
            batches.restore(info["data"])
        with (
            batches,
            MetricsWriter(job.workdir / METRICS, info["metrics"]) as metrics,
            contextlib.nullcontext(metrics) if job.sink is None else job.sink(metrics) as writer,
        ):

            def save(state: State, moment: Moment) -> None:
                checkpoints.save(
                    moment.step,
                    state,
                    {"step": moment.step, "base": mark, "pending": moment.pending,
                     "metrics": metrics.sync(), "data": batches.state()},
                    metrics=moment.numbers if moment.step else None,  # the base is not best
                )  # fmt: skip

            outcome = train(
                step, state, prepared, map(devices.batch, batches),
                _plan(job, info["pending"]), writer=writer, save=save, stop=stop,
                evaluate=_evaluate(job, prepared, say),
            )  # fmt: skip
        checkpoints.wait()
        return _chosen(job, checkpoints, outcome, optimizer_bytes, prepared)


def _plan(job: Job, pending: bool) -> Plan:
    config = job.config
    return Plan(
        job.steps, job.label, config.train.log_every, config.eval.every, config.checkpoint.every,
        pending,
    )  # fmt: skip


def _evaluate(
    job: Job, prepared: Any, say: Callable[[str], None]
) -> Callable[[State], Numbers] | None:
    if job.evaluate is None:
        return None

    def evaluate(state: State) -> Numbers:
        numbers = job.evaluate(prepared, state.delta)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        say(f"{job.label} {int(state.step)}: {shown}")
        return numbers

    return evaluate


def _chosen(
    job: Job, checkpoints: Checkpoints, outcome: Outcome, optimizer_bytes: int, prepared: Any
) -> Trained:
    """The best delta where the config names what is best, else the last."""
    step = checkpoints.best_step() if job.config.checkpoint.best else job.steps
    if step is None:
        raise LoraxError(
            f"config.checkpoint.best is '{job.config.checkpoint.best}', which no evaluation "
            "reported: name one of its numbers, validation/loss say"
        )
    state = outcome.state if step == job.steps else checkpoints.restore(step, outcome.state).tree
    return Trained(state.delta, step, outcome, optimizer_bytes, prepared)
