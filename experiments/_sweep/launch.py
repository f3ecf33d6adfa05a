"""How are the units of a sweep trained in several processes? As tasks that a launcher starts.

A task is the verb itself on some of the units, in a process of its own:

    python -m experiments.sweep --config=... --workdir=DIR --only=DIR/tasks/000.json

One that ends before its units do is started again, and goes on from what they saved. A launcher
(`local`, `slurm` or `ray`, each in a file of its own) only starts tasks, and tells their ends.
"""

import collections
import contextlib
import importlib
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from experiments._cli import UsageError, nearest
from experiments._sweep import launch_local, worker
from experiments._sweep.tasks import Task, units, wording
from lorax.core.errors import LoraxError, check_choice
from lorax.train.stop import Stop

LAUNCHERS = ("local", "slurm", "ray")
COMMAND = (sys.executable, "-m", "experiments.sweep")
PAUSE = 0.2
"""Seconds between looks at the tasks."""


class Job(Protocol):
    """A task that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None as long as it runs."""

    def stop(self) -> None:
        """Asks it to save and end; a second time, to end at once."""


class Launcher(Protocol):
    """Starts tasks; `width` of them at a time."""

    width: int

    def start(self, tasks: Sequence[Task]) -> Sequence[Job]:
        """Starts some tasks together, or queues them."""


def check(name: str, options: Mapping[str, str]) -> None:
    """To be called before anything is written.

    Raises:
      UsageError: no such launcher.
      LoraxError: it is not installed, or has no such option.
    """
    try:
        check_choice("--launcher", name, LAUNCHERS)
    except LoraxError as error:
        raise UsageError(str(error)) from None
    known = _module(name).OPTIONS
    for option in options:
        if known is not None and option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise LoraxError(
                f"--launcher={name} has no option '{option}'{nearest(option, list(known))}: {has}"
            )
    _module(name).check(options)


