"""How far is it? A bar on a terminal, a plain line now and then everywhere else."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import jax

Report = Callable[[int, str], None]

PLAIN_EVERY = 10.0
"""Seconds between plain lines."""


@contextlib.contextmanager
def progress(label: str, total: int, stream: TextIO | None = None) -> Iterator[Report]:
    """A context that yields `report(done, text)`, to be called after every step.

    Only process 0 shows anything.

    Args:
      label: what is going on.
      total: steps.
      stream: where to write; None means standard error. A terminal gets a bar, if `rich` is
        installed (`pip install 'lorax-flax[experiments]'`), and anything else a line when the
        work begins to take long and one at the end.
    """
    if jax.process_index() != 0:
        yield lambda done, text: None
        return
    stream = sys.stderr if stream is None else stream
    bar = _bar(label, total, stream) if stream.isatty() else None
    with bar or _lines(label, total, stream) as report:
        yield report


def _bar(
    label: str, total: int, stream: TextIO
) -> contextlib.AbstractContextManager[Report] | None:
    try:
        from rich import console
        from rich import progress as rich_progress
    except ImportError:
        return None

    @contextlib.contextmanager
    def shown() -> Iterator[Report]:
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=30),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeRemainingColumn(elapsed_when_finished=True),
            rich_progress.TextColumn("{task.fields[text]}"),
        )
        with rich_progress.Progress(*columns, console=console.Console(file=stream)) as bar:
            task = bar.add_task(label, total=total, text="")
            yield lambda done, text: bar.update(task, completed=done, text=text)

    return shown()


@contextlib.contextmanager
def _lines(label: str, total: int, stream: TextIO) -> Iterator[Report]:
    last, seen, start = time.monotonic(), (0, ""), time.monotonic()

    def report(done: int, text: str) -> None:
        nonlocal last, seen
        seen = (done, text)
        if time.monotonic() - last >= PLAIN_EVERY and done < total:
            last = time.monotonic()
            print(f"{label}  {done}/{total}  {text}", file=stream, flush=True)

    yield report
    done, text = seen
    took = time.monotonic() - start
    print(f"{label}  {done}/{total}  {text}  {took:.0f} s", file=stream, flush=True)
