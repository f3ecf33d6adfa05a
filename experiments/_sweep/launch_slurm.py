"""How do tasks run on a SLURM cluster? As one job array, through submitit.

    --launcher=slurm --launcher_options=partition=gpu,gpus_per_node=1,timeout_min=120

A job whose time is up, or that is preempted, has its worker save, and is queued again.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments._cli import nearest
from experiments._sweep.worker import Attended
from lorax.core.errors import LoraxError, check_choice

if TYPE_CHECKING:
    from experiments._sweep.tasks import Task

OPTIONS = None
"""Any that submitit knows: its own, or those of sbatch."""

GENERIC = (
    "name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node",
    "stderr_to_stdout",
)  # fmt: skip
"""Options of submitit that hold for every kind of cluster."""

TIMEOUT = 240
"""Minutes of a job, unless the option timeout_min says otherwise."""

KILLED = -int(signal.SIGKILL)


def check(options: Mapping[str, str]) -> None:
    """Raises LoraxError unless submitit is there and takes the options."""
    check_choice("cluster", options.get("cluster", "slurm"), ("slurm", "local"))
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise LoraxError(
            "--launcher=slurm takes submitit: pip install 'lorax-flax[slurm]'"
        ) from None
    from submitit.slurm.slurm import SlurmExecutor

    if options.get("cluster") != "local" and shutil.which("srun") is None:
        raise LoraxError(
            "there is no SLURM here (no srun is found): use --launcher=local, or "
            "--launcher_options=cluster=local"
        )
    known = [*GENERIC, "cluster", *SlurmExecutor._valid_parameters()]
    for option in options:
        if option not in known:
            raise LoraxError(
                f"--launcher=slurm has no option '{option}'{nearest(option, known)}: expected one "
                "of submitit's, such as partition, timeout_min or gpus_per_node"
            )


@contextlib.contextmanager
def opened(folder: pathlib.Path, workers: int, options: Mapping[str, str]) -> Iterator["_Slurm"]:
    """The launcher of a job array, of which `workers` run at a time; 0 leaves that to SLURM."""
    import submitit

    cluster = options.get("cluster", "slurm")
    given = {k: _number(v) for k, v in options.items() if k != "cluster"}
    given = {"name": "sweep", "timeout_min": TIMEOUT} | given
    if workers:
        given.setdefault("array_parallelism", workers)
    named = {k if k in GENERIC else f"slurm_{k}": v for k, v in given.items()}
    with _told():
        executor = submitit.AutoExecutor(folder / "submitit", cluster=cluster)
        executor.update_parameters(**named)
    local = cluster == "local"
    yield _Slurm(executor, local, max(1, workers) if local else 10**6)


class _Slurm:
    def __init__(self, executor: Any, local: bool, width: int):
        self.width = width
        self._executor, self._local = executor, local

    def start(self, tasks: "Sequence[Task]") -> list["_Job"]:
        calls = [_Work(task.command, task.log, apart=self._local) for task in tasks]
        # jobs of this machine leave a Ctrl-C to this process: they inherit that it is blocked
        blocked = {signal.SIGINT} if self._local else set()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            with _told(), self._executor.batch():
                jobs = [self._executor.submit(call) for call in calls]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return [_Job(job, self._local) for job in jobs]


class _Work(Attended):
    """What a job calls; submitit calls `checkpoint` when its time is up or it is preempted."""

    def __call__(self) -> int:
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            # SLURM signals the worker itself, the local executor only this process
            signal.signal(signal.SIGTERM, lambda *_: self.end())
        return super().__call__()

    def checkpoint(self) -> Any:
        """Has the worker save, and is queued again."""
        from submitit.helpers import DelayedSubmission

        self.end()
        return DelayedSubmission(self)


class _Job:
    def __init__(self, job: Any, local: bool):
        self._job, self._local = job, local

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        if not self._job.paths.result_pickle.exists():
            return KILLED
        try:
            return self._job.result()
        except Exception:  # told in submitit's own log
            return KILLED

    def stop(self) -> None:
        if self._local:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._job.job_id), signal.SIGTERM)
        else:
            self._job.cancel()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What submitit and SLURM complain of, as one line."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        yield
    except (FailedJobError, FailedSubmissionError) as error:
        raise LoraxError(f"SLURM refuses the jobs: {' '.join(str(error).split())}") from None
    except (NameError, ValueError, AssertionError) as error:
        raise LoraxError(f"--launcher_options: {' '.join(str(error).split())}") from None


def _number(text: str) -> str | int | float:
    if re.fullmatch(r"\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d*\.\d+", text) else text
