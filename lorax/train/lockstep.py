"""How are the units of a pack run? All by one step at a time, each told and saved as if alone.

As in `lorax.train.loop`, the host looks at the numbers of a step when `LAG` later ones are under
way. A unit that is at its end, or became NaN, waits while the others go on; so does one that is
ahead, until they are where it is: then the rows of all batches of a step are equally long.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from lorax.train.gradients import Base
from lorax.train.loop import LAG, Evaluate, Moment, Outcome, Plan, Save, next_batch
from lorax.train.metrics import Writer
from lorax.train.packed import Numbers, PackedStep
from lorax.train.progress import progress
from lorax.train.records import WATCHED, NotFinite, Recorder, due
from lorax.train.stacks import cut, take
from lorax.train.step import State
from lorax.train.stop import Stop, Stopped


@dataclasses.dataclass(frozen=True)
class Lane:
    """One unit of a pack, as `lorax.train.loop.train` takes it.

    Attributes:
      plan: its length and reports; `stream` is not used.
      batches: one for each step that is left.
      like: the shapes of its own state, without the padding.
      writer, evaluate, save: as for `train`; the state they get is the unit's own, on the host.
    """

    plan: Plan
    batches: Iterator[Any]
    like: State
    writer: Writer | None = None
    evaluate: Evaluate | None = None
    save: Save | None = None


class Run(NamedTuple):
    """How a unit ended.

    Attributes:
      outcome: as of `train`; the state is on the host, the last finite one where it failed.
      failure: what stopped it, or None.
    """

    outcome: Outcome
    failure: NotFinite | None


def train_packed(
    step: PackedStep,
    states: State,
    numbers: Numbers,
    base: Base,
    lanes: Sequence[Lane],
    *,
    label: str = "units",
    stop: Stop | None = None,
    stream: TextIO | None = None,
) -> list[Run]:
    """Updates of the stacked `states`, which are donated, until every unit is at its end.

    Args:
      step: from `make_packed_step`; gets host arrays stacked from the units' batches.
      states: padded and stacked; each goes on from its own step.
      numbers: of the units, stacked.
      base: the frozen parameters.
      lanes: the units, in the order of the stack. There may be fewer than places in the stack: the
        places behind them stay as they are.
      label: of the progress display.
      stop: as for `train`; every unit is saved before `Stopped` is raised.
      stream: of the progress display; None means standard error.

    Returns:
      The end of each unit. One whose loss or gradient became NaN has a failure; nothing is raised.

    Raises:
      Stopped: `stop` asked for it; the states were saved.
      LoraxError: batches ran out, or records or checkpoints cannot be written.
    """
    pack = _Pack(step, states, numbers, base, lanes, stop, label)
    pending = {i for i, lane in enumerate(lanes) if lane.plan.pending}
    pack.pause(pending, pending)
    total = sum(lane.plan.steps for lane in lanes)
    with progress(label, total, stream) as report:
        while pack.going:
            moved = pack.advance()
            report(sum(pack.at), pack.text)
            measured = {i for i in moved if pack.is_due(i, lanes[i].plan.eval_every)}
            saved = {i for i in moved if pack.is_due(i, lanes[i].plan.save_every)}
            pack.pause(saved | measured, measured)
        pack.settle()
        report(total, pack.text)
    return pack.ends()


class _Pack:
    """The units on their way: where each is, what of them is in flight, what is told of them."""

    def __init__(
        self,
        step: PackedStep,
        states: State,
        numbers: Numbers,
        base: Base,
        lanes: Sequence[Lane],
        stop: Stop | None,
        label: str,
    ):
        self.step, self.states, self.numbers, self.base = step, states, numbers, base
        self.lanes, self.stop, self.label = lanes, stop, label
        counts = np.asarray(states.step)
        self.places = len(counts)
        self.at = [int(count) for count in counts[: len(lanes)]]
        self.records = [
            Recorder(lane.plan.label, lane.plan.steps, lane.plan.log_every, lane.writer)
            for lane in lanes
        ]
        self.failures: list[NotFinite | None] = [None] * len(lanes)
        self.unsaved: set[int] = set()  # units that moved since they were saved
        self.flying: collections.deque[tuple[dict[int, int], Any]] = collections.deque()

    @property
    def going(self) -> bool:
        """Whether some unit has steps left."""
        return any(map(self._goes, range(len(self.lanes))))

    @property
    def text(self) -> str:
        """For the progress display."""
        failed = sum(failure is not None for failure in self.failures)
        texts = [r.text for r, f in zip(self.records, self.failures, strict=True) if f is None]
        value = lambda text: float(text.split()[-1])
        lowest = min((text for text in texts if text), default="", key=value)
        return f"lowest {lowest}{f', {failed} failed' if failed else ''}" if lowest else ""

    def is_due(self, i: int, every: int) -> bool:
        """Whether unit i has something to do after the step it is at."""
        return due(self.at[i], every, self.lanes[i].plan.steps)

    def advance(self) -> set[int]:
        """One step of those units that have made fewest; which they are."""
        going = [i for i in range(len(self.lanes)) if self._goes(i)]
        lowest = min(self.at[i] for i in going)
        moving = {i for i in going if self.at[i] == lowest}
        begun = time.perf_counter()
        batches = {
            i: next_batch(self.lanes[i].batches, lowest + 1, self.lanes[i].plan.steps)
            for i in sorted(moving)
        }
        waited = time.perf_counter() - begun
        active = np.zeros(self.places, bool)
        for i in moving:
            active[i] = True
            self.at[i] += 1
            self.records[i].waited += waited
        self.states, metrics = self.step(
            self.states, self.numbers, active, self.base, self._stacked(batches)
        )
        self.unsaved |= moving
        self.flying.append(({i: self.at[i] for i in moving}, metrics))
        if len(self.flying) > LAG:
            self._finish()
        return moving

    def settle(self) -> None:
        """Waits for every step in flight."""
        while self.flying:
            self._finish()

    def pause(self, lanes: set[int], measured: set[int]) -> None:
        """Between two steps: units are measured and saved; all that moved, if the end is asked."""
        signum = None if self.stop is None else self.stop.signum
        if not lanes and signum is None:
            return
        self.settle()
        host, stopped = self._host(), None
        for i in sorted(lanes):
            if self.failures[i] is None:
                stopped = self._measure(i, self._own(host, i), i in measured, stopped)
        if stopped is None and signum is not None:
            stopped = Stopped(signum, self._where)
        if stopped is not None:
            for i in sorted(self.unsaved - lanes):
                if self.failures[i] is None:
                    self._save(i, self._own(host, i), Moment(self.at[i], None, False))
            raise stopped
        for records in self.records:
            records.rest()

    def ends(self) -> list[Run]:
        """What became of the units."""
        host = self._host()
        return [
            Run(
                Outcome(self._own(host, i), r.last, r.seconds_per_step(), r.wait_share()),
                self.failures[i],
            )
            for i, r in enumerate(self.records)
        ]

    @property
    def _where(self) -> str:
        return f"after {sum(self.at)} steps of {self.label}"

    def _goes(self, i: int) -> bool:
        return self.failures[i] is None and self.at[i] < self.lanes[i].plan.steps

    def _stacked(self, batches: Mapping[int, Any]) -> Any:
        """A batch for every place; one that stands still gets that of another."""
        any_one = next(iter(batches.values()))
        filled = [batches.get(i, any_one) for i in range(self.places)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *filled)

    def _finish(self) -> None:
        moved, metrics = self.flying.popleft()
        values = jax.device_get([metrics[name] for name in WATCHED])
        watched = dict(zip(WATCHED, values, strict=True))
        whole = functools.cache(lambda: jax.device_get(metrics))
        for i, number in moved.items():
            if self.failures[i] is not None:
                continue
            of_unit = functools.partial(_entries, whole, i)
            try:
                self.records[i].finished(
                    number, _entries(lambda: watched, i), of_unit, share=len(moved)
                )
            except NotFinite as failure:
                self.failures[i] = failure

    def _measure(
        self, i: int, state: State, wanted: bool, stopped: Stopped | None
    ) -> Stopped | None:
        """Unit i is measured, unless the end was asked for, and saved; why it stopped, if so."""
        lane, numbers = self.lanes[i], None
        wanted = wanted and lane.evaluate is not None
        if wanted and stopped is None:
            try:
                if self.stop is not None:
                    self.stop.check(self._where)
                numbers = lane.evaluate(state)  # type: ignore[misc]
                self.records[i].evaluated(self.at[i], numbers)
            except Stopped as reason:
                stopped = Stopped(reason.signum, self._where)
        self._save(i, state, Moment(self.at[i], numbers, wanted and numbers is None))
        return stopped

    def _save(self, i: int, state: State, moment: Moment) -> None:
        save = self.lanes[i].save
        self.unsaved.discard(i)
        if save is not None:
            save(state, moment)

    def _host(self) -> State:
        """All states on the host, keys apart."""
        delta, opt_state, count = jax.device_get(
            (self.states.delta, self.states.opt_state, self.states.step)
        )
        return State(delta, opt_state, count, self.states.key)

    def _own(self, host: State, i: int) -> State:
        return cut(take(host, i), self.lanes[i].like)


def _entries(metrics: Callable[[], Mapping[str, Any]], i: int) -> dict[str, Any]:
    """What of stacked metrics is unit i's."""
    return {name: values[i] for name, values in metrics().items()}
