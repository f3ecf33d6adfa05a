"""What is told of a training while it goes on? Its records, its pace, and the end at NaN."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from lorax.core.errors import LoraxError
from lorax.train.metrics import Writer

WATCHED = ("loss", "l2_grads")
"""Metrics that must be finite in every step."""

RECENT = 100
"""Steps whose median is the time of a step, in the records."""

Numbers = Mapping[str, Any]


class NotFinite(LoraxError):
    """A loss or a gradient became NaN or infinite: training cannot go on."""


class Recorder:
    """The finished steps of one training.

    Args:
      label: of every record, as `run`.
      steps: of the whole run.
      log_every: steps between records; the last step has one too.
      writer: gets the records; None for none.

    Attributes:
      text: the newest loss, for a progress display.
      last: metrics of the step that was recorded last, on the host; empty before.
      waited: seconds in which batches were waited for since the step that finished last.
    """

    def __init__(self, label: str, steps: int, log_every: int, writer: Writer | None):
        self.label, self.steps, self.log_every, self.writer = label, steps, log_every, writer
        self.text, self.last, self.waited = "", dict[str, float](), 0.0
        self._times: list[float] = []
        self._waits: list[float] = []
        self._finished: float | None = None  # when the last step did; None after a pause

    def finished(
        self,
        number: int,
        watched: Mapping[str, Any],
        metrics: Callable[[], Mapping[str, Any]],
        share: int = 1,
    ) -> None:
        """Step `number` has ended.

        Args:
          number: of the step, from 1.
          watched: its metrics `WATCHED`, on the host.
          metrics: gives all of them, on the host; called where they are recorded.
          share: trainings that the device did in this time, this one among them.

        Raises:
          NotFinite: a watched metric is no finite number; a record tells of the step.
        """
        now = time.perf_counter()
        if self._finished is not None:
            self._times.append((now - self._finished) / share)
            self._waits.append(self.waited / share)
        self._finished, self.waited = now, 0.0
        bad = [name for name, value in watched.items() if not math.isfinite(value)]
        if bad or due(number, self.log_every, self.steps):
            self.last = {name: float(value) for name, value in metrics().items()}
            extra = {} if not self._times else {"step_time_sec": self.seconds_per_step(RECENT)}
            self._write(number, "train", self.last | extra)
        if bad:
            raise NotFinite(_diagnosis(self.label, number, watched))
        self.text = f"loss {float(watched['loss']):.3f}"

    def evaluated(self, number: int, numbers: Numbers) -> None:
        """A record of held-out numbers after step `number`."""
        self._write(number, "eval", numbers)

    def rest(self) -> None:
        """What comes before the next step is no part of its time."""
        self._finished = None

    def seconds_per_step(self, recent: int = 0) -> float:
        """The median, of all steps or of the newest; NaN where none has a time."""
        return statistics.median(self._times[-recent:]) if self._times else math.nan

    def wait_share(self) -> float:
        """The share of the time in which the next batch was waited for; NaN without a time."""
        return sum(self._waits) / sum(self._times) if self._times else math.nan

    def _write(self, number: int, kind: str, numbers: Numbers) -> None:
        if self.writer is not None:
            self.writer.write(run=self.label, step=number, kind=kind, **numbers)


def due(number: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps, and at the last, happens at this one."""
    return number == last or (every > 0 and number % every == 0)


def _diagnosis(label: str, number: int, watched: Mapping[str, Any]) -> str:
    seen = ", ".join(f"{name} is {float(value)}" for name, value in watched.items())
    cure = (
        "look at the data and the base, which give this before any update"
        if number == 1
        else "lower the learning rate or lengthen its warm-up"
    )
    return f"{label}: training stopped at step {number}, where {seen}: {cure}"
