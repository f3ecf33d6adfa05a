"""How are steps run? Batch after batch, with progress, metrics on disk, and a stop at NaN.

The host never waits for the step it has just started. It looks at each step's loss when `LAG`
later ones are under way: the device stays busy, and a NaN is still seen within `LAG` steps.
"""

import collections
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

import jax

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.train.metrics import MetricsWriter
from lorax.train.progress import progress
from lorax.train.step import Base, State, Step

LAG = 2
"""Steps in flight behind the newest."""

WATCHED = ("loss", "l2_grads")
"""Metrics that must be finite in every step."""

Evaluate = Callable[[State], Mapping[str, Any]]


class NotFinite(LoraxError):
    """A loss or a gradient became NaN or infinite: training cannot go on."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train and what to report.

    Attributes:
      steps: updates to make.
      label: of the progress display and of every record, as `run`.
      log_every: steps between records of the training metrics; the last step has one too.
      eval_every: steps between evaluations, 0 for none but the last.
      stream: of the progress display; None means standard error.
    """

    steps: int
    label: str = "train"
    log_every: int = 10
    eval_every: int = 0
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
      metrics: of the last step, on the host.
      seconds_per_step: the median time from one finished step to the next, compilation and
        evaluation excluded; NaN below 3 steps.
    """

    state: State
    metrics: dict[str, float]
    seconds_per_step: float


def train(
    step: Step,
    state: State,
    base: Base,
    batches: Iterable[Any],
    plan: Plan,
    *,
    writer: MetricsWriter | None = None,
    evaluate: Evaluate | None = None,
) -> Outcome:
    """`plan.steps` updates of `state`, which is donated.

    Args:
      step: from `make_step`.
      state: before the first step.
      base: the frozen parameters, arguments of every step.
      batches: at least `plan.steps` of them.
      plan: length and reports.
      writer: gets a record `{run, step, kind: "train", loss, ...}` every `log_every` steps and one
        with kind "eval" and the numbers of `evaluate` at every evaluation.
      evaluate: from a state to numbers; it must not keep the state's arrays.

    Raises:
      NotFinite: a loss or gradient norm that is not a finite number, naming the step. Records
        written until then stay, and one more tells of that step.
      LoraxError: the batches ran out, or the metrics cannot be written.
      LoraxTypeError: `state` is no `State`, or `plan` no `Plan`.
    """
    _check_types(state, plan)
    run = _Run(plan, writer)
    source = iter(batches)
    with progress(plan.label, plan.steps, plan.stream) as report:
        for number in range(1, plan.steps + 1):
            batch = next(source, None)
            if batch is None:
                raise LoraxError(
                    f"batches ran out after {number - 1} of {plan.steps} steps: lower steps, or "
                    "give batches that repeat"
                )
            state, metrics = step(state, base, batch)
            run.started(number, metrics)
            report(number, run.text)
            if evaluate is not None and _due(number, plan.eval_every, plan.steps):
                run.settle()
                run.evaluated(number, evaluate(state))
        run.settle()
        report(plan.steps, run.text)
    return Outcome(state, run.last, run.seconds_per_step())


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
    """The steps in flight, and what is known of those that have finished."""

    def __init__(self, plan: Plan, writer: MetricsWriter | None):
        self.plan, self.writer = plan, writer
        self.pending: collections.deque[tuple[int, Any]] = collections.deque()
        self.text, self.last = "", dict[str, float]()
        self.times: list[float] = []
        self.finished: float | None = None  # when the last step did; None after a pause

    def started(self, number: int, metrics: Any) -> None:
        self.pending.append((number, metrics))
        if len(self.pending) > LAG:
            self._finish()

    def settle(self) -> None:
        """Waits for every step in flight."""
        while self.pending:
            self._finish()

    def evaluated(self, number: int, numbers: Mapping[str, Any]) -> None:
        self._write(number, "eval", numbers)
        self.finished = None

    def seconds_per_step(self) -> float:
        return statistics.median(self.times) if self.times else math.nan

    def _finish(self) -> None:
        number, metrics = self.pending.popleft()
        values = jax.device_get([metrics[name] for name in WATCHED])
        watched = dict(zip(WATCHED, values, strict=True))
        now = time.perf_counter()
        if self.finished is not None:
            self.times.append(now - self.finished)
        self.finished = now
        bad = [name for name, value in watched.items() if not math.isfinite(value)]
        if bad or _due(number, self.plan.log_every, self.plan.steps):
            self.last = {name: float(value) for name, value in jax.device_get(metrics).items()}
            extra = {} if not self.times else {"step_time_sec": self.seconds_per_step()}
            self._write(number, "train", self.last | extra)
        if bad:
            raise NotFinite(_diagnosis(self.plan.label, number, watched))
        self.text = f"loss {float(watched['loss']):.3f}"

    def _write(self, number: int, kind: str, numbers: Mapping[str, Any]) -> None:
        if self.writer is not None:
            self.writer.write(run=self.plan.label, step=number, kind=kind, **numbers)


def _due(number: int, every: int, last: int) -> bool:
    return number == last or (every > 0 and number % every == 0)


def _diagnosis(label: str, number: int, watched: Mapping[str, Any]) -> str:
    seen = ", ".join(f"{name} is {float(value)}" for name, value in watched.items())
    cure = (
        "look at the data and the base, which give this before any update"
        if number == 1
        else "lower the learning rate or lengthen its warm-up"
    )
    return f"{label}: training stopped at step {number}, where {seen}: {cure}"
