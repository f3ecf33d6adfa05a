"""Does a run that is killed again and again end where an undisturbed one does?

    python -m experiments.benchmarks.kills [--kills=100] [--output=kills.json]

Runs a small training with dropout, evaluations and a checkpoint after every step, on a base that is
trained first, once to its end. Then it starts the same command over and over and kills the process
with SIGKILL: at a random moment of its life, or soon after it was seen in the base's training, in
a save, in the training, in an evaluation, or after the last step. Ten such kills, and the run is
left to end. Every record but its times, the bytes of base and delta, and the sample must be those
of the undisturbed run. Prints what the kills struck, told from what they left on disk.
"""

import collections
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
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from absl import app, flags

from experiments.benchmarks import _measure as measure
from lorax.train.metrics import read_metrics

EVERY = 5
"""Steps between evaluations."""


class Work(NamedTuple):
    """What is run: a page, and its numbers of steps, with a save after each."""

    page: tuple[str, ...] = ("--config=configs/quickstart.py:smoke",)
    steps: int = 60
    base: int = 20

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of experiments.train."""
        return (
            *self.page,
            "--config.adapter.dropout=0.1",
            f"--config.pretrain.steps={self.base}",
            f"--config.train.steps={self.steps}",
            "--config.checkpoint.every=1",
            "--config.checkpoint.best=validation/loss",
            f"--config.eval.every={EVERY}",
            "--config.eval.limit=64",
            "--config.eval.batch=1",
        )


TIMES = ("step_time_sec", "seconds_per_step", "wait_share")
"""Fields of a record that tell of time, and may differ."""

AIMS = (
    "base", "any", "save", "training", "evaluation", "save", "any", "evaluation", "finish", "any",
)  # fmt: skip
"""What the kills of one run wait for, in their order."""

LINGER = {"base": 0.3, "save": 0.01, "training": 0.3, "evaluation": 0.005, "finish": 1.0}
"""Seconds, at most, between the moment that is waited for and the kill."""


def start(workdir: pathlib.Path, work: Work) -> subprocess.Popen[str]:
    """The training in a process of its own, which keeps what it compiles beside `workdir`."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *work.flags, f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | cache | {"JAX_PLATFORMS": "cpu"},
    )


def finish(workdir: pathlib.Path, work: Work) -> str:
    """Runs the training in `workdir` to its end, whatever is there; returns what it said.

    Raises:
      RuntimeError: it did not end well.
    """
    process = start(workdir, work)
    said, _ = process.communicate()
    if process.returncode or not (workdir / "DONE").is_file():
        raise RuntimeError(f"{workdir}: the run ended with {process.returncode}: {said[-2000:]}")
    return said