def leave_devices() -> None:
    """Has JAX run on the CPU in this process, so that accelerators are left to the workers.

    To be called before JAX is used: a GPU's memory, or a TPU, goes to the first that asks for it.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")


def at_a_time(name: str, workers: int) -> int:
    """How many tasks a launcher runs at a time; 0 where that is its own affair.

    Args:
      name: of the launcher.
      workers: as asked for; 0 where nothing was.
    """
    return launch_local.workers() if name == "local" and not workers else workers


def split(programs: Sequence[Sequence[Any]], workers: int) -> list[list[str]]:
    """Names of units as tasks of about equal size, the largest first; none mixes programs.

    Args:
      programs: units that share a compiled program, a list a program.
      workers: how many tasks run at a time; 0 for one task a program.
    """
    total = sum(map(len, programs))
    most = math.ceil(total / workers) if workers > 0 else total
    tasks = []
    for program in programs:
        names = [unit.name for unit in program]
        parts = math.ceil(len(names) / most) if names else 0
        cuts = [len(names) * part // parts for part in range(parts + 1)] if parts else []
        tasks += [names[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return sorted(tasks, key=len, reverse=True)


def launch(
    name: str,
    tasks: Sequence[Sequence[str]],
    argv: Sequence[str],
    folder: pathlib.Path,
    *,
    workers: int = 0,
    options: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
    stop: Stop,
    command: Sequence[str] = COMMAND,
) -> None:
    """Trains every unit of `tasks` that has no result yet, in processes of a launcher.

    Args:
      name: of the launcher.
      tasks: names of units, a list a process.
      argv: arguments of `command`, which is also given --only=FILE with a JSON list of names.
      folder: of the sweep, with the units in `units/NAME`; lists and logs go to `tasks/`.
      workers: how many tasks run at a time; 0 leaves that to the launcher.
      options: of the launcher.
      say: is told what happens, line by line.
      stop: asked between looks at the tasks.
      command: that of the verb.

    Raises:
      LoraxError: units are left, of a user's mistake or of a worker that is killed again and
        again; all others are done.
      Stopped: a signal came, and the workers have saved and ended.
    """
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    verb = (*command, *argv)
    todo = [Task(number, units, folder, verb) for number, units in enumerate(tasks)]
    todo = [task for task in todo if task.left()]
    if not todo:
        return
    options = dict(options or {})
    check(name, options)
    _await_others(folder / "tasks", say)
    stop.where = "while workers were at work"
    with _module(name).opened(folder / "tasks", workers, options) as launcher:
        width = min(launcher.width, len(todo))
        left = sum(len(task.left()) for task in todo)
        some = f", {width} at a time" if width < len(todo) else ""
        say(f"{units(left)} in {len(todo)} tasks{some}; logs: {folder / 'tasks'}")
        with stop.deferred():
            _Crew(launcher, todo, say).work(stop)


def _await_others(folder: pathlib.Path, say: Callable[[str], None]) -> None:
    """Waits until the workers of an earlier launcher, which was killed, have saved and ended."""
    busy = [log for log in sorted(folder.glob("*.log")) if worker.is_busy(log)]
    if busy:
        say(f"waiting for {len(busy)} workers of an earlier command to end: {busy[0]}")
    while any(map(worker.is_busy, busy)):
        time.sleep(PAUSE)


def _module(name: str) -> Any:
    """The file of a launcher, which has OPTIONS, `check` and `opened`."""
    return importlib.import_module(f"experiments._sweep.launch_{name}")


class _Crew:
    """The tasks that wait, those that run, and what is wrong with those that were given up."""

    def __init__(self, launcher: Launcher, tasks: Sequence[Task], say: Callable[[str], None]):
        self.launcher, self.say = launcher, say
        self.all, self.waiting = tuple(tasks), collections.deque(tasks)
        self.running: dict[Task, Job] = {}
        self.lost: dict[Task, str] = {}

    def work(self, stop: Stop) -> None:
        with self._stopped_on_error():
            while self.waiting or self.running:
                if stop.requested():
                    self._end()
                    stop.check(f"with {units(self._left())} left")
                self._start()
                time.sleep(PAUSE)
                self._settle()
        if self.lost:
            raise LoraxError(self._complaint())

    def _start(self) -> None:
        free = self.launcher.width - len(self.running)
        tasks = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        for task in tasks:
            task.prepare()
        if tasks:
            self.running.update(zip(tasks, self.launcher.start(tasks), strict=True))

    def _settle(self) -> None:
        for task, job in list(self.running.items()):
            code = job.poll()
            if code is None:
                continue
            del self.running[task]
            left = len(task.left())
            if left and (reason := task.ended(code)):
                self.lost[task] = reason
                self.say(f"task {task.name}: {reason}")
            elif left:
                self.say(f"task {task.name} {wording(code)}: resumed with {units(left)}")
                self.waiting.append(task)
            else:
                self.say(f"task {task.name} is done; {units(self._left())} left")

    def _left(self) -> int:
        return sum(len(task.left()) for task in self.all)

    def _end(self) -> None:
        """Has every task that runs save, and waits for it."""
        if self.running:
            self.say(f"stopping {len(self.running)} workers, which save first")
        for job in self.running.values():
            job.stop()
        while any(job.poll() is None for job in self.running.values()):
            time.sleep(PAUSE)
        self.running.clear()

    @contextlib.contextmanager
    def _stopped_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # a second signal, which does not wait, among others
            for job in self.running.values():
                with contextlib.suppress(Exception):
                    job.stop()
            raise

    def _complaint(self) -> str:
        task, reason = next(iter(self.lost.items()))
        left = sum(len(task.left()) for task in self.lost)
        more = f" (and {len(self.lost) - 1} tasks like it)" if len(self.lost) > 1 else ""
        return (
            f"{units(left)} left, of task {task.name}{more}: {reason}; see {task.log}, and run "
            "the same command again"
        )
