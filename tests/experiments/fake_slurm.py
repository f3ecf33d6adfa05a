"""Commands of SLURM, as far as submitit calls them, on this machine; for tests of job arrays.

sbatch FILE     every job of the array in a process group of its own, for FAKE_SLURM as its state
srun ... ARGS   the command alone
sacct, scancel, scontrol requeue
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

STATE = pathlib.Path(os.environ.get("FAKE_SLURM", "."))
ARRAY = "7"


def install(folder):
    """Makes the commands in `folder`, to be put into PATH."""
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)


def sbatch(file):
    """Starts what the file asks for."""
    text = pathlib.Path(file).read_text()
    if "partition=none" in text:
        sys.exit("sbatch: error: invalid partition specified: none")
    number = ARRAY + str(len(list(STATE.glob("*.sbatch"))))
    (STATE / f"{number}.sbatch").write_text(text)
    found = re.search(r"--array=(\d+)-(\d+)", text)
    indices = range(int(found[1]), int(found[2]) + 1) if found else [None]
    for index in indices:
        begin(number, index)
    print(f"Submitted batch job {number}")


def begin(number, index):
    """One job, which outlives this process."""
    name = number if index is None else f"{number}_{index}"
    env = os.environ | {"SLURM_JOB_ID": name.replace("_", "0"), "SLURM_PROCID": "0"}
    if index is not None:
        env |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
    out = open(STATE / f"{name}.out", "a")
    script = f"echo $$ > {STATE}/{name}.pid; . {STATE}/{number}.sbatch; echo > {STATE}/{name}.end"
    subprocess.Popen(
        ["/bin/bash", "-c", script], env=env, process_group=0, stdout=out, stderr=out,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def srun(*args):
    """The command after the options."""
    at = next(i for i, arg in enumerate(args) if arg.endswith(("python", "python3")))
    os.execvp(args[at], args[at:])


def sacct(*args):
    """States of all jobs."""
    print("JobID|State|NodeList")
    for pid in STATE.glob("*.pid"):
        print(f"{pid.stem}|{'FAILED' if pid.with_suffix('.end').exists() else 'RUNNING'}|here")


def scancel(name):
    """SIGTERM to all processes of the job but its script."""
    deliver(name, signal.SIGTERM)


def deliver(name, signum):
    """A signal to the steps of a job: all of its processes but the script, as SLURM does."""
    group = int((STATE / f"{name}.pid").read_text())
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and int(stat.parent.name) != group:
            os.kill(int(stat.parent.name), signum)


def scontrol(verb, name):
    """Starts a job again, once it has ended."""
    number, _, index = name.partition("_")
    (STATE / f"{name}.requeued").touch()
    if os.fork() == 0:
        os.setpgid(0, 0)
        while not (STATE / f"{name}.end").exists():
            time.sleep(0.05)
        (STATE / f"{name}.end").unlink()
        begin(number, int(index) if index else None)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
