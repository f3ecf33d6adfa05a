"""How do batches reach the training loop? By step number, and read ahead by grain.

A batch is a function of its step, so all that a stopped run must remember is the step's number;
threads and worker processes only compute ahead of it.
"""

import dataclasses
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection, parent_process
from types import ModuleType
from typing import Any

from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.data.collate import collate
from lorax.data.example import Example
from lorax.data.order import Order, describe


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Examples in an order, as batches: `pipeline[step]`, or one after the other.

    Attributes:
      examples: all of them; anything with a length that can be indexed.
      order: which of them make up which step.
      pad: the token of padding.
      process: (index, count) of the processes that share a step. Process p of n gets the p-th of n
        equal blocks of its rows, which is the part that `jax.make_array_from_process_local_data`
        puts back in place: the global array is the same, row for row, for every n.
      workers: processes that prepare batches; 0 for a thread of this one, which is enough where
        examples are in memory. Each starts with a copy of them all. They are spawned, so a script
        that asks for them needs its `if __name__ == "__main__":`.
      prefetch: batches that are ready ahead of time, for each worker; 0 for none.
    """

    examples: Sequence[Example]
    order: Order
    pad: int = 0
    process: tuple[int, int] = (0, 1)
    workers: int = 0
    prefetch: int = 4

    def __post_init__(self) -> None:
        """Raises LoraxError where order, examples and processes do not fit each other."""
        if len(self.examples) != self.order.examples:
            raise LoraxError(
                f"the order is of {self.order.examples} examples, but there are "
                f"{len(self.examples)}: make it from the same data"
            )
        index, count = self.process
        if not 0 <= index < count:
            raise LoraxError(f"process is {self.process}: expected (index, count), index < count")
        if self.order.batch % count:
            raise LoraxError(
                f"a batch of {self.order.batch} cannot be split evenly over {count} processes: "
                f"make it a multiple of {count}"
            )
        if self.workers < 0 or self.prefetch < (1 if self.workers else 0):
            raise LoraxError(
                f"workers is {self.workers} and prefetch {self.prefetch}: expected 0 or more, and "
                "with workers at least 1 batch ahead"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example comes once."""
        return self.order.steps_per_epoch

    def __len__(self) -> int:
        """The same; training orders can be asked for later steps, which are of later epochs."""
        return self.steps_per_epoch

    def __getitem__(self, step: int) -> Batch:
        """This process's rows of a step, counted from 0; an IndexError for one there is not."""
        index, count = self.process
        share = self.order.batch // count
        rows = self.order.rows(step)[index * share : (index + 1) * share]
        return collate(
            [[self.examples[i] for i in row] for row in rows],
            self.order.length(step),
            like=self._like,
            pad=self.pad,
            packed=self.order.packed,
        )

    @functools.cached_property
    def _like(self) -> Example:
        """Read once: examples may be computed when they are asked for."""
        return self.examples[0]

    def __iter__(self) -> "Batches":
        """All steps, from the first; without end if the order has none."""
        return self.batches()

    def batches(self, start: int = 0, stop: int | None = None) -> "Batches":
        """Steps `start`, `start + 1`, ... before `stop`; None goes as far as the order does.

        Raises:
          LoraxError: grain, which reads ahead, is not installed.
        """
        return Batches(self, start, self.order.steps if stop is None else stop)


class Batches(Iterator[Batch]):
    """Consecutive steps of a pipeline, prepared ahead of time. Made by `Pipeline.batches`.

    Reading ahead begins at the first batch that is asked for. It ends with the last batch, with
    `close`, or at the end of a `with` block; a batch that is asked for later starts it again.

    Attributes:
      step: of the next batch.
      waited: seconds spent so far in waiting for batches.
    """

    def __init__(self, pipeline: Pipeline, start: int, stop: int | None):
        _grain()  # a second, and an error that should come before training begins
        self.step, self.waited = start, 0.0
        self._pipeline, self._stop = pipeline, stop
        self._ahead: Any = None  # grain's iterator

    def __next__(self) -> Batch:
        """The batch of `step`."""
        if self._stop is not None and self.step >= self._stop:
            self.close()
            raise StopIteration
        began = time.perf_counter()
        try:
            if self._ahead is None:
                stop = sys.maxsize if self._stop is None else self._stop
                self._ahead = _read_ahead(_Steps(self._pipeline, self.step, stop))
            batch = next(self._ahead)
        except BaseException:
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - began
        self.step += 1
        return batch

    def state(self) -> dict[str, Any]:
        """Where this is, ready for JSON; the same in every process, whatever the workers."""
        return {"next_step": self.step, "order": describe(self._pipeline.order)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken.

        Raises:
          LoraxError: the state is of another order: other data, another batch or seed.
        """
        now, then = describe(self._pipeline.order), state["order"]
        changed = [
            f"{name} {then.get(name, 'none')} -> {now.get(name, 'none')}"
            for name in {**then, **now}
            if then.get(name) != now.get(name)
        ]
        if changed:
            raise LoraxError(
                f"the data's order is not the one of the saved state ({', '.join(changed)}): use "
                "the run's own data and config, or a new workdir"
            )
        self.close()
        self.step = state["next_step"]

    def close(self) -> None:
        """Ends reading ahead, with its threads and processes."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Steps from `start` on as grain's source of records, which counts from 0."""

    pipeline: Pipeline
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch:
        return self.pipeline[self.start + index]


def _read_ahead(steps: _Steps) -> Any:
    """grain's iterator over those steps."""
    grain = _grain()
    ahead, workers = steps.pipeline.prefetch, steps.pipeline.workers
    # one thread: examples need not be safe to read from several
    options = grain.ReadOptions(num_threads=min(ahead, 1), prefetch_buffer_size=ahead)
    dataset = grain.MapDataset.source(steps).to_iter_dataset(options)
    if workers:
        _parse_flags()
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=ahead)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_begin_worker)
    return iter(dataset)


def _grain() -> ModuleType:
    try:
        import grain
    except ImportError:
        raise LoraxError(
            "reading batches ahead needs grain: pip install 'lorax-flax[data]'"
        ) from None
    return grain


def _parse_flags() -> None:
    """Lets grain's workers read its own absl flags in a program that has none."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _begin_worker(index: int, count: int) -> None:
    """Leaves signals to the parent, which saves and then ends its workers; never outlives it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
