"""How does a directory appear whole or not at all? Written beside its place, then renamed."""

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from lorax.core.errors import LoraxError
from lorax.io.place import place

Path = str | os.PathLike[str]


@contextlib.contextmanager
def new_directory(directory: Path, mark: str, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes `directory` when the block ends without an error.

    Whatever happens before that moment leaves `directory` as it was. Parents are made.

    Args:
      directory: must not exist, unless `overwrite`.
      mark: the file that tells what such a directory holds, "adapter_config.json" say.
      overwrite: replace a directory that is empty or holds `mark`; never any other.

    Raises:
      LoraxError: the directory is taken, or the disk refuses.
    """
    target = pathlib.Path(os.path.abspath(place(directory)))
    check_free(target, mark, overwrite)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        put_in_place(partial, target)
    except OSError as error:
        raise LoraxError(
            f"cannot write '{target}' ({error.strerror or error}): make the folder writable and "
            "free some space, or choose another directory"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(target: pathlib.Path, mark: str, overwrite: bool) -> None:
    """Raises LoraxError unless `new_directory` may write `target`."""
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise LoraxError(
            f"'{target}' exists already: choose another directory, or pass overwrite=True to "
            "replace it"
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / mark).is_file()):
        raise LoraxError(
            f"'{target}' holds no {mark}, so overwrite=True does not replace it: choose another "
            "directory"
        )


def put_in_place(partial: pathlib.Path, target: pathlib.Path) -> None:
    """Renames; what was at `target` goes last, and comes back if the rename fails."""
    old = None
    if target.is_dir():
        old = partial.with_suffix(".old")
        target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        if old is not None:
            old.rename(target)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
