"""How do tasks run on a Ray cluster? Each as a remote function that starts the worker and waits.

    --launcher=ray --workers=2                                    a cluster of this machine alone
    --launcher=ray --launcher_options=address=auto,num_gpus=1     one that is there

All machines see the same files at the same paths.
"""

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._sweep.worker import Attended
from lorax.core.errors import LoraxError
from lorax.train.stop import CAUGHT

if TYPE_CHECKING:
    from experiments._sweep.tasks import Task

OPTIONS = ("address", "num_cpus", "num_gpus")

GIVEN = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
"""What Ray says to a task of the devices that it may use."""

KILLED = -int(signal.SIGKILL)


def check(options: Mapping[str, str]) -> None:
    """Raises LoraxError unless ray is there, and the options are numbers where they should."""
    for name in ("num_cpus", "num_gpus"):
        _amount(options, name)
    try:
        import ray  # noqa: F401
    except ImportError:
        raise LoraxError("--launcher=ray takes ray: pip install 'lorax-flax[ray]'") from None


@contextlib.contextmanager
def opened(folder: Path, workers: int, options: Mapping[str, str]) -> Iterator["_Ray"]:
    """The launcher of `workers` tasks at a time; 0 means as many as the cluster has room for."""
    import ray

    cpus, gpus = _amount(options, "num_cpus"), _amount(options, "num_gpus")
    cpus = 1.0 if cpus is None else cpus
    address = options.get("address")
    _connect(address, max(1, round(cpus * workers)) if workers else None)
    try:
        has = ray.cluster_resources()
        gpus = min(1.0, has.get("GPU", 0.0)) if gpus is None else gpus
        lacks = [
            f"{want:g} {kind}s (it has {has.get(kind, 0):g})"
            for kind, want in (("CPU", cpus), ("GPU", gpus))
            if want > has.get(kind, 0)
        ]
        if lacks and address is None:
            raise LoraxError(f"a task wants {' and '.join(lacks)}: set num_cpus, num_gpus")
        yield _Ray(ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_work), workers or 10**6)
    finally:
        with _undisturbed():
            ray.shutdown()


class _Ray:
    def __init__(self, remote: Any, width: int):
        self.width = width
        self._remote = remote

    def start(self, tasks: "Sequence[Task]") -> list["_Job"]:
        env = dict(os.environ)
        return [
            _Job(self._remote.remote(task.command, task.log, os.getcwd(), env)) for task in tasks
        ]


def _work(command: Sequence[str], log: Path, folder: str, env: Mapping[str, str]) -> int:
    """Runs on a machine of the cluster, in the folder and environment of the one that asked."""
    os.chdir(folder)
    given = {name: os.environ[name] for name in GIVEN if name in os.environ}
    return Attended(command, log, {**env, **given})()


class _Job:
    def __init__(self, reference: Any):
        self._reference = reference

    def poll(self) -> int | None:
        import ray

        done, _ = ray.wait([self._reference], timeout=0)
        if not done:
            return None
        try:
            return int(ray.get(self._reference))
        except ray.exceptions.RayError:  # the machine or Ray's own process is gone, or it was told
            return KILLED

    def stop(self) -> None:
        import ray

        ray.cancel(self._reference)


def _connect(address: str | None, cpus: int | None) -> None:
    """Starts Ray on this machine, or meets the one at `address`."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will come to be
    own: dict[str, Any] = {}
    if address is None:
        own = {"num_cpus": cpus, "include_dashboard": False}
    try:
        with _undisturbed():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        line = " ".join(str(error).split())
        raise LoraxError(f"Ray does not answer {where} ({line}): check the address") from None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps this process's handlers of signals, which Ray takes over, and is spared warnings."""
    main = threading.current_thread() is threading.main_thread()
    before = {signum: signal.getsignal(signum) for signum in CAUGHT} if main else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks, and of what Ray itself has not closed
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def _amount(options: Mapping[str, str], name: str) -> float | None:
    """Of CPUs or GPUs a task; None where it is not given."""
    text = options.get(name)
    try:
        amount = None if text is None else float(text)
    except ValueError:
        amount = -1.0
    if amount is not None and not 0 <= amount < float("inf"):
        raise LoraxError(f"--launcher_options: {name}={text}: expected a number such as 1")
    return amount
