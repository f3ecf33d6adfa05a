"""How long does a whole sweep take, from the command to its end, beside other ways to run it?

The sweep of `_sweep_page` as one `python -m experiments.sweep`; the same units as processes of
`python -m experiments.train`, one after another; and their training alone, without evaluations and
files, by torch and peft in one warm process (`_sweep_torch`). All get the same cores.
"""

import dataclasses
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import lorax
from experiments._page_file import load_config
from experiments._sweep.points import read_sweep
from experiments._sweep.units import Unit, make_units
from experiments._train.method import make_optimizer
from experiments._train.model import drawn
from experiments._train.setting import Setting, make_setting
from lorax.io import pretrained
from lorax.train.metrics import read_metrics

PAGE = "experiments/benchmarks/_sweep_page.py"
SCRIPT = pathlib.Path(__file__).with_name("_sweep_torch.py")
WORK = (
    "stories260K to Shakespeare, LoRA all-linear, 6 ranks x 4 rates, 200 updates of 2 x 64 tokens "
    "(2 x 128 with the page's word long), AdamW, f32, held-out numbers of 2 x 64 windows; torch "
    "and peft: the training alone"
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
AGREE = 1e-4
"""How near the losses of both programs on the first batch must be."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
      page: of the sweep, with its words.
      solo: units that are run as processes of their own; 0 for all.
      torch_python: of an environment with torch and peft; empty leaves them out.
      threads: of torch; the best of these is taken, in a trial of one unit each.
    """

    page: str = PAGE
    solo: int = 0
    torch_python: str = ""
    threads: Sequence[int] = (1, os.cpu_count() or 1)


class Spent(NamedTuple):
    """By a process, from its start to its end; CPU time counts every core."""

    seconds: float
    cpu_seconds: float


def run(plan: Plan, folder: pathlib.Path) -> dict[str, Any]:
    """Everything, as one JSON-ready result.

    Args:
      plan: what is measured.
      folder: empty; workdirs are left in it.

    Raises:
      RuntimeError: a process that does not end well, or losses that do not agree.
    """
    units = _units(plan.page)
    chosen = units[:: len(units) // (plan.solo or len(units))]
    before, after = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    alone = _alone(plan, before, folder)
    sweep, said = _timed(_verb("sweep", plan.page, folder / "sweep"))
    alone |= _alone(plan, after, folder)
    separate = Spent(*(sum(x) * len(units) / len(alone) for x in zip(*alone.values(), strict=True)))
    spent = {"sweep": sweep, "separate_processes": separate}
    result: dict[str, Any] = {
        "page": plan.page,
        "units": len(units),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "separate_processes_run": len(alone),
        "separate_processes_extrapolated": len(alone) < len(units),
        "compilations_of_the_step": len(compilations(said)),
        "programs_compiled": len(re.findall(r"Finished XLA compilation of", said)),
        "seconds_of_separate_processes": {n: round(s.seconds, 1) for n, s in alone.items()},
        "largest_difference_of_validation_losses": _difference(folder, list(alone)),
    }
    if plan.torch_python:
        spent["torch"], result["torch"] = _torch(plan, units, folder)
    for i, field in enumerate(Spent._fields):
        result[field] = {name: round(one[i], 1) for name, one in spent.items()}
        for other in list(spent)[1:]:
            ratio = spent["sweep"][i] / spent[other][i]
            result[f"sweep_over_{other}" + ("_cpu" if i else "")] = round(ratio, 3)
    return result


def compilations(said: str) -> list[str]:
    """The compilations of a training step in the log of a sweep."""
    return re.findall(r"Finished XLA compilation of jit\(step\).*", said)


def _units(page: str) -> list[Unit]:
    config = load_config(page)
    return list(make_units(config, read_sweep(page, config, "", alone=False).points, {}))


def _verb(verb: str, page: str, workdir: pathlib.Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", f"experiments.{verb}",
        f"--config={page}", f"--workdir={workdir}", *flags,
    ]  # fmt: skip


def _alone(plan: Plan, units: Sequence[Unit], folder: pathlib.Path) -> dict[str, Spent]:
    """What each unit takes as a process of its own."""
    spent = {}
    for unit in units:
        flags = (f"--config.{field}={value}" for field, value in unit.overrides.items())
        command = _verb("train", plan.page, folder / "alone" / unit.name, *flags)
        spent[unit.name], _ = _timed(command)
    return spent


def _timed(command: Sequence[str], **env: str) -> tuple[Spent, str]:
    """What a process takes, and what it said; nothing that was compiled before is found."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    before, start = _cpu_of_children(), time.perf_counter()
    ended = subprocess.run(
        command, env=kept | {"JAX_LOG_COMPILES": "1"} | env, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-2000:]}"
        )
    return Spent(seconds, _cpu_of_children() - before), ended.stdout + ended.stderr


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _difference(folder: pathlib.Path, names: Sequence[str]) -> float:
    """Of the units in the sweep from the same units alone, in nats."""

    def loss(workdir: pathlib.Path) -> float:
        return float(read_metrics(workdir / "metrics.jsonl")[-1]["validation/loss"])

    pairs = [(folder / "sweep" / "units" / name, folder / "alone" / name) for name in names]
    return float(f"{max(abs(loss(a) - loss(b)) for a, b in pairs):.1e}")


def _torch(plan: Plan, units: Sequence[Unit], folder: pathlib.Path) -> tuple[Spent, dict[str, Any]]:
    """What the peer's process takes, and what it says of it."""
    setting = make_setting(units[0].config)
    work = folder / "torch"
    work.mkdir()
    ours = _export(setting, work)
    peer = {
        "alpha": setting.config.adapter.alpha,
        "clip": setting.config.optimizer.clip,
        "targets": TARGETS,
        "schedule": _factors(setting),
    }
    every = [
        {"rank": u.config.adapter.rank, "rate": u.config.optimizer.learning_rate} for u in units
    ]

    def tell(units: Sequence[Mapping[str, Any]], threads: int) -> tuple[Spent, dict[str, Any]]:
        text = json.dumps(peer | {"units": units, "threads": threads})
        (work / "work.json").write_text(text, "utf-8")
        env = {"OMP_NUM_THREADS": str(threads)}
        spent, said = _timed([plan.torch_python, str(SCRIPT), str(work)], **env)
        line = next(line for line in said.splitlines() if line.startswith("{"))
        return spent, json.loads(line)

    trial = {n: tell(every[:1], n)[1]["unit_seconds"][0] for n in sorted({*plan.threads})}
    threads = min(trial, key=trial.__getitem__)
    spent, found = tell(every, threads)
    if abs(found["bare_loss"] - ours) > AGREE:
        raise RuntimeError(f"torch has loss {found['bare_loss']} where this project has {ours}")
    return spent, found | {
        "our_bare_loss": ours,
        "threads": threads,
        "unit_seconds_by_threads": trial,
    }


def _export(setting: Setting, work: pathlib.Path) -> float:
    """Model and batches in a form that others read; the bare model's loss on the first batch."""
    subject, pipeline = (
        drawn(setting.subject, setting.config, setting.example, setting.layout),
        setting.data.pipeline,
    )
    pretrained.save(work / "model", subject.model, subject.base)
    batches = [pipeline[step] for step in range(setting.steps)]
    fields = {name: np.stack([getattr(b, name) for b in batches]) for name in ("inputs", "targets")}
    np.savez(work / "batches.npz", **fields)
    first = batches[0]
    if not np.all([batch.mask for batch in batches]):
        raise RuntimeError("a target does not count: the peer counts all of them")
    delta = lorax.adapt(setting.fn, setting.adapter).init(
        jax.random.key(0), subject.base, first.inputs
    )
    loss, _ = jax.jit(setting.loss)(delta, subject.base, first, jax.random.key(0))
    return float(loss)


def _factors(setting: Setting) -> list[float]:
    """The schedule as shares of its highest rate."""
    part = setting.config.optimizer
    _, rate = make_optimizer(part, setting.steps)
    return [float(rate(step)) / part.learning_rate for step in range(setting.steps)]
