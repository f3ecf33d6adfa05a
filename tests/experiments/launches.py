"""Launches of the stand-in, in this process or one of their own, and what came of its units."""

import os
import pathlib
import subprocess
import sys
import time

from experiments._sweep.launch import launch
from lorax.train.stop import Stop

HERE = pathlib.Path(__file__).parent
STAND_IN = (sys.executable, str(HERE / "stand_in.py"))


def launched(folder, tasks, *ways, name="local", step=0.01, stop=None, **named):
    """What is said by a launch of the stand-in."""
    said = []
    launch(
        name, tasks, [str(folder), str(step), *ways], folder, say=said.append,
        stop=stop or Stop(), command=STAND_IN, **named,
    )  # fmt: skip
    return said


def results(folder):
    """{unit: its result}."""
    return {p.parent.name: p.name for p in folder.glob("units/*/*") if p.name in ("DONE", "FAILED")}


def starts(folder, unit):
    """How many processes have worked on a unit."""
    return len((folder / "units" / unit / "pids").read_text().split())


def send(signum, folder, workers):
    """Signals this process once so many workers are at work."""
    await_workers(folder, workers)
    os.kill(os.getpid(), signum)


def await_workers(folder, workers, process=None):
    """Waits until so many units are begun, or the process ends."""
    while len(list(folder.glob("units/*/pids"))) < workers:
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.02)


def no_workers(folder, seconds=0.0):
    """Whether none of the processes that worked there runs, after so long at most."""
    end = time.monotonic() + seconds
    pids = [int(p) for file in folder.glob("units/*/pids") for p in file.read_text().split()]
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return pids and not any(map(alive, pids))


def alive(pid):
    """Whether a process runs; one that has ended and waits to be asked for its code does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


DRIVER = """
import pathlib, sys
from experiments._cli import Ended, guarded
from experiments._sweep.launch import launch
from lorax.train.stop import Stopped, catch

name, folder, step, units, workers, options, *stand_in = sys.argv[1:]
options = dict(o.split("=") for o in options.split(",") if o)

def verb():
    with catch() as stop:
        launch(name, [[u] for u in units], [folder, step], pathlib.Path(folder),
               workers=int(workers), options=options, stop=stop, command=stand_in)

def main():
    try:
        verb()
    except Stopped as reason:
        raise Ended(str(reason), 128 + reason.signum) from None

if __name__ == "__main__":
    sys.exit(guarded(main))
"""


def driver(folder, name="local", step=0.3, units="ab", workers=2, options=""):
    """A launch in a process of its own, once its workers are at work."""
    arguments = [name, folder, step, units, workers, options, *STAND_IN]
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)], text=True, process_group=0,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    await_workers(folder, workers, process)
    return process
