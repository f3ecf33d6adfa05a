"""Where is the data that a config names? A path, or a name below the folder LORAX_DATA.

Names may be globs, as in `texts/*.txt`. Files that end in .xz or .gz are decompressed as they are
read; that ending is no part of a file's kind: `kind("train.tsv.xz")` is ".tsv".
"""

import contextlib
import difflib
import glob
import gzip
import io
import lzma
import os
import pathlib
import zlib
from typing import Any

from lorax.core.errors import LoraxError

VARIABLE = "LORAX_DATA"
"""The environment variable that names the folder of the data."""

_OPENERS = {".xz": lzma.decompress, ".gz": gzip.decompress}
_STREAMS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open}
_DAMAGED = (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError)


class DamagedFile(LoraxError):
    """A compressed file that ends too early or is changed; `before` is what precedes the damage."""

    def __init__(self, message: str, before: bytes):
        super().__init__(message)
        self.before = before


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
      LoraxError: it cannot be read.
      DamagedFile: its compression is damaged.
    """
    cure = "check the path, or copy the file again"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LoraxError(f"cannot read '{file}' ({error.strerror}): {cure}") from None
    if file.suffix not in _OPENERS:
        return data
    try:
        return _OPENERS[file.suffix](data)
    except _DAMAGED as error:
        before = _before_damage(data, file.suffix)
        told = f"{error}; found {len(before):,} bytes before that"
        raise DamagedFile(f"cannot read '{file}' ({told}): {cure}", before) from None


def _before_damage(data: bytes, ending: str) -> bytes:
    """Read in pieces, the last of which is lost."""
    found = []
    with contextlib.suppress(*_DAMAGED), _STREAMS[ending](io.BytesIO(data)) as stream:
        while piece := stream.read(1 << 12):
            found.append(piece)
    return b"".join(found)


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
