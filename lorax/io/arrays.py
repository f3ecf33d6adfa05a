"""How do named arrays get into a folder and back, and is what lies there what was written?

The one module that knows Orbax, which writes the arrays of a folder and reads them. Whether a
folder is whole is the callers' business: they keep the `checksums` of its files beside them, since
Orbax 0.12 reads numbers that changed on disk without a word.
"""

import contextlib
import errno
import logging
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

OVERHEAD = 1 << 17
"""Bytes, generously, that a checkpoint takes beyond its arrays."""

Checksums = dict[str, list[int]]
"""Size and CRC-32 of files, by their path within a folder."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


class Damaged(Exception):
    """What lies on disk is not what was written. Two arguments: the file or folder, the reason."""

    def __init__(self, file: pathlib.Path, reason: str):
        super().__init__(file, reason)
        self.file, self.reason = file, reason


def prepare() -> None:
    """Imports Orbax: a second or two that are not to be spent when a save is urgent."""
    import orbax.checkpoint  # noqa: F401


def save_arrays(folder: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes `arrays`, on the host or a device of this process, into the new folder `folder`.

    Any thread may call it, and any process alone: it waits for no other.

    Raises:
      OSError: the disk refuses, or an array cannot be written (one without elements, say).
    """
    needed = sum(array.nbytes for array in arrays.values())
    check_space(folder.parent, needed)
    try:
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(folder, {name: np.asarray(x) for name, x in arrays.items()})
    except Exception as error:  # Orbax and TensorStore raise many types, with pages of text
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason(error)) from None


def save_part(folder: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes into `folder` what this process has of `arrays`; each of several processes calls it.

    None waits for another. When all have returned, one calls `merge_parts`, and the folder is as
    `save_arrays` writes it.

    Args:
      arrays: those on the host are written by process 0; of those on devices of all processes each
        writes the shards that it has first.

    Raises:
      OSError: as of `save_arrays`; what was written is removed, so that there is room to say so.
    """
    import orbax.checkpoint as ocp

    folder.mkdir(parents=True, exist_ok=True)
    if not arrays:
        return
    try:
        with _quiet():
            _handler().save(folder, args=ocp.args.PyTreeSave(dict(arrays)))
    except Exception as error:
        for own in folder.rglob(f"*process_{jax.process_index()}"):
            shutil.rmtree(own, ignore_errors=True)
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason(error)) from None


def merge_parts(folder: pathlib.Path) -> None:
    """Makes one checkpoint of what several processes have written with `save_part`.

    Raises:
      OSError: the disk refuses.
    """
    try:
        with _quiet():
            _handler().finalize(folder)
    except Exception as error:
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason(error)) from None


def load_arrays(
    folder: pathlib.Path,
    names: Iterable[str],
    placements: Mapping[str, jax.sharding.Sharding] | None = None,
) -> dict[str, Any]:
    """The arrays that `save_arrays` or several processes wrote.

    Args:
      folder: of the arrays.
      names: of those that are wanted; the others are not read.
      placements: of arrays that are to go onto devices, of which each process reads the pieces that
        its own devices need. The others are NumPy's, in full.

    Raises:
      Damaged: they cannot be read.
    """
    import orbax.checkpoint as ocp

    places = placements or {}
    how = {
        name: ocp.ArrayRestoreArgs(sharding=places[name])
        if name in places
        else ocp.RestoreArgs(restore_type=np.ndarray)
        for name in names
    }
    wanted = ocp.args.PyTreeRestore(
        item=dict.fromkeys(how, 0), restore_args=how, partial_restore=True
    )
    try:
        with _quiet(), _checkpointer() as checkpointer:
            found = checkpointer.restore(folder, args=wanted)
    except Exception as error:
        raise Damaged(folder, reason(error)) from None
    return {name: array if name in places else np.asarray(array) for name, array in found.items()}


def stored_forms(folder: pathlib.Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype by name, as the folder's own metadata tells; no array is read.

    Raises:
      Damaged: the metadata cannot be read.
    """
    try:
        with _quiet(), _checkpointer() as checkpointer:
            metadata = checkpointer.metadata(folder).item_metadata
        leaves = dict(metadata.tree if hasattr(metadata, "tree") else metadata)
        return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in leaves.items()}
    except Exception as error:
        raise Damaged(folder, reason(error)) from None


def check_space(folder: pathlib.Path, nbytes: int) -> None:
    """Raises OSError unless `nbytes` of arrays fit on the disk of `folder`.

    Told before anything is written: a disk that fills half-way is refused by Orbax as well, but
    only after it has taken what there was from everybody else.
    """
    needed, free = OVERHEAD + nbytes, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes needed, {free:,} free")


def checksums(folder: pathlib.Path) -> Checksums:
    """Those of all files below `folder`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _checksum(file) for file in files}


def check_files(folder: pathlib.Path, files: Mapping[str, Any]) -> None:
    """Compares the files of `folder` with their checksums.

    Raises:
      Damaged: a file is missing, cut off or changed; the first of them.
    """
    for name, expected in files.items():
        try:
            found = _checksum(folder / name)
        except OSError as error:
            raise Damaged(folder / name, reason(error)) from None
        if found != expected:
            cut = f"{found[0]} bytes instead of {expected[0]}"
            raise Damaged(folder / name, "its content changed" if found[0] == expected[0] else cut)


def reason(error: BaseException) -> str:
    """One short line of what may be a page."""
    text = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
    for code in _DISK:  # TensorStore tells it at the end of a line with several paths
        if os.strerror(code) in text:
            return os.strerror(code)
    first = text.splitlines()[0]
    return first if len(first) <= 160 else first[:157] + "..."


def _checksum(file: pathlib.Path) -> list[int]:
    size, crc = 0, 0
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _checkpointer() -> Any:
    """Orbax, told that this process is alone: it would wait for the others at every turn."""
    import orbax.checkpoint as ocp

    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"lorax{process}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _handler() -> Any:
    """What Orbax's Checkpointer calls between two meetings of all processes.

    It is to write the numbers alone: with what Orbax would note beside them about its processes,
    they would wait for the first one.
    """
    import orbax.checkpoint as ocp

    types = ocp.type_handlers
    return ocp.PyTreeCheckpointHandler(
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0),
        type_handler_registry=types.create_type_handler_registry(
            (np.ndarray, types.NumpyHandler()),
            (jax.Array, types.ArrayHandler(enable_write_sharding_file=False)),
        ),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What matters is raised. Beside that Orbax logs, and its threads print tracebacks."""
    logger, before = logging.getLogger("absl"), sys.unraisablehook

    def others(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    def hook(unraisable: Any) -> None:
        # a write that ends after the first one failed tells an event loop that is closed by then
        if str(unraisable.exc_value) != "Event loop is closed" or unraisable.object is not None:
            before(unraisable)

    logger.addFilter(others)
    sys.unraisablehook = hook
    try:
        yield
        if sys.unraisablehook is hook:  # after a failure the last ones are still to come
            sys.unraisablehook = before
    finally:
        logger.removeFilter(others)