def kill(workdir: pathlib.Path, work: Work, aim: str, dice: random.Random, life: float) -> set[str]:
    """Starts the training, kills it when `aim` is seen, and says in what it was struck.

    Args:
      workdir: of the run, begun or not.
      work: what is run.
      aim: of `AIMS`.
      dice: decides on the moment.
      life: seconds that an undisturbed run takes, for "any".
    """
    before = traces(workdir)
    process = start(workdir, work)
    while aim != "any" and process.poll() is None and aim not in struck(workdir, before, work):
        time.sleep(0.003)
    time.sleep(dice.uniform(0, LINGER.get(aim, life)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return struck(workdir, before, work)


def traces(workdir: pathlib.Path) -> set[tuple[str, int]]:
    """What a run has written: files and folders, and when each was changed."""
    found = set()
    for folder, names, files in os.walk(workdir):
        for name in (*names, *files):
            try:
                path = os.path.join(folder, name)
                found.add((path, os.stat(path).st_mtime_ns))
            except FileNotFoundError:
                pass  # renamed or removed meanwhile
    papers = ("config.json", "overrides.json", "env.json", ".lock")
    return {trace for trace in found if not trace[0].endswith(papers)}


def struck(workdir: pathlib.Path, before: set[tuple[str, int]], work: Work) -> set[str]:
    """What a process is in that has begun with `before` in the workdir, from what is there now.

    One of "start", "base", "training", "evaluation", "finish" and "ended"; and "save" beside it.
    """
    fresh = traces(workdir) - before
    known = {path for path, _ in before}  # what a kill left, which is being removed
    saving = any(path.endswith(".partial") and path not in known for path, _ in fresh)
    found = {"save"} if saving else set()
    if (workdir / "DONE").is_file():
        return {"ended"}
    if not fresh:
        return {"start"}
    last = _last(workdir / "metrics.jsonl")
    if not (workdir / "base" / "DONE").is_file():
        return found | {"base"}
    if last["step"] == work.steps and last["kind"] != "train":
        return found | {"finish"}
    evaluates = last["step"] % EVERY == 0 and last["kind"] == "train"
    return found | {"evaluation" if evaluates else "training"}


def _last(file: pathlib.Path) -> dict[str, Any]:
    records = read_metrics(file) if file.is_file() else []
    return records[-1] if records else {"step": 0, "kind": "none"}


def outcome(workdir: pathlib.Path) -> dict[str, Any]:
    """What must be equal, by name: records without their times, bytes of arrays, the sample."""
    found: dict[str, Any] = {}
    for part in ("base", "."):
        folder = workdir / part
        if not folder.is_dir():
            continue
        for record in read_metrics(folder / "metrics.jsonl"):
            name = f"{record['run']} {record['kind']} {record['step']}"
            name += " again" if name in found else ""
            found[name] = {k: v for k, v in record.items() if k not in TIMES}
        found[f"delta {part}"] = _arrays(folder / "adapter")
    if (workdir / "samples.jsonl").is_file():
        found["sample"] = (workdir / "samples.jsonl").read_bytes()
    return found


def _arrays(folder: pathlib.Path) -> dict[str, bytes]:
    """The bytes of each array of a saved adapter, by path."""
    import jax
    import numpy as np

    from lorax.io.checkpoint import load_adapter

    leaves = jax.tree_util.tree_leaves_with_path(load_adapter(folder)[1])
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of what differs between two outcomes, in order."""
    return [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]


def survive(
    folder: pathlib.Path,
    work: Work,
    kills: int,
    seed: int = 0,
    aims: Sequence[str] = AIMS,
) -> dict[str, Any]:
    """Kills runs until `kills` have struck; counts the runs that end as the undisturbed one.

    Args:
      folder: for the workdirs; `whole` in it is the undisturbed run, made if it is missing.
      work: what is run.
      kills: how many.
      seed: of the moments.
      aims: of the kills of one run.

    Raises:
      RuntimeError: a run that does not end well when it is left alone.
    """
    dice, begun = random.Random(seed), time.monotonic()
    if not (folder / "whole" / "DONE").is_file():
        finish(folder / "whole", work)
    wanted = outcome(folder / "whole")
    life = max(5.0, (time.monotonic() - begun) / 3)  # the others find their programs compiled
    made, runs, equal = 0, 0, 0
    where, differing = collections.Counter[str](), dict[str, list[str]]()
    while made < kills:
        workdir = folder / f"run-{runs}"
        for aim in aims[: kills - made]:
            hit = kill(workdir, work, aim, dice, life)
            if "ended" in hit:
                break
            made += 1
            where.update(hit)
        finish(workdir, work)
        differs = differences(outcome(workdir), wanted)
        if differs:
            differing[workdir.name] = differs
        equal += not differs
        runs += 1
        shutil.rmtree(workdir)
    saves = where.pop("save", 0)
    return {
        "kills": made, "struck_in": dict(where), "inside_a_save": saves,
        "runs": runs, "equal_runs": equal, "differing": differing,
    }  # fmt: skip


def verb(argv: list[str]) -> None:
    """Runs it and prints its JSON; the exit code tells whether every run ended as it should."""
    del argv
    work = Work()
    with tempfile.TemporaryDirectory() as folder:
        found = survive(pathlib.Path(folder), work, flags.FLAGS.kills, flags.FLAGS.seed)
    setting = measure.setting()
    setting["versions"] |= {name: version(name) for name in ("orbax-checkpoint", "grain")}
    result = {
        "benchmark": "kills",
        "work": f"experiments.train {' '.join(work.flags)}",
        "setting": setting,
        **found,
    }
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
