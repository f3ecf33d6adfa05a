"""How do tasks run without a cluster? As processes of this machine, each with a GPU of its own."""

import contextlib
import math
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from experiments._sweep import worker

if TYPE_CHECKING:
    from experiments._sweep.tasks import Task

OPTIONS: tuple[str, ...] = ()


def check(options: Mapping[str, str]) -> None:
    """There is nothing to be installed, and nothing to be chosen."""


def gpus() -> list[str]:
    """Those that CUDA_VISIBLE_DEVICES names, or else all of this machine."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    devices = pathlib.Path("/dev").glob("nvidia[0-9]*")
    return sorted((path.name.removeprefix("nvidia") for path in devices), key=int)


def workers() -> int:
    """Processes at a time where nothing is asked for: one a GPU, or one."""
    return max(1, len(gpus()))


@contextlib.contextmanager
def opened(folder: pathlib.Path, width: int, options: Mapping[str, str]) -> Iterator["_Local"]:
    """The launcher of `width` processes at a time; 0 means `workers()`."""
    yield _Local(width or workers(), gpus())


class _Local:
    def __init__(self, width: int, devices: Sequence[str]):
        self.width = width
        self._env = [_environment(lane, width, devices) for lane in range(width)]
        self._jobs: dict[int, _Process] = {}

    def start(self, tasks: "Sequence[Task]") -> list["_Process"]:
        jobs = []
        for task in tasks:
            lane = next(lane for lane in range(self.width) if self._is_free(lane))
            process = worker.start(task.command, task.log, self._env[lane])
            self._jobs[lane] = _Process(process)
            jobs.append(self._jobs[lane])
        return jobs

    def _is_free(self, lane: int) -> bool:
        return lane not in self._jobs or self._jobs[lane].poll() is not None


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.terminate()


def _environment(lane: int, width: int, devices: Sequence[str]) -> dict[str, str]:
    """That of this process; of several GPUs the lane has one, or its share of one."""
    env = dict(os.environ)
    if len(devices) > 1:
        env["CUDA_VISIBLE_DEVICES"] = devices[lane % len(devices)]
    if devices and width > len(devices):
        # JAX takes three quarters of a GPU by default, so a second process would find too little
        share = 0.9 / math.ceil(width / len(devices))
        env.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.2f}")
    return env
