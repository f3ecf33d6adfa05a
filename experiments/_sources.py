"""Where is a file that a config names? A path, or a name below the folder LORAX_DATA."""

import lzma
import os
import pathlib

from lorax.core.errors import LoraxError

VARIABLE = "LORAX_DATA"


def find(name: str) -> pathlib.Path:
    """The file or folder `name`: as a path, else below the folder that LORAX_DATA names.

    Raises:
      LoraxError: neither is there.
    """
    folder = os.environ.get(VARIABLE)
    places = [pathlib.Path(name), *([pathlib.Path(folder) / name] if folder else [])]
    for place in places:
        if place.exists():
            return place
    looked = f"nor in {VARIABLE}={folder}" if folder else f"and {VARIABLE} is not set"
    raise LoraxError(
        f"'{name}' is not in {pathlib.Path.cwd()} {looked}: give its path, or set {VARIABLE} to "
        "the folder that holds it"
    )


def read_text(name: str) -> str:
    """The text of `find(name)`, decompressed if its name ends in .xz.

    Raises:
      LoraxError: it is not there, is damaged, or is no UTF-8.
    """
    file = find(name)
    try:
        data = file.read_bytes()
        return (lzma.decompress(data) if file.suffix == ".xz" else data).decode("utf-8")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise LoraxError(
            f"cannot read '{file}' ({error}): expected UTF-8 text, or the same in .xz"
        ) from None
