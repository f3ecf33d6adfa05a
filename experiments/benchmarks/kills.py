"""Does a run that is killed again and again end where an undisturbed one does?

    python -m experiments.benchmarks.kills [--kills=100] [--output=kills.json]

Runs a small training with dropout, evaluations and a checkpoint every other step once to its end.
Then it starts the same config over and over, kills the process with SIGKILL at a random moment
(start, step, save, evaluation, report), starts it again in the same workdir until it is done, and
compares every record but its times, the bytes of the final delta and the evaluations. Prints how
many kills were survived, and when they struck.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from experiments.benchmarks import _measure as measure

STEPS = 60
CONFIG = ("--config=configs/quickstart.py:smoke",)
OVERRIDES = (
    "--config.adapter.dropout=0.1",
    f"--config.train.steps={STEPS}",
    "--config.train.log_every=1",
    "--config.checkpoint.every=2",
    "--config.eval.every=10",
)
TIMES = ("step_time_sec", "seconds", "seconds_per_step", "wait_share")
"""Fields of a record that tell of time, and may differ."""

PER_RUN = 10
"""Kills of one run before it is left in peace."""


def start(workdir: pathlib.Path) -> subprocess.Popen[str]:
    """The training in a process of its own, in `workdir`."""
    command = [sys.executable, "-m", "experiments.train", *CONFIG, *OVERRIDES]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def finish(workdir: pathlib.Path) -> None:
    """Runs the training in `workdir` to its end, whatever is there."""
    process = start(workdir)
    said, _ = process.communicate()
    if process.returncode or not (workdir / "DONE").is_file():
        raise RuntimeError(f"the run ended with {process.returncode}: {said[-2000:]}")


def kill(workdir: pathlib.Path, dice: random.Random, busy: float) -> str:
    """Starts the training, kills it at a random moment, and says in what it was struck.

    Args:
      workdir: of the run, begun or not.
      dice: decides on the moment.
      busy: seconds from the first step to the end of an undisturbed run.
    """
    process = start(workdir)
    early = dice.random() < 0.1  # also while it is still reading and compiling
    wait = dice.uniform(0, 4) if early else dice.uniform(0, busy / 2)
    metrics = workdir / "metrics.jsonl"
    before = _size(metrics)
    while not early and process.poll() is None and _size(metrics) == before:
        time.sleep(0.005)
    time.sleep(wait)
    partial = [*workdir.glob("checkpoints/.*"), *workdir.glob("adapter/.*")]
    done = (workdir / "DONE").is_file()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if done:
        return "finished"
    return "save" if partial else "start" if early else "step"


def outcome(workdir: pathlib.Path) -> dict[str, Any]:
    """What must be equal: the records without their times, and the bytes of the adapter."""
    lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    kept = [{k: v for k, v in record.items() if k not in TIMES} for record in records]
    table = json.loads((workdir / "adapter" / "adapter.json").read_text("utf-8"))
    return {"records": kept, "delta": delta_bytes(workdir / "adapter"), "form": table["delta"]}


def delta_bytes(folder: pathlib.Path) -> list[bytes]:
    """The bytes of each array of a saved adapter."""
    import jax
    import numpy as np

    from lorax.io.checkpoint import load_adapter

    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load_adapter(folder)[1])]


def survive(folder: pathlib.Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kills runs until `kills` have struck; counts the runs whose outcome is the undisturbed one's.

    Args:
      folder: for the workdirs, empty.
      kills: how many.
      seed: of the moments.
    """
    dice = random.Random(seed)
    finish(folder / "whole")
    wanted = outcome(folder / "whole")
    stamps = [p.stat().st_mtime for p in (folder / "whole").glob("*.json*")]
    busy = max(1.0, (folder / "whole" / "DONE").stat().st_mtime - min(stamps))
    struck: dict[str, int] = {}
    equal, runs = 0, 0
    while sum(struck.values()) < kills:
        workdir = folder / f"run-{runs}"
        for _ in range(min(PER_RUN, kills - sum(struck.values()))):
            where = kill(workdir, dice, busy)
            if where == "finished":
                break
            struck[where] = struck.get(where, 0) + 1
        finish(workdir)
        equal += outcome(workdir) == wanted
        runs += 1
        shutil.rmtree(workdir)
    return {"kills": sum(struck.values()), "struck_in": struck, "runs": runs, "equal_runs": equal}


def _size(file: pathlib.Path) -> int:
    return file.stat().st_size if file.exists() else 0


def verb(argv: list[str]) -> None:
    """Runs it and prints its JSON; the exit code tells whether every run ended as it should."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        found = survive(pathlib.Path(folder), flags.FLAGS.kills, flags.FLAGS.seed)
    work = f"{CONFIG[0]}, {STEPS} steps, a checkpoint every 2, dropout 0.1"
    result = {"benchmark": "kills", "work": work, "setting": measure.setting(), **found}
    text = json.dumps(result, indent=2)
    print(text)
    if flags.FLAGS.output:
        pathlib.Path(flags.FLAGS.output).write_text(text + "\n", "utf-8")
    sys.exit(found["equal_runs"] != found["runs"])


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 100, "how many times a run is killed", 1)
    flags.DEFINE_integer("seed", 0, "of the moments")
    flags.DEFINE_string("output", None, "also write the JSON to this file")
    app.run(verb)
