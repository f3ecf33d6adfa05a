"""How are steps run? Batch after batch, with progress, metrics on disk, and a stop at NaN.

The host never waits for the step it has just started. It looks at each step's loss when `LAG`
later ones are under way: the device stays busy, and a NaN is still seen within `LAG` steps.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TextIO

import jax

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.train.metrics import Writer
from lorax.train.progress import progress
from lorax.train.records import WATCHED, Numbers, Recorder, due
from lorax.train.records import NotFinite as NotFinite
from lorax.train.step import Base, State, Step
from lorax.train.stop import Stop, Stopped

LAG = 2
"""Steps in flight behind the newest."""

Evaluate = Callable[[State], Numbers]


class Moment(NamedTuple):
    """When a state is saved.

    Attributes:
      step: updates made.
      numbers: of this step's evaluation; None where none was made.
      pending: whether an evaluation is due at this step that was not made.
    """

    step: int
    numbers: Numbers | None
    pending: bool


Save = Callable[[State, Moment], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train and what to report.

    Attributes:
      steps: updates of the whole run, those before a resumption included.
      label: of the progress display and of every record, as `run`.
      log_every: steps between records of the training metrics; the last step has one too.
      eval_every: steps between evaluations, 0 for none but the last.
      save_every: steps between calls of `save`, 0 for none but the last; each evaluation has one.
      pending: whether the evaluation of the state that training begins with is still to be made.
      stream: of the progress display; None means standard error.
    """

    steps: int
    label: str = "train"
    log_every: int = 10
    eval_every: int = 0
    save_every: int = 0
    pending: bool = False
    stream: TextIO | None = None

    def __post_init__(self) -> None:
        """Raises LoraxError unless `steps` is an integer, at least 1."""
        if isinstance(self.steps, bool) or not hasattr(self.steps, "__index__") or self.steps < 1:
            raise LoraxError(f"steps is {self.steps!r}: expected an integer, at least 1")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What training gave.

    Attributes:
      state: after the last step.
      metrics: of the last step, on the host; empty if no step was left to make.
      seconds_per_step: the median time from one finished step to the next, compilation and
        evaluation excluded; NaN below 3 steps.
      wait_share: of the time of training, the share in which the next batch was waited for,
        compilation and evaluation excluded; NaN below 3 steps.
    """

    state: State
    metrics: dict[str, float]
    seconds_per_step: float
    wait_share: float


def train(
    step: Step,
    state: State,
    base: Base,
    batches: Iterable[Any],
    plan: Plan,
    *,
    writer: Writer | None = None,
    evaluate: Evaluate | None = None,
    save: Save | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Updates of `state`, which is donated, until it has been through `plan.steps` of them.

    Args:
      step: from `make_step`.
      state: before the first step, or as it was saved: training goes on from `state.step`.
      base: the frozen parameters, arguments of every step.
      batches: one for each step that is left.
      plan: length and reports.
      writer: gets a record `{run, step, kind: "train", loss, ...}` every `log_every` steps and one
        with kind "eval" and the numbers of `evaluate` at every evaluation.
      evaluate: from a state to numbers; it must not keep the state's arrays.
      save: called with the state between steps, when everything up to it is in the records; it
        must have copied the arrays when it returns.
      stop: asked after every step; when it says so the state is saved and `Stopped` raised.
        `evaluate` may raise `Stopped` too.

    Raises:
      NotFinite: a loss or gradient norm that is not a finite number, naming the step. Records
        written until then stay, and one more tells of that step.
      Stopped: `stop` asked for it; the state was saved.
      LoraxError: the batches ran out, or the metrics cannot be written.
      LoraxTypeError: `state` is no `State`, or `plan` no `Plan`.
    """
    _check_types(state, plan)
    run = _Run(plan, writer)
    source, start = iter(batches), int(state.step)
    if plan.pending and evaluate is not None:
        _pause(run, state, start, evaluate, save, stop)
    with progress(plan.label, plan.steps, plan.stream) as report:
        for number in range(start + 1, plan.steps + 1):
            batch = run.next(source, number)
            state, metrics = step(state, base, batch)
            run.started(number, metrics)
            report(number, run.records.text)
            measure = evaluate if due(number, plan.eval_every, plan.steps) else None
            asked = stop is not None and stop.requested()
            if asked or measure or due(number, plan.save_every, plan.steps):
                _pause(run, state, number, measure, save, stop)
        run.settle()
        report(plan.steps, run.records.text)
    records = run.records
    return Outcome(state, records.last, records.seconds_per_step(), records.wait_share())


def _pause(
    run: "_Run",
    state: State,
    number: int,
    evaluate: Evaluate | None,
    save: Save | None,
    stop: Stop | None,
) -> None:
    """Between two steps: what is under way ends, then evaluation, save, and the end if asked."""
    run.settle()
    numbers, stopped = None, None
    where = f"after step {number} of {run.plan.steps} in {run.plan.label}"
    try:
        if stop is not None:
            stop.check(where)
        if evaluate is not None:
            numbers = evaluate(state)
            run.records.evaluated(number, numbers)
    except Stopped as reason:
        stopped = Stopped(reason.signum, where)
    if save is not None:
        save(state, Moment(number, numbers, evaluate is not None and numbers is None))
    run.records.rest()
    if stopped is not None:
        raise stopped


def _check_types(state: Any, plan: Any) -> None:
    if not isinstance(state, State):
        raise LoraxTypeError(
            f"state is a {type(state).__name__}: expected a State; pass init_state(delta, tx, key)"
        )
    if not isinstance(plan, Plan):
        steps = plan if isinstance(plan, int) else 30
        raise LoraxTypeError(
            f"plan is a {type(plan).__name__}: expected a Plan; pass Plan(steps={steps})"
        )


class _Run:
    """The steps in flight, and the records of those that have finished."""

    def __init__(self, plan: Plan, writer: Writer | None):
        self.plan = plan
        self.records = Recorder(plan.label, plan.steps, plan.log_every, writer)
        self.pending: collections.deque[tuple[int, Any]] = collections.deque()

    def next(self, source: Iterator[Any], number: int) -> Any:
        """The next batch; how long it took to come is kept."""
        begun = time.perf_counter()
        batch = next_batch(source, number, self.plan.steps)
        self.records.waited += time.perf_counter() - begun
        return batch

    def started(self, number: int, metrics: Any) -> None:
        self.pending.append((number, metrics))
        if len(self.pending) > LAG:
            self._finish()

    def settle(self) -> None:
        """Waits for every step in flight."""
        while self.pending:
            self._finish()

    def _finish(self) -> None:
        number, metrics = self.pending.popleft()
        values = jax.device_get([metrics[name] for name in WATCHED])
        watched = dict(zip(WATCHED, values, strict=True))
        self.records.finished(number, watched, lambda: jax.device_get(metrics))


def next_batch(source: Iterator[Any], number: int, steps: int) -> Any:
    """The batch of step `number` of `steps`.

    Raises:
      LoraxError: there are no more.
    """
    batch = next(source, None)
    if batch is None:
        raise LoraxError(
            f"batches ran out after {number - 1} of {steps} steps: lower steps, or give batches "
            "that repeat"
        )
    return batch
