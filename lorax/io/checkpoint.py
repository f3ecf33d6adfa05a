"""How does an adapter get to disk and back? `adapter.json` and the arrays of its delta.

    directory/
      adapter.json   what the adapter is, the form of its delta (paths, roles, shapes, dtypes), and
                     size and CRC-32 of every file of arrays/
      arrays/        an Orbax checkpoint, one entry an array

The base is never part of it. One process writes; a directory appears whole or not at all.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.adapter import Adapter, Delta, check_adapter, from_dict
from lorax.core.errors import LoraxError
from lorax.io.atomic import Path, new_directory
from lorax.io.form import abstract_arrays, build, describe, named_arrays
from lorax.io.place import place

FORMAT = 1
JSON_NAME = "adapter.json"
ARRAYS_NAME = "arrays"
OVERHEAD = 1 << 17
"""Bytes, generously, that a checkpoint takes beyond its arrays."""


def save_adapter(
    directory: Path, adapter: Adapter, delta: Delta, *, overwrite: bool = False
) -> None:
    """Writes `adapter` and `delta` so that `load_adapter(directory)` returns both.

    Written beside `directory` under another name and renamed, so that a failure at any moment
    leaves what was there before. Missing parent folders are made.

    Args:
      directory: must not exist, unless `overwrite`.
      adapter: any adapter; its fields must be plain values.
      delta: as `adapter.init` returns it, trained or not.
      overwrite: replace a directory that holds a saved adapter, or is empty; never any other.

    Raises:
      LoraxError: the directory is taken, the disk refuses, a delta cannot be described, or more
        than one process runs.
    """
    check_adapter(adapter)
    if jax.process_count() > 1:
        raise LoraxError(
            f"save_adapter runs in one of {jax.process_count()} processes: expected a single one; "
            "gather the delta on one host and save it there"
        )
    description, arrays = _description(adapter, delta), named_arrays(delta)
    with new_directory(directory, JSON_NAME, overwrite=overwrite) as partial:
        _check_space(partial, delta)
        try:
            _save_arrays(partial / ARRAYS_NAME, arrays)
        except (ValueError, RuntimeError) as error:  # how Orbax tells of a disk that refuses
            raise OSError(_reason(error)) from None
        description["files"] = _checksums(partial)
        (partial / JSON_NAME).write_text(_readable(description, depth=3) + "\n", "utf-8")


def load_adapter(directory: Path) -> tuple[Adapter, Delta]:
    """The adapter and the delta that `save_adapter` wrote, bit for bit.

    The arrays are committed to no device: a jitted program takes them beside a base on any device
    or mesh.

    Raises:
      LoraxError: the directory is missing, is not a saved adapter, is damaged, or was written by
        a later version; the message names the file.
    """
    source = _absolute(directory)
    saved = _read_json(source)
    try:
        adapter, form = from_dict(saved["adapter"]), saved["delta"]
        wanted, files = abstract_arrays(form), dict(saved["files"])
    except LoraxError as error:
        raise LoraxError(f"'{source / JSON_NAME}': {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(source / JSON_NAME, f"no valid entry {error}") from None
    _check_files(source, files)
    arrays = _load_arrays(source / ARRAYS_NAME, wanted)
    return adapter, build(form, arrays)


def size_on_disk(directory: Path) -> int:
    """Bytes in all files below `directory`."""
    return sum(file.stat().st_size for file in _absolute(directory).rglob("*") if file.is_file())


def _absolute(directory: Path) -> pathlib.Path:
    return pathlib.Path(os.path.abspath(place(directory)))


def _description(adapter: Adapter, delta: Delta) -> dict[str, Any]:
    form = describe(delta)
    try:
        own = json.loads(adapter.to_json())
    except TypeError as error:
        raise LoraxError(
            f"{type(adapter).__name__} cannot be written as JSON ({error}): expected plain values; "
            "write alpha=float(alpha), and unstack a vmapped delta first"
        ) from None
    return {"format": FORMAT, "adapter": own, "delta": form}


def _readable(value: Any, depth: int, indent: str = "") -> str:
    """JSON with one line an entry down to `depth`, so that every leaf of the delta has its own."""
    if not depth or not isinstance(value, dict) or not value:
        return json.dumps(value)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(k)}: {_readable(v, depth - 1, inner)}" for k, v in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def _check_space(folder: pathlib.Path, delta: Delta) -> None:
    """A disk that is full half-way makes Orbax's threads print tracebacks beside what it raises."""
    needed = OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(delta))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes needed, {free:,} free")


