"""How does an adapter get to disk and back? `adapter.json` and the arrays of its delta.

    directory/
      adapter.json   what the adapter is, the form of its delta (paths, roles, shapes, dtypes), and
                     size and CRC-32 of every file of arrays/, and, if it was told, the
                     fingerprint of the base that the delta was trained on
      arrays/        an Orbax checkpoint, one entry an array

The base itself is never part of it. One process writes; a directory appears whole or not at all.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.adapter import Adapter, Delta, check_adapter, unprepared
from lorax.core.description import from_dict
from lorax.core.errors import LoraxError
from lorax.io import arrays as store
from lorax.io.atomic import Path, new_directory
from lorax.io.fingerprint import fingerprint
from lorax.io.form import abstract_arrays, build, describe, named_arrays
from lorax.io.named_tree import gathered
from lorax.io.place import place

FORMAT = 1
JSON_NAME = "adapter.json"
ARRAYS_NAME = "arrays"


def save_adapter(
    directory: Path, adapter: Adapter, delta: Delta, *, base: Any = None, overwrite: bool = False
) -> None:
    """Writes `adapter` and `delta` so that `load_adapter(directory)` returns both.

    Written beside `directory` under another name and renamed, so that a failure at any moment
    leaves what was there before. Missing parent folders are made. Of several processes all call
    this, and process 0 writes; a delta that is spread over them is gathered on their hosts.

    Args:
      directory: must not exist, unless `overwrite`.
      adapter: any adapter; its fields must be plain values.
      delta: as `adapter.init` returns it, trained or not.
      base: the frozen parameters, or their `fingerprint`, which is written down: adapters of
        different bases are then not taken for those of one (`load_adapters`). None says nothing.
      overwrite: replace a directory that holds a saved adapter, or is empty; never any other.

    Raises:
      LoraxError: the directory is taken, the disk refuses, or a delta cannot be described.
    """
    check_adapter(adapter)
    description, arrays = _description(adapter, delta), gathered(named_arrays(delta))
    if base is not None:
        description["base"] = _mark(base)
    if jax.process_index() != 0:
        return
    with new_directory(directory, JSON_NAME, overwrite=overwrite) as partial:
        store.save_arrays(partial / ARRAYS_NAME, arrays)
        description["files"] = store.checksums(partial)
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
    try:
        store.check_files(source, files)
        _compare(source / ARRAYS_NAME, wanted)
        arrays = store.load_arrays(source / ARRAYS_NAME, wanted)
    except store.Damaged as error:
        raise _damaged(error.file, error.reason) from None
    return adapter, build(form, {name: jnp.asarray(array) for name, array in arrays.items()})


def load_adapters(directories: Sequence[Path], base: Any = None) -> list[tuple[Adapter, Delta]]:
    """Several saved adapters of one base, each as `load_adapter` returns it.

    Args:
      directories: of them.
      base: the frozen parameters, or their fingerprint, that all should belong to; None compares
        the adapters with each other alone. One that was saved without its base's fingerprint
        passes.

    Raises:
      LoraxError: as `load_adapter`; or two belong to different bases.
    """
    known = (
        None
        if base is None
        else base
        if isinstance(base, str)
        else fingerprint(unprepared(base)[0])
    )
    whose = "the base"
    for directory in directories:
        found = base_of(directory)
        if known is not None and found is not None and found != known:
            raise LoraxError(
                f"'{directory}' belongs to the base {found} and {whose} is {known}: expected "
                "adapters of one base, bit for bit; train them on one"
            )
        if known is None and found is not None:
            known, whose = found, f"that of '{directory}'"
    return [load_adapter(directory) for directory in directories]


def base_of(directory: Path) -> str | None:
    """The fingerprint of the base that a saved adapter belongs to, or None if it does not say.

    Raises:
      LoraxError: as `load_adapter`, but the arrays are not looked at.
    """
    source = _absolute(directory)
    found = _read_json(source).get("base")
    if found is not None and not isinstance(found, str):
        raise _damaged(source / JSON_NAME, "its base is no text")
    return found


def size_on_disk(directory: Path) -> int:
    """Bytes in all files below `directory`."""
    return sum(file.stat().st_size for file in _absolute(directory).rglob("*") if file.is_file())


def _absolute(directory: Path) -> pathlib.Path:
    return pathlib.Path(os.path.abspath(place(directory)))


def _mark(base: Any) -> str:
    return base if isinstance(base, str) else fingerprint(unprepared(base)[0])


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
        raise LoraxError(
            f"cannot read '{file}' ({store.reason(error)}): make it readable"
        ) from None
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


def _compare(folder: pathlib.Path, wanted: dict[str, Any]) -> None:
    """The entries on disk are those of adapter.json, in name, shape and dtype."""
    found = store.stored_forms(folder)
    for name in sorted(set(found) ^ set(wanted)):
        which = "lacks" if name in wanted else "holds an unknown entry"
        raise _damaged(folder, f"it {which} '{name}'")
    for name, leaf in wanted.items():
        if found[name] != (tuple(leaf.shape), str(leaf.dtype)):
            raise _damaged(
                folder, f"'{name}' is {found[name]}, {JSON_NAME} says {leaf.shape}, {leaf.dtype}"
            )


def _damaged(file: pathlib.Path, reason: str) -> LoraxError:
    return LoraxError(
        f"'{file}' is damaged ({reason}): copy the adapter's directory again, or train it anew"
    )
