"""Where does a run live? A folder with its config, and the rules for entering one that exists.

config.json  overrides.json  env.json  metrics.jsonl  adapter/  plots/  report.md  DONE
"""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments._cli import Call
from lorax.core.errors import LoraxError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections")


def finished(call: Call) -> bool:
    """Whether a finished run of this config is in the workdir, which is only looked at.

    Raises:
      LoraxError: it holds something else, or a run of another config.
    """
    if not call.workdir.is_dir():
        return False
    _check_same(call.workdir, plain(call.config))
    return (call.workdir / "DONE").exists()


@contextlib.contextmanager
def entered(call: Call, *, resume: bool = False) -> Iterator[bool]:
    """A context that holds the workdir for this process; its value says whether a run is needed.

    False means that a finished run of this config is there. An unfinished one of the same config
    is left for the caller to `resume`, or moved into `unfinished-N/` and started over.

    Raises:
      LoraxError: the workdir is a file, is in use, holds something else or a run of another
        config, or cannot be written.
    """
    workdir, config = call.workdir, plain(call.config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise LoraxError(f"workdir '{workdir}' is a file: choose another --workdir") from None
    except OSError as error:
        raise _unwritable(workdir, error) from None
    _check_same(workdir, config)  # before the lock, which would be a file in a stranger's folder
    with _locked(workdir):
        _check_same(workdir, config)
        if (workdir / "DONE").exists():
            yield False
            return
        if not resume:
            _set_aside(workdir)
        try:
            _write_json(workdir / "config.json", config)
            _write_json(workdir / "overrides.json", call.overrides)
            _write_json(workdir / "env.json", environment(_starts(workdir)))
        except OSError as error:
            raise _unwritable(workdir, error) from None
        yield True


def finish(workdir: pathlib.Path, report: str | None = None) -> None:
    """Writes report.md, if it is given, then DONE."""
    if report is not None:
        write(workdir / "report.md", report)
    write(workdir / "DONE", time.strftime("%Y-%m-%d %H:%M:%S\n"))


def show(workdir: pathlib.Path) -> None:
    """Prints the report of a run that was finished before."""
    print((workdir / "report.md").read_text("utf-8"))
    print(f"This run was finished before, in {workdir}; nothing was done again.")


def plain(config: Any) -> Any:
    """A ConfigDict as it looks when read back from config.json."""
    return json.loads(config.to_json_best_effort())


def stored(workdir: pathlib.Path) -> ConfigDict:
    """The config of the run in `workdir`, tuples again what JSON made lists of.

    Raises:
      LoraxError: there is no run, or its config is damaged.
    """
    file = workdir / "config.json"
    try:
        return ConfigDict(_tuples(json.loads(file.read_text("utf-8"))))
    except OSError as error:
        raise LoraxError(
            f"no run at '{workdir}' ({error.strerror}): expected a --workdir of experiments.train"
        ) from None
    except ValueError:
        raise LoraxError(f"'{file}' is not JSON: it was changed after the run") from None


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def differences(
    old: Any, new: Any, name: str = "config", ways: Sequence[str] = ("there", "here")
) -> list[str]:
    """One line a field that differs, `config.a.b: 1 there, 2 here`."""
    if isinstance(old, dict) and isinstance(new, dict):
        fields = [*old, *(field for field in new if field not in old)]
        missing = "absent"
        return [
            line
            for field in fields
            for line in differences(
                old.get(field, missing), new.get(field, missing), f"{name}.{field}", ways
            )
        ]
    if old == new:
        return []
    return [f"{name}: {_short(old)} {ways[0]}, {_short(new)} {ways[1]}"]


def environment(starts: Sequence[str] = ()) -> dict[str, Any]:
    """What a run depended on: versions, device, machine, commit, command.

    Args:
      starts: when it was started before, where this is a resumption.
    """
    import jax

    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "packages": versions,
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "machine": platform.platform(),
        "git": _commit(),
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": [*starts, time.strftime("%Y-%m-%dT%H:%M:%S%z")],
    }


def _starts(workdir: pathlib.Path) -> list[str]:
    try:
        return list(json.loads((workdir / "env.json").read_text("utf-8"))["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout, with a + where files differ from it; None outside a checkout."""
    root = pathlib.Path(__file__).parent.parent
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (
        head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if not head.returncode else None
    )


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
    """Two runs in one folder would mix their metrics; the lock goes with the process."""
    try:
        file = open(workdir / ".lock", "a", encoding="utf-8")
    except OSError as error:
        raise _unwritable(workdir, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LoraxError(
                f"workdir '{workdir}' is in use by another run: wait for it, or choose another "
                "--workdir"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def _contents(workdir: pathlib.Path) -> list[pathlib.Path]:
    kept = ("unfinished-", ".")
    return sorted(entry for entry in workdir.iterdir() if not entry.name.startswith(kept))


def _check_same(workdir: pathlib.Path, config: Any) -> None:
    contents, file = _contents(workdir), workdir / "config.json"
    if not contents:
        return
    if not file.is_file():
        raise LoraxError(
            f"workdir '{workdir}' holds '{contents[0].name}' but no config.json, so it is not a "
            "run's: choose another --workdir"
        )
    try:
        there = json.loads(file.read_text("utf-8"))
    except ValueError:
        raise LoraxError(
            f"'{file}' is not JSON: remove the workdir, or choose another --workdir"
        ) from None
    changed = differences(*(_without_mesh(one) for one in (there, config)))
    if changed:
        raise LoraxError(
            f"workdir '{workdir}' holds a run of another config ({'; '.join(changed)}): choose "
            "another --workdir, or set these fields back"
        )


def _without_mesh(config: Any) -> Any:
    """The fields that a run's numbers depend on: any mesh may go on with it."""
    return {name: value for name, value in config.items() if name != "mesh"}


def _set_aside(workdir: pathlib.Path) -> None:
    contents = _contents(workdir)
    if not contents:
        return
    number = 1 + sum(1 for _ in workdir.glob("unfinished-*"))
    aside = workdir / f"unfinished-{number}"
    aside.mkdir()
    for entry in contents:
        entry.rename(aside / entry.name)
    print(f"An unfinished run was here. It cannot be resumed; its files are now in {aside}.")


def _write_json(file: pathlib.Path, value: Any) -> None:
    write(file, json.dumps(value, indent=2, default=str) + "\n")


def write(file: pathlib.Path, text: str) -> None:
    """Whole or not at all: a process may be killed at any moment."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(file)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unwritable(workdir: pathlib.Path, error: OSError) -> LoraxError:
    return LoraxError(
        f"cannot write workdir '{workdir}' ({error.strerror}): make it writable, free some space, "
        "or choose another --workdir"
    )
