"""Where is the data that a config names? A path, or a name below the folder LORAX_DATA.

Names may be globs, as in `texts/*.txt`. Files that end in .xz or .gz are decompressed as they are
read; that ending is no part of a file's kind: `kind("train.tsv.xz")` is ".tsv".
"""

import difflib
import glob
import gzip
import lzma
import os
import pathlib
import zlib

from lorax.core.errors import LoraxError

VARIABLE = "LORAX_DATA"
"""The environment variable that names the folder of the data."""

_OPENERS = {".xz": lzma.decompress, ".gz": gzip.decompress}
_DAMAGED = (lzma.LZMAError, zlib.error, EOFError)


def find(name: str) -> pathlib.Path:
    """The file or folder `name`: as a path, else below the folder that LORAX_DATA names.

    Raises:
      LoraxError: neither is there.
    """
    place = find_or_name(name)
    if isinstance(place, str):
        raise _missing(name)
    return place


def find_or_name(name: str) -> pathlib.Path | str:
    """`find(name)`, or `name` as it is where there is no such thing: the id of a repository."""
    return next((place for place in _places(name) if place.exists()), name)


def find_all(name: str) -> list[pathlib.Path]:
    """The files that `name`, a path or a glob, stands for, in order of path.

    Raises:
      LoraxError: there is none, or it is a folder.
    """
    for place in _places(name):
        if place.is_dir():
            raise LoraxError(f"'{place}' is a folder: name a file in it, or files: '{name}/*.txt'")
        if place.exists():
            return [place]
        found = sorted(map(pathlib.Path, glob.glob(str(place), recursive=True)))
        found = [file for file in found if file.is_file()]
        if found:
            return found
    raise _missing(name)


def kind(file: str | os.PathLike[str]) -> str:
    """The ending of a file's name, in lower case, without that of its compression."""
    path = pathlib.Path(file)
    path = path.with_suffix("") if path.suffix in _OPENERS else path
    return path.suffix.lower()


def read_bytes(file: pathlib.Path) -> bytes:
    """What is in `file`, decompressed if its name ends in .xz or .gz.

    Raises:
      LoraxError: it cannot be read, or its compression is damaged.
    """
    reason: object
    try:
        data = file.read_bytes()
        return _OPENERS[file.suffix](data) if file.suffix in _OPENERS else data
    except OSError as error:  # gzip's complaints are such too
        reason = error.strerror or error
    except _DAMAGED as error:
        reason = error
    raise LoraxError(f"cannot read '{file}' ({reason}): check the path, or copy the file again")


def read_text(name: str) -> str:
    """The text of `find(name)`, without a byte-order mark.

    Raises:
      LoraxError: it is not there, is damaged, or is no UTF-8; the message names file and byte.
    """
    file = find(name)
    data = read_bytes(file)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise LoraxError(
            f"cannot read '{file}' (byte {error.start} is 0x{data[error.start]:02x}, which is no "
            "UTF-8): expected UTF-8 text, or the same in .xz or .gz; convert the file"
        ) from None


def _places(name: str) -> list[pathlib.Path]:
    if not name:
        raise LoraxError(f"no file is named: give a path, or a name below the folder {VARIABLE}")
    folder = os.environ.get(VARIABLE)
    below = [pathlib.Path(os.path.expanduser(folder)) / name] if folder else []
    return [pathlib.Path(os.path.expanduser(name)), *below]


def _missing(name: str) -> LoraxError:
    folder = os.environ.get(VARIABLE)
    looked = f"nor in {VARIABLE}={folder}" if folder else f"and {VARIABLE} is not set"
    beside = [
        str(file)
        for place in _places(name)
        if place.parent.is_dir()
        for file in sorted(place.parent.iterdir())
    ]
    near = difflib.get_close_matches(str(_places(name)[-1]), beside, n=1, cutoff=0.8)
    hint = f"did you mean '{near[0]}'? Or " if near else ""
    return LoraxError(
        f"'{name}' is not in {pathlib.Path.cwd()} {looked}: {hint}give its path, or set {VARIABLE} "
        "to the folder that holds it"
    )
