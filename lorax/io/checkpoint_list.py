"""Which checkpoints does a directory hold, which is best, and which is the newest sound one?

Read from the disk each time: a directory is what it holds, whoever wrote it.
"""

import contextlib
import math
import pathlib
import re
import uuid

from lorax.core.errors import LoraxError
from lorax.io import arrays as store
from lorax.io import checkpoint_folder as disk

_STEP = re.compile(r"0|[1-9][0-9]*")


def steps(directory: pathlib.Path) -> list[int]:
    """Those with a checkpoint, sound or not, in order."""
    if not directory.is_dir():
        return []
    names = (entry.name for entry in directory.iterdir() if entry.is_dir())
    return sorted(int(name) for name in names if _STEP.fullmatch(name))


def listed(directory: pathlib.Path) -> str:
    """`steps` in words."""
    found = ", ".join(map(str, steps(directory)))
    return f"checkpoints are there of steps {found}" if found else "there is no checkpoint yet"


def best_step(directory: pathlib.Path, metric: str, sign: int) -> int | None:
    """The step with the least `sign` times `metric`, first among equals; None if all lack it."""
    values = []
    for step in steps(directory):
        with contextlib.suppress(store.Damaged, LoraxError):
            value = disk.read_about(directory / str(step))["metrics"].get(metric)
            if value is not None and math.isfinite(value):
                values.append((sign * value, step))
    return min(values)[1] if values else None


def newest_sound(directory: pathlib.Path, *, rename: bool) -> tuple[int | None, list[str]]:
    """The newest step whose checkpoint is sound, None if there is no checkpoint at all.

    Args:
      rename: damaged ones that are newer, to `<step>.corrupt`, so that they can be saved again.

    Returns:
      The step, and a line for each damaged one that was passed over, newest first.

    Raises:
      LoraxError: all are damaged.
    """
    damaged: dict[int, str] = {}
    for step in reversed(steps(directory)):
        try:
            disk.check(directory / str(step))
        except store.Damaged as error:
            damaged[step] = damage(step, error)
            continue
        return step, [_set_aside(directory, old, text, rename) for old, text in damaged.items()]
    if damaged:
        raise LoraxError(
            f"every checkpoint in '{directory}' is damaged: {next(iter(damaged.values()))}: copy "
            "them again, or move them away to start anew"
        )
    return None, []


def check_step(directory: pathlib.Path, step: int) -> None:
    """Raises LoraxError unless the checkpoint of `step` is there and sound."""
    if step not in steps(directory):
        raise LoraxError(f"'{directory}' has no checkpoint of step {step}: {listed(directory)}")
    try:
        disk.check(directory / str(step))
    except store.Damaged as error:
        raise LoraxError(f"{damage(step, error)}: choose another: {listed(directory)}") from None


def damage(step: int, error: store.Damaged) -> str:
    """What is wrong with the checkpoint of `step`, in words."""
    return f"checkpoint {step} is damaged ('{error.file}': {error.reason})"


def _set_aside(directory: pathlib.Path, step: int, text: str, rename: bool) -> str:
    """Renames a damaged checkpoint if it may; returns the line that tells."""
    aside = directory / f"{step}.corrupt"
    if aside.exists():
        aside = aside.with_name(f"{aside.name}.{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(OSError):
        if rename:
            (directory / str(step)).rename(aside)
            return f"{text}: passed over, and kept as '{aside.name}'"
    return f"{text}: passed over"
