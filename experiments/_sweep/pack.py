"""How are the units of a sweep trained? Program by program, pack by pack, each in its own folder.

What a unit leaves is what `experiments.train` would leave in that folder, but for the report.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments import _workdir
from experiments._cli import Call
from experiments._sweep import rows, tune
from experiments._sweep.program import programs
from experiments._sweep.shared import Member, Shared
from experiments._sweep.units import Unit
from experiments._train import run, training
from lorax.core.errors import LoraxError
from lorax.train.lockstep import Lane, Run, train_packed
from lorax.train.metrics import read_metrics
from lorax.train.stacks import pad, stack
from lorax.train.step import State
from lorax.train.stop import Stop

Say = Callable[[str], None]


def run_units(
    units: Sequence[Unit],
    folder: pathlib.Path,
    stop: Stop,
    *,
    pack: int = 0,
    memory: float = 0.0,
    say: Say = print,
) -> None:
    """Trains every unit that is not at its end yet, or goes on with it.

    Args:
      units: of a sweep.
      folder: of the sweep; a unit's is <folder>/units/<name>, a base that is trained first goes to
        <folder>/bases.
      stop: asked between steps.
      pack: the most units of a program at once; 0 leaves it to memory and `tune.MOST`.
      memory: GiB that a program may take; 0 for what the device has.
      say: told what goes on.

    Raises:
      Stopped: a signal came; what was done is saved.
      LoraxError: a user's mistake, or a disk that refuses; everything saved stays.
    """
    devices = jax.local_device_count()
    if devices > 1 and jax.default_backend() != "cpu":  # those of a CPU are parts of it
        say(f"Using 1 of {devices} devices: --launcher=local --workers={devices} shares the units.")
    done = len(units) - len(rows.left(folder, units))
    for group in programs(units):
        left = rows.left(folder, group)
        if not left:
            continue
        shared = Shared(left, folder, stop, say)
        packs = _Packs(shared, folder, stop, memory, say, len(units))
        done = packs.run(left, tune.units_of(len(left), pack), done)


class _TooLarge(Exception):
    """A pack takes more memory than there is."""


class _Packs:
    """The packs of one program, one after the other."""

    def __init__(
        self, shared: Shared, folder: pathlib.Path, stop: Stop, memory: float, say: Say, total: int
    ):
        self.shared, self.folder, self.stop = shared, folder, stop
        self.limit, self.told = tune.limit(memory), bool(memory)
        self.say, self.total = say, total
        self.program: tune.Program | None = None

    def run(self, units: Sequence[Unit], size: int, done: int) -> int:
        """Trains units, `size` at a time, or fewer where these do not fit; how many are done."""
        queue = list(units)
        while queue:
            now = queue[:size]
            try:
                self._run(now, size, done, queue)
            except _TooLarge as reason:
                size = self._smaller(size, reason)
                continue
            queue, done = queue[size:], done + len(now)
        return done

    def _smaller(self, size: int, reason: _TooLarge) -> int:
        if size == 1:
            raise LoraxError(
                f"one unit does not fit ({reason}): {'raise --memory, ' if self.told else ''}lower "
                "train.batch or data.length, raise train.accumulate, or set model.remat"
            )
        self.program, half = None, -(-size // 2)
        self.say(f"A pack of {size} units does not fit ({reason}): split into packs of {half}.")
        return half

    def _run(self, units: Sequence[Unit], size: int, done: int, queue: Sequence[Unit]) -> None:
        with contextlib.ExitStack() as files:
            members = [self._member(unit, files) for unit in units]
            opened = [
                files.enter_context(training.opened(m.job, m.state, self.shared.mark, _silent))
                for m in members
            ]
            packed = self._packed(members, opened, size)
            if self.program is None:
                self.program = self._compiled(packed, size, -(-len(queue) // size))
            lanes = [self._lane(m, one) for m, one in zip(members, opened, strict=True)]
            label = f"units {done + 1} to {done + len(units)} of {self.total}"
            with self.stop.deferred(), _out_of_memory():
                runs = train_packed(
                    self.program, packed[0], packed[1], self.shared.base, lanes,
                    label=label, stop=self.stop,
                )  # fmt: skip
            self.stop.where = f"after the last step of {label}"
            for i, (member, one, ended) in enumerate(zip(members, opened, runs, strict=True), 1):
                self._finish(member, one, ended, f"[{done + i}/{self.total}] {member.unit.name}")

    def _member(self, unit: Unit, files: contextlib.ExitStack) -> Member:
        """A unit whose folder is held as long as `files` is open."""
        place = rows.folder(self.folder, unit.name)
        call = Call(unit.config, dict(unit.overrides), place, unit.name)
        files.enter_context(_workdir.entered(call, resume=True))
        self.shared.link(place)
        return self.shared.member(unit, place)

    def _packed(
        self, members: Sequence[Member], opened: Sequence[training.Opened], size: int
    ) -> tuple[State, Any]:
        """States and numbers, padded and stacked; places that are left over get those of a unit."""
        shared = self.shared
        states = [pad(_on_host(one.state), shared.state_shapes) for one in opened]
        numbers = [pad(jax.device_get(m.numbers), shared.number_shapes) for m in members]
        spare = tune.places(size) - len(members)
        return stack(states + states[:1] * spare), stack(numbers + numbers[:1] * spare)

    def _compiled(self, packed: tuple[State, Any], size: int, packs: int) -> tune.Program:
        """The program of all packs of this size, which is the fastest where that pays.

        Raises:
          _TooLarge: it needs more memory than there is.
        """
        shared, (states, numbers) = self.shared, packed
        pipeline = shared.setting.data.pipeline
        places = tune.places(size)
        longest = max(range(pipeline.order.steps_per_epoch), key=pipeline.order.length)
        batch = jax.tree.map(lambda x: np.stack([x] * places), pipeline[longest])
        arguments = states, numbers, np.ones(places, bool), shared.base, batch
        make = lambda width: tune.compiled(shared.step(width), width, arguments)
        with _out_of_memory():
            program = make(tune.first_width(places, shared.rows))
            if program.bytes > self.limit:
                needs, has = (f"{x / 2**30:.3g} GiB" for x in (program.bytes, self.limit))
                raise _TooLarge(f"it needs {needs} of {has}{' of --memory' * self.told}")
            steps = packs * shared.setting.steps
            best = tune.fastest(program, make, arguments, steps, self.limit)
        self.say(
            f"One program for packs of {size} units, {best.width} at a time: "
            f"{best.bytes / 2**30:.2g} GiB, compiled in {best.compiling:.0f} s."
        )
        return best

    def _lane(self, member: Member, opened: training.Opened) -> Lane:
        job = member.job

        def evaluate(state: State) -> Any:
            if not int(state.step) and not member.unit.config.adapter_from:
                return self.shared.before(member)
            return job.evaluate(self.shared.base, state.delta)

        return Lane(
            training.plan(job, opened.pending), opened.batches, member.state, opened.writer,
            evaluate, opened.save,
        )  # fmt: skip

    def _finish(self, member: Member, opened: training.Opened, ended: Run, label: str) -> None:
        """The end of one unit: its result and adapter and DONE; or FAILED."""
        place = member.job.workdir
        if ended.failure is not None:
            _workdir.write(place / "FAILED", f"{ended.failure}\n")
            return self.say(f"{label} failed: {ended.failure}")
        trained = training.ended(member.job, opened, ended.outcome, self.shared.base)
        self.stop.check()
        run.finish(member.setting, member.job, trained, self.stop)
        _workdir.finish(place)
        result = read_metrics(place / training.METRICS)[-1]
        shown = [f"{k} {v:.4f}" for k, v in result.items() if k.endswith("/loss") and v is not None]
        self.say(", ".join([label, *(text for text in shown if not text.startswith("base/"))]))


@contextlib.contextmanager
def _out_of_memory() -> Iterator[None]:
    """Turns the device's own refusal into a pack that is split."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _TooLarge("the device is out of memory") from None


def _on_host(state: State) -> State:
    """A state as arrays of numpy, but for its key."""
    delta, opt_state, step = jax.device_get((state.delta, state.opt_state, state.step))
    return State(delta, opt_state, step, state.key)


def _silent(text: str) -> None:
    """A pack tells of itself; each of its units need not."""
