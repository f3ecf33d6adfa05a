"""How does a run survive being killed? Checkpoints that are whole, checked, and written aside.

    directory/
      100/  200/     one checkpoint each, see `checkpoint_folder`
      300.corrupt/   a damaged one that was passed over: never deleted

A folder has a number for its name when all of it is on the disk, and not before.
"""

import concurrent.futures
import contextlib
import math
import os
import pathlib
import re
import uuid
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lorax.core.errors import LoraxError, check_choice
from lorax.io import arrays as store
from lorax.io import checkpoint_folder as disk
from lorax.io.atomic import Path, clear_leftovers, discard, lock
from lorax.io.named_tree import Tree, host_copies, named_leaves
from lorax.io.place import place

_STEP = re.compile(r"0|[1-9][0-9]*")
_NONE, _ALL_DAMAGED = -1, -2  # in place of a step, as a number for all processes


class Restored(NamedTuple):
    """What was read.

    Attributes:
      step: of the checkpoint.
      tree: as it was saved, bit for bit.
      info: as it was saved, as JSON gives it back.
      skipped: one line for each damaged checkpoint that was passed over, newest first.
    """

    step: int
    tree: Tree
    info: dict[str, Any]
    skipped: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run; a context manager.

    One `Checkpoints` at a time writes into a directory. Others, of this process or another, read
    what is there and are refused a save. What a killed writer left half-done is removed by the next
    one. With several processes the directory is shared, process 0 writes, and all call `latest`.

    Args:
      directory: made if it is missing.
      keep: how many of the newest stay; at least 1.
      best: a metric of `save`; the checkpoint with its best value stays too, the first among
        equals. "" for none.
      mode: "min" or "max", which value is best.

    Raises:
      LoraxError: an argument cannot work, or the disk refuses.
    """

    def __init__(self, directory: Path, *, keep: int = 2, best: str = "", mode: str = "min"):
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise LoraxError(f"keep is {keep!r}: expected an integer, at least 1")
        check_choice("mode", mode, ("min", "max"))
        self.directory = pathlib.Path(os.path.abspath(place(directory)))
        self._keep, self._best, self._sign = keep, best, 1 if mode == "min" else -1
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._release: weakref.finalize[..., Any] | None = None
        if jax.process_index() == 0:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                descriptor = lock(self.directory)
            except OSError as error:
                raise LoraxError(
                    f"cannot write '{self.directory}' ({store.reason(error)}): make the folder "
                    "writable, or choose another"
                ) from None
            if descriptor is not None:
                self._release = weakref.finalize(self, os.close, descriptor)
                clear_leftovers(self.directory)
                store.prepare()

    def save(
        self,
        step: int,
        tree: Tree,
        info: Mapping[str, Any],
        *,
        metrics: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> None:
        """Copies `tree` to the host and writes it in the background.

        The arrays may be donated at once. A save in flight is waited for first. A checkpoint of
        `step` that exists is replaced. Old ones are deleted when the new one is on the disk.

        Args:
          step: at least 0.
          tree: any pytree of arrays, typed PRNG keys included.
          info: whatever else the run needs, as JSON values.
          metrics: numbers by name, for `best`.
          wait: return when it is on the disk.

        Raises:
          LoraxError: the save before this one failed (this one is not begun then, unless it is
            waited for; the next call begins anew), the disk is too full, something cannot be
            saved, or another `Checkpoints` writes here. What was on the disk stays.
        """
        if not hasattr(step, "__index__") or step < 0:
            raise LoraxError(f"step is {step!r}: expected an integer, at least 0")
        try:
            self.wait()
        except LoraxError:
            if not wait:
                raise
        step = int(step)
        leaves = named_leaves(tree)
        copies = host_copies(leaves)
        said = disk.about(step, leaves, info, metrics or {})
        if jax.process_index() != 0:
            return
        if not self._writes():
            raise LoraxError(
                f"'{self.directory}' is written by another run, or closed: expected one writer; "
                "wait for it, or choose another directory"
            )
        try:
            store.check_space(self.directory, sum(copy.nbytes for copy in copies.values()))
        except OSError as error:
            raise self._unsaved(
                step, f"cannot write '{self.directory}' ({store.reason(error)}): free some space"
            ) from None
        self._pending = self._pool.submit(self._write, step, said, copies)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when no save is in flight; raises LoraxError once if the last one failed."""
        pending = self._pending
        if pending is not None:
            concurrent.futures.wait([pending])  # interrupted here, it is still pending
            self._pending = None
            pending.result()

    def close(self) -> None:
        """Waits, then lets others write; more than once is harmless. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            if self._release is not None:
                self._release()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except LoraxError as unsaved:
            if error is None:
                raise
            error.add_note(str(unsaved))

    def steps(self) -> list[int]:
        """Those with a checkpoint on the disk, sound or not, in order."""
        if not self.directory.is_dir():
            return []
        names = (entry.name for entry in self.directory.iterdir() if entry.is_dir())
        return sorted(int(name) for name in names if _STEP.fullmatch(name))

    def best_step(self) -> int | None:
        """The step with the best value of the metric `best`; None if none has one."""
        values = []
        for step in self.steps():
            with contextlib.suppress(store.Damaged, LoraxError):
                value = disk.read_about(self.directory / str(step))["metrics"].get(self._best)
                if value is not None and math.isfinite(value):
                    values.append((self._sign * value, step))
        return min(values)[1] if values else None

    def latest(self, like: Tree, expect: Mapping[str, Any] | None = None) -> Restored | None:
        """The newest checkpoint that is sound; None if there is none at all.

        A damaged one is passed over for the one before it, and renamed `<step>.corrupt`. With
        several processes it is process 0 that looks, for all.

        Args:
          like: a tree of the same form, of arrays or `ShapeDtypeStruct`s.
          expect: fields of `info` and the values they must have, nested as they are.

        Raises:
          LoraxError: the newest sound one differs from `expect` or does not fit `like`, and in
            what; or all are damaged.
        """
        step, skipped = self._newest_sound()
        if step is None:
            return None
        restored = self._restore(step, like, expect)
        return restored._replace(skipped=skipped)

    def restore(self, step: int, like: Tree) -> Restored:
        """The checkpoint of one step.

        Raises:
          LoraxError: there is none, it is damaged, or it does not fit `like`.
        """
        if step not in self.steps():
            raise LoraxError(
                f"'{self.directory}' has no checkpoint of step {step}: {self._there()}"
            )
        try:
            disk.check(self.directory / str(step))
        except store.Damaged as error:
            raise LoraxError(f"{_told(step, error)}: choose another: {self._there()}") from None
        return self._restore(step, like, None)

    def _writes(self) -> bool:
        return self._release is not None and self._release.alive

    def _write(self, step: int, said: disk.About, arrays: Mapping[str, np.ndarray]) -> None:
        """In the background: one checkpoint, and then the old ones that nobody wants."""
        try:
            disk.write(self.directory / str(step), said, arrays)
        except LoraxError as error:
            raise self._unsaved(step, str(error)) from None
        steps = self.steps()
        kept = {step, *steps[-self._keep :], self.best_step()}
        for old in steps:
            if old not in kept:
                discard(self.directory / str(old))

    def _unsaved(self, step: int, why: str) -> LoraxError:
        return LoraxError(f"step {step} was not saved: {why}; {self._there()}")

    def _there(self) -> str:
        steps = ", ".join(map(str, self.steps()))
        return f"checkpoints are there of steps {steps}" if steps else "there is no checkpoint yet"

    def _newest_sound(self) -> tuple[int | None, tuple[str, ...]]:
        step, skipped = self._look() if jax.process_index() == 0 else (_NONE, ())
        if jax.process_count() > 1:  # they must not differ because one of them failed to read
            from jax.experimental import multihost_utils

            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        if step == _ALL_DAMAGED:
            first = ": ".join(("", *skipped[:1]))
            raise LoraxError(
                f"every checkpoint in '{self.directory}' is damaged{first}: copy them again, or "
                "move them away to start anew"
            )
        return None if step == _NONE else step, skipped

    def _look(self) -> tuple[int, tuple[str, ...]]:
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                disk.check(self.directory / str(step))
            except store.Damaged as error:
                damaged[step] = _told(step, error)
                continue
            return step, tuple(self._set_aside(step, text) for step, text in damaged.items())
        return _ALL_DAMAGED if damaged else _NONE, tuple(damaged.values())

    def _set_aside(self, step: int, text: str) -> str:
        """Renames a damaged checkpoint, so that its step can be saved again; returns the line."""
        aside = self.directory / f"{step}.corrupt"
        if aside.exists():
            aside = aside.with_name(f"{aside.name}.{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(OSError):
            if self._writes():
                (self.directory / str(step)).rename(aside)
                return f"{text}: passed over, and kept as '{aside.name}'"
        return f"{text}: passed over"

    def _restore(self, step: int, like: Tree, expect: Mapping[str, Any] | None) -> Restored:
        try:
            tree, info = disk.load(self.directory / str(step), like, expect or {})
        except store.Damaged as error:
            raise LoraxError(f"{_told(step, error)}: move it away, or copy it again") from None
        return Restored(step, tree, info, ())


def _told(step: int, error: store.Damaged) -> str:
    return f"checkpoint {step} is damaged ('{error.file}': {error.reason})"
