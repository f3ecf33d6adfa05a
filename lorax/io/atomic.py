"""How does a directory appear whole or not at all? Written beside its place, then renamed.

Whole also after the machine went down: all of it is on the disk before it gets its name.
"""

import contextlib
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator

from lorax.core.errors import LoraxError
from lorax.io.place import place

Path = str | os.PathLike[str]

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|old|failed)")


@contextlib.contextmanager
def new_directory(
    directory: Path, mark: str, *, overwrite: bool = False, token: str = ""
) -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes `directory` when the block ends without an error.

    Whatever happens before that moment leaves `directory` as it was. Parents are made.

    Args:
      directory: must not exist, unless `overwrite`.
      mark: the file that tells what such a directory holds, "adapter_config.json" say.
      overwrite: replace a directory that is empty or holds `mark`; never any other.
      token: of `partial_of`, where others write into the folder too and may have begun; "" draws
        one.

    Raises:
      LoraxError: the directory is taken, or the disk refuses.
    """
    target = pathlib.Path(os.path.abspath(place(directory)))
    check_free(target, mark, overwrite)
    partial = partial_of(target, token)
    try:
        partial.mkdir(parents=True, exist_ok=bool(token))
        yield partial
        sync(partial)
        put_in_place(partial, target)
        sync(target.parent, deep=False)
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


def discard(target: pathlib.Path) -> None:
    """Deletes a directory so that it is never seen in part; one that the disk keeps is let be."""
    going = partial_of(target)
    with contextlib.suppress(OSError):
        target.rename(going)
        shutil.rmtree(going, ignore_errors=True)


def clear_leftovers(folder: pathlib.Path) -> None:
    """Removes from `folder` what writers left that were killed; no writer may be at work there.

    A directory that was about to be replaced, and whose successor never came, gets its name back.
    """
    for leftover in sorted(folder.glob(".*")):
        name = _LEFTOVER.fullmatch(leftover.name)
        if name is None or leftover.is_dir() == (name[2] == "failed"):
            continue
        target = folder / name[1]
        if name[2] == "old" and not target.exists():
            with contextlib.suppress(OSError):
                leftover.rename(target)
        elif name[2] == "failed":
            leftover.unlink(missing_ok=True)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def lock(folder: pathlib.Path) -> int | None:
    """A descriptor that keeps other writers from `folder` until it is closed; None if one has it.

    A kill closes it. Where the file system knows no locks, the caller sees to it that there is one
    writer.

    Raises:
      OSError: the folder cannot be opened.
    """
    import fcntl  # not everywhere, and adapters are written everywhere

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass
    return descriptor


def partial_of(target: pathlib.Path, token: str = "") -> pathlib.Path:
    """What `target` is called while it is written; `token`, eight hexadecimal digits, or drawn."""
    return target.with_name(f".{target.name}.{token or uuid.uuid4().hex[:8]}.partial")


def sync(folder: pathlib.Path, *, deep: bool = True) -> None:
    """Waits until the disk has `folder`, its files and folders first if `deep`."""
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:
            if not path.is_dir():  # not every file system knows it of folders
                raise
        finally:
            os.close(descriptor)
