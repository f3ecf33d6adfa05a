"""How is one adapter trained so that nothing is lost? Step, loop, records and checkpoints together.

A checkpoint holds the state, and in its info: how long metrics.jsonl was, where the data stood, the
fingerprint of the base, and whether an evaluation was still to come. A run that is started again
restores all of it and goes on as if nothing had happened.
"""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

import lorax
from experiments._train.method import make_optimizer
from experiments._train.placing import made
from lorax.core.errors import LoraxError
from lorax.data.pipeline import Batches, Pipeline
from lorax.io.fingerprint import fingerprint
from lorax.io.run_checkpoint import Checkpoints
from lorax.parallel.layout import Layout
from lorax.train.loop import Moment, Outcome, Plan, Save, train
from lorax.train.metrics import MetricsWriter, Writer
from lorax.train.records import Numbers
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
      measure: numbers of one held-out set, of (held, base, delta), for the end of the run.
      frozen: those of the frozen base, of (held, base).
      apply: the program of (base, what `given` makes of a delta, inputs).
      given: from a delta of this run to what `apply` takes.
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
    frozen: Callable[..., Numbers] | None = None
    apply: Callable[..., Any] | None = None
    given: Callable[[Any], Any] = lambda delta: delta


@dataclasses.dataclass(frozen=True)
class Adapted:
    """An adapted program that one run has, or several of one shape.

    Attributes:
      apply: of (base, what `given` makes of a delta, inputs).
      measure: numbers of a held-out set, of (held, base, what `given` makes of a delta).
      given: from a delta of the run to what these take.
    """

    apply: Callable[..., Any]
    measure: Callable[..., Numbers]
    given: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Opened:
    """A training with its files open, new or as it was left.

    Attributes:
      state: to go on from.
      pending: whether the evaluation of that state is still to be made.
      batches: from there on.
      writer: of records.
      save: of `lorax.train.loop.train`.
      checkpoints: of the run.
      moments: those of the saves since, the last one alone.
    """

    state: State
    pending: bool
    batches: Batches
    writer: Writer
    save: Save
    checkpoints: Checkpoints
    moments: collections.deque[Moment]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
      delta: after the last step, or the best one where the config asks for it.
      step: that it is of.
      outcome: of the loop.
      optimizer_bytes: of the real optimizer state.
      prepared: the base as the adapter wants it.
      numbers: of its evaluation, where that was made just before.
    """

    delta: Any
    step: int
    outcome: Outcome
    optimizer_bytes: int
    prepared: Any
    numbers: Numbers


def run(job: Job, layout: Layout, stop: Stop, say: Callable[[str], None]) -> Trained:
    """Trains, or goes on where checkpoints/ says that training was.

    Raises:
      Stopped: a signal came; what was done is saved.
      LoraxError: checkpoints of another base or of other shapes, NaN, a disk that refuses.
    """
    config = job.config
    tx, schedule = make_optimizer(config.optimizer, job.steps, job.adapter)
    key = jax.random.key(config.seed.dropout)
    first = made(
        layout, lambda delta: init_state(delta, tx, key),
        lambda shapes: layout.state(shapes, job.base), job.delta,
    )  # fmt: skip
    with opened(job, first, fingerprint(job.base), say) as files:
        state = layout.place(files.state, layout.state(files.state, job.base))
        prepared = job.adapter.prepare(job.base, state.delta)
        prepared = layout.place(prepared, layout.base(prepared))
        step = make_step(
            job.loss, tx, schedule,
            accumulate=config.train.accumulate, shardings=layout.shardings(state, prepared),
        )  # fmt: skip
        outcome = train(
            step, state, prepared, map(layout.batch, files.batches), plan(job, files.pending),
            writer=files.writer, save=files.save, stop=stop,
            evaluate=_evaluate(job, prepared, say),
        )  # fmt: skip
        return ended(job, files, outcome, prepared)


@contextlib.contextmanager
def opened(job: Job, state: State, mark: str, say: Callable[[str], None]) -> Iterator[Opened]:
    """A context in which a training has its checkpoints, records and data, where they were left.

    Args:
      job: of the run.
      state: to begin with, where there is no checkpoint.
      mark: the fingerprint of the base.
      say: told of damaged checkpoints, and of a resumption.

    Raises:
      LoraxError: checkpoints of another base or of other shapes, a disk that refuses.
    """
    config = job.config
    with Checkpoints(
        job.workdir / CHECKPOINTS,
        keep=config.checkpoint.keep,
        best=config.checkpoint.best,
        mode=config.checkpoint.mode,
    ) as checkpoints:
        found = checkpoints.latest(state, expect={"base": mark})
        for message in found.skipped if found else ():
            say(message)
        info = found.info if found else {"metrics": 0, "pending": True}
        if found:
            say(f"Resumed {job.label} after step {info['step']} of {job.steps}.")
        batches = job.pipeline.batches()
        if found:
            batches.restore(info["data"])
        with (
            batches,
            MetricsWriter(job.workdir / METRICS, info["metrics"]) as metrics,
            contextlib.nullcontext(metrics) if job.sink is None else job.sink(metrics) as writer,
        ):
            moments: collections.deque[Moment] = collections.deque(maxlen=1)

            def save(state: State, moment: Moment) -> None:
                moments.append(moment)
                checkpoints.save(
                    moment.step,
                    state,
                    {"step": moment.step, "base": mark, "pending": moment.pending,
                     "metrics": metrics.sync(), "data": batches.state()},
                    metrics=moment.numbers if moment.step else None,  # the base is not best
                )  # fmt: skip

            first = found.tree if found else state
            yield Opened(first, info["pending"], batches, writer, save, checkpoints, moments)


def ended(job: Job, files: Opened, outcome: Outcome, prepared: Any) -> Trained:
    """What came of it, when everything is on the disk: the last delta, or the best one.

    Raises:
      LoraxError: the last save failed, or no evaluation told the number whose best is wanted.
    """
    files.checkpoints.wait()
    step, state = job.steps, outcome.state
    if job.config.checkpoint.best:
        step = _best(job, files.checkpoints)
        if step != job.steps:
            state = files.checkpoints.restore(step, state).tree
    optimizer_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(outcome.state.opt_state))
    known = [moment.numbers for moment in files.moments if moment.step == step]
    numbers = known[0] if known and known[0] else {}
    return Trained(state.delta, step, outcome, optimizer_bytes, prepared, numbers)


def plan(job: Job, pending: bool) -> Plan:
    """Length and reports of a run; `pending` as in `Opened`."""
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


def _best(job: Job, checkpoints: Checkpoints) -> int:
    """The step whose number is best of those that the config names."""
    step = checkpoints.best_step()
    if step is None:
        raise LoraxError(
            f"config.checkpoint.best is '{job.config.checkpoint.best}', which no evaluation "
            "reported: name one of its numbers, validation/loss say"
        )
    return step
