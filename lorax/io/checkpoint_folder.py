"""What lies in the folder of one checkpoint of a run, is it whole, and is it of this run?

folder/
  checkpoint.json   step, metrics, info, the form of the tree, size and CRC-32 of every file of
                    arrays/, and a CRC-32 of all that
  arrays/           an Orbax checkpoint, one entry an array
"""

import contextlib
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from lorax.core.errors import LoraxError
from lorax.io import arrays as store
from lorax.io.atomic import new_directory
from lorax.io.named_tree import Tree, forms, key_impls, misfit, named_leaves, placements, rebuild
from lorax.io.together import Meeting

FORMAT = 1
JSON_NAME = "checkpoint.json"
ARRAYS_NAME = "arrays"

About = dict[str, Any]

_SHOWN = 4  # differing fields that are told one by one
_ABSENT = "absent"


def about(step: int, leaves: Mapping[str, Any], info: Any, metrics: Mapping[str, Any]) -> About:
    """What checkpoint.json is to say; what the caller changes later is not in it.

    Raises:
      LoraxError: `info` or `metrics` cannot be written as JSON.
    """
    try:
        said = {
            "format": FORMAT,
            "step": step,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "info": info,
            "arrays": forms(leaves),
            "keys": key_impls(leaves),
        }
        return dict(json.loads(json.dumps(said)))
    except (TypeError, ValueError) as error:
        raise LoraxError(f"info or metrics: {error}: expected plain values") from None


def write(
    folder: pathlib.Path,
    said: About,
    arrays: Mapping[str, Any],
    meeting: Meeting | None = None,
) -> None:
    """The folder, whole or not at all; one that is there already is replaced.

    Args:
      meeting: where other processes write into it as well, each with `write_part`.

    Raises:
      LoraxError: the disk refuses, here or there, or something else has the name.
    """
    token = "" if meeting is None else meeting.token
    with new_directory(folder, JSON_NAME, overwrite=True, token=token) as partial:
        if meeting is None:
            store.save_arrays(partial / ARRAYS_NAME, arrays)
        else:
            store.check_space(partial, sum(array.nbytes for array in arrays.values()))
            store.save_part(partial / ARRAYS_NAME, arrays)
            meeting.collect()
            store.merge_parts(partial / ARRAYS_NAME)
            said = said | {"save": token}
        said = said | {"files": store.checksums(partial)}
        said = said | {"crc32": _crc(said)}
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in said.items())
        (partial / JSON_NAME).write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def write_part(folder: pathlib.Path, arrays: Mapping[str, Any], meeting: Meeting) -> None:
    """What a process other than 0 has of the folder; returns when all of it is in its place.

    Raises:
      LoraxError: it will not be; the same line in every process.
    """

    def committed() -> bool:
        with contextlib.suppress(store.Damaged, LoraxError):
            return bool(read_about(folder).get("save") == meeting.token)
        return False

    meeting.contribute(lambda partial: store.save_part(partial / ARRAYS_NAME, arrays), committed)


def read_about(folder: pathlib.Path) -> About:
    """What checkpoint.json says.

    Raises:
      Damaged: it is not what was written.
      LoraxError: another version wrote it.
    """
    file = folder / JSON_NAME
    try:
        said = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise store.Damaged(file, store.reason(error)) from None
    if not isinstance(said, dict) or said.pop("crc32", None) != _crc(said):
        raise store.Damaged(file, "its content changed")
    if said["format"] != FORMAT:
        raise LoraxError(
            f"'{file}' has format {said['format']}, this version reads {FORMAT}: install the "
            "version of lorax that wrote it"
        )
    return said


def check(folder: pathlib.Path) -> None:
    """Raises Damaged unless every byte that matters is as it was written."""
    store.check_files(folder, read_about(folder)["files"])


def load(
    folder: pathlib.Path, like: Tree, expect: Mapping[str, Any]
) -> tuple[Tree, dict[str, Any]]:
    """The tree and the info of a checkpoint that was checked.

    Leaves of `like` that are committed to devices, or are shapes with a sharding, say where theirs
    go; each process reads what its own devices need, and what it shares a piece with.

    Raises:
      LoraxError: info differs from `expect`, or the tree from the form of `like`; it says in what,
        and no array is read.
      Damaged: the arrays cannot be read.
    """
    said = read_about(folder)
    _check_expected(folder, said["info"], expect)
    wanted = named_leaves(like)
    differs = misfit(said["arrays"], forms(wanted))
    if differs:
        raise LoraxError(
            f"checkpoint '{folder}' does not fit: {differs}: go on with the config it was saved "
            "with, or choose another directory"
        )
    arrays = store.load_arrays(folder / ARRAYS_NAME, said["arrays"], placements(wanted))
    return rebuild(like, arrays, said["keys"]), said["info"]


def _crc(said: About) -> int:
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def _check_expected(folder: pathlib.Path, info: Any, expect: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(expect))
    found = list(_differences({name: info.get(name, _ABSENT) for name in wanted}, wanted))
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise LoraxError(
            f"checkpoint '{folder}' is of another run: {', '.join(found[:_SHOWN])}{more}: go on "
            "with what it was saved with, or choose another directory"
        )


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for field in {**there, **here}:
            below = f"{name}.{field}" if name else field
            yield from _differences(there.get(field, _ABSENT), here.get(field, _ABSENT), below)
    elif there != here:
        yield f"{name} is {_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = value if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