def _read_json(source: pathlib.Path) -> dict[str, Any]:
    file = source / JSON_NAME
    if not source.is_dir():
        raise LoraxError(
            f"no adapter at '{source}': expected a directory that save_adapter wrote; check "
            "the path"
        )
    try:
        saved = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise LoraxError(
            f"'{source}' holds no {JSON_NAME}: expected a directory written by save_adapter; check "
            "the path (a PEFT directory has adapter_config.json instead)"
        ) from None
    except OSError as error:
        raise LoraxError(f"cannot read '{file}' ({_reason(error)}): make it readable") from None
    except ValueError as error:
        raise _damaged(file, f"not JSON: {error}") from None
    version = saved.get("format") if isinstance(saved, dict) else None
    if not isinstance(version, int):
        raise _damaged(file, "no format number")
    if version != FORMAT:
        raise LoraxError(
            f"'{file}' has format {version}, this version reads {FORMAT}: install the version of "
            "lorax that wrote it"
        )
    return saved


def _save_arrays(directory: pathlib.Path, arrays: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(directory, arrays)


def _load_arrays(directory: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    try:
        with _quiet(), ocp.StandardCheckpointer() as checkpointer:
            _compare(directory, checkpointer.metadata(directory).item_metadata, wanted)
            restored = checkpointer.restore(directory, wanted)
            return {name: jnp.asarray(np.asarray(x)) for name, x in restored.items()}
    except LoraxError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many types, with pages of text
        raise _damaged(directory, _reason(error)) from None


def _checksums(folder: pathlib.Path) -> dict[str, list[int]]:
    """Size and CRC-32 of each file below `folder`, by its relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _checksum(file) for file in files}


def _checksum(file: pathlib.Path) -> list[int]:
    size, crc = 0, 0
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _check_files(source: pathlib.Path, files: dict[str, list[int]]) -> None:
    """Damage is found here and named by file; TensorStore would tell it in pages of text."""
    for name, expected in files.items():
        try:
            found = _checksum(source / name)
        except OSError as error:
            raise _damaged(source / name, _reason(error)) from None
        if found != expected:
            what = (
                "its content changed"
                if found[0] == expected[0]
                else (f"{found[0]} bytes instead of {expected[0]}")
            )
            raise _damaged(source / name, what)


def _compare(directory: pathlib.Path, metadata: Any, wanted: dict[str, Any]) -> None:
    """The entries on disk are those of adapter.json, in name, shape and dtype."""
    found = dict(metadata.tree if hasattr(metadata, "tree") else metadata)
    for name in sorted(set(found) ^ set(wanted)):
        which = "lacks" if name in wanted else "holds an unknown entry"
        raise _damaged(directory, f"it {which} '{name}'")
    for name, leaf in wanted.items():
        on_disk = tuple(found[name].shape), str(found[name].dtype)
        if on_disk != (tuple(leaf.shape), str(leaf.dtype)):
            raise _damaged(
                directory, f"'{name}' is {on_disk}, {JSON_NAME} says {leaf.shape}, {leaf.dtype}"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs through absl; what matters is raised as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    first = text.strip().splitlines()[0]
    return first if len(first) <= 160 else first[:157] + "..."


def _damaged(file: pathlib.Path, reason: str) -> LoraxError:
    return LoraxError(
        f"'{file}' is damaged ({reason}): copy the adapter's directory again, or train it anew"
    )
