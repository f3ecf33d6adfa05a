"""How does a run survive being killed? Checkpoints that are whole, checked, and written aside.

    directory/
      100/  200/     one checkpoint each, see `checkpoint_folder`
      300.corrupt/   a damaged one that was passed over: never deleted

A folder has a number for its name when all of it is on the disk, and not before.
"""

import concurrent.futures
import os
import pathlib
import threading
import uuid
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from lorax.core.errors import LoraxError, check_choice
from lorax.io import arrays as store
from lorax.io import checkpoint_folder as disk
from lorax.io import checkpoint_list as there
from lorax.io.atomic import Path, clear_leftovers, discard, lock
from lorax.io.named_tree import Tree, named_leaves, own_copies
from lorax.io.place import place
from lorax.io.processes import first_does, who_failed
from lorax.io.together import PATIENCE, Meeting


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
    one.

    With several processes the directory is shared, and all of them call every method, in the same
    order. An array that a process has whole is written by process 0; of one that is spread over
    processes each writes its part. A save fails in all processes or in none, with one text.

    Args:
      directory: made if it is missing.
      keep: how many of the newest stay; at least 1.
      best: a metric of `save`; the checkpoint with its best value stays too, the first among
        equals. "" for none.
      mode: "min" or "max", which value is best.
      patience: seconds that a process waits in a save for another one before the save has failed.

    Raises:
      LoraxError: an argument cannot work, or the disk refuses.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        best: str = "",
        mode: str = "min",
        patience: float = PATIENCE,
    ):
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise LoraxError(f"keep is {keep!r}: expected an integer, at least 1")
        check_choice("mode", mode, ("min", "max"))
        self.directory = pathlib.Path(os.path.abspath(place(directory)))
        self._keep, self._best, self._sign = keep, best, 1 if mode == "min" else -1
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._release: weakref.finalize[..., Any] | None = None
        self._patience, self._leaving = patience, threading.Event()
        # drawn anew for each run and counted from there on, the same in all processes
        self._writer, self._token = first_does(self._begin, LoraxError)
        if self._writer:
            store.prepare()

    def _begin(self) -> tuple[bool, int]:
        """In process 0: is this the writer? And a number to tell its saves from all others."""
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
        return descriptor is not None, int(uuid.uuid4().hex[:8], 16)

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

        The arrays may be donated at once; those that are spread over processes are copied on their
        devices until they are written. A save in flight is waited for first. A checkpoint of `step`
        that exists is replaced. Old ones are deleted when the new one is on the disk.

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
        self._token = (self._token + 1) % 2**32  # also when this save is refused: all count alike
        try:
            self.wait()
        except LoraxError:
            if not wait:
                raise
        step = int(step)
        leaves = named_leaves(tree)
        copies = own_copies(leaves)
        said = disk.about(step, leaves, info, metrics or {})
        if not self._writer:
            raise LoraxError(
                f"'{self.directory}' is written by another run, or closed: expected one writer; "
                "wait for it, or choose another directory"
            )
        meeting = self._meeting(step)
        if meeting is None:
            self._check_space(step, copies)
        self._pending = self._pool.submit(self._write, step, said, copies, meeting)
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
            self._writer = False
            if self._release is not None:
                self._release()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:  # the other processes may be gone
            self._leaving.set()
        try:
            self.close()
        except LoraxError as unsaved:
            if error is None:
                raise
            error.add_note(str(unsaved))

    def steps(self) -> list[int]:
        """Those with a checkpoint on the disk, sound or not, in order."""
        return there.steps(self.directory)

    def best_step(self) -> int | None:
        """The step with the best value of the metric `best`; None if none has one."""
        best = first_does(self._best_step, LoraxError)
        return None if best is None else int(best)

    def latest(self, like: Tree, expect: Mapping[str, Any] | None = None) -> Restored | None:
        """The newest checkpoint that is sound; None if there is none at all.

        A damaged one is passed over for the one before it, and renamed `<step>.corrupt`. With
        several processes it is process 0 that looks, for all.

        Args:
          like: a tree of the same form, of arrays or `ShapeDtypeStruct`s. Arrays that are committed
            to devices and structs with a sharding say where the restored ones go: any devices and
            any number of processes will do, whatever the checkpoint was saved from. Others are
            committed to no device.
          expect: fields of `info` and the values they must have, nested as they are.

        Raises:
          LoraxError: the newest sound one differs from `expect` or does not fit `like`, and in
            what; or all are damaged.
        """
        step, skipped = first_does(
            lambda: there.newest_sound(self.directory, rename=self._writer), LoraxError
        )
        if step is None:
            return None
        restored = self._restore(step, like, expect)
        return restored._replace(skipped=tuple(skipped if jax.process_index() == 0 else ()))

    def restore(self, step: int, like: Tree) -> Restored:
        """The checkpoint of one step; `like` as in `latest`.

        Raises:
          LoraxError: there is none, it is damaged, or it does not fit `like`.
        """
        first_does(lambda: there.check_step(self.directory, step), LoraxError)
        return self._restore(step, like, None)

    def _best_step(self) -> int | None:
        return there.best_step(self.directory, self._best, self._sign)

    def _check_space(self, step: int, copies: Mapping[str, Any]) -> None:
        """Told at once where no other process has to hear of it."""
        try:
            store.check_space(self.directory, sum(copy.nbytes for copy in copies.values()))
        except OSError as error:
            raise self._unsaved(
                step, f"cannot write '{self.directory}' ({store.reason(error)}): free some space"
            ) from None

    def _meeting(self, step: int) -> Meeting | None:
        """Of all processes; None where there is a single one."""
        process, processes = jax.process_index(), jax.process_count()
        if processes == 1:
            return None
        folder, token = self.directory / str(step), f"{self._token:08x}"
        return Meeting(folder, token, process, processes, self._leaving, self._patience)

    def _write(
        self,
        step: int,
        said: disk.About,
        arrays: Mapping[str, Any],
        meeting: Meeting | None,
    ) -> None:
        """In the background: one checkpoint, and then the old ones that nobody wants."""
        folder = self.directory / str(step)
        if meeting is not None and meeting.process != 0:
            return disk.write_part(folder, arrays, meeting)
        try:
            disk.write(folder, said, arrays, meeting)
        except Exception as error:  # whatever it is, the others must hear of it
            unsaved = self._unsaved(step, str(error))
            if meeting is not None:
                meeting.fail(str(unsaved))
            raise (unsaved if isinstance(error, LoraxError) else error) from None
        if meeting is not None:
            meeting.forget()
        steps = self.steps()
        kept = {step, *steps[-self._keep :], self._best_step()}
        for old in steps:
            if old not in kept:
                discard(self.directory / str(old))

    def _unsaved(self, step: int, why: str) -> LoraxError:
        return LoraxError(f"step {step} was not saved: {why}; {there.listed(self.directory)}")

    def _restore(self, step: int, like: Tree, expect: Mapping[str, Any] | None) -> Restored:
        """Read by each process; one that cannot read it keeps the others from going on alone."""
        error = None
        try:
            tree, info = disk.load(self.directory / str(step), like, expect or {})
        except store.Damaged as damaged:
            error = LoraxError(f"{there.damage(step, damaged)}: move it away, or copy it again")
        except LoraxError as misfit:
            error = misfit
        failed = who_failed(error is not None)
        if error is not None:
            raise error from None
        if failed:
            raise LoraxError(
                f"process {failed[0]} cannot restore checkpoint {step} in '{self.directory}': "
                "expected all to; see what it says"
            )
        return Restored(step, tree, info, ())
