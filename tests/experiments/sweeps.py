"""Sweeps without training: a page, and a stand-in that leaves units as training would."""

import contextlib
import io
import json
import math
import sys
import types
from typing import NamedTuple

import pytest

import experiments._sweep
from experiments import sweep
from experiments._cli import parse
from experiments._sweep.points import read_sweep
from experiments._sweep.units import make_units

PAGE = """
from configs._sweeps import axis, best_of, label, product
from configs.mnist_mlp import get_config as one_run

reduction = best_of("lr")

def get_config(arg=""):
    return one_run("lora,smoke")

def sweep(arg=""):
    ranks = axis("adapter.rank", (1, 4) if "large" in arg else (1, 2))
    yield from product(ranks, axis("lr", (1e-3, 1e-2, 1e-1)), axis("seed", (0, 1)))

def sweep_where():
    return axis("adapter.where", [label("first", (".*dense_0/kernel",)), ("all-linear",)])
"""
"""Twelve units; six with --sweep=where,seed."""


class Said(NamedTuple):
    """How a sweep ended, and its lines."""

    code: int
    out: list[str]
    err: list[str]


def page(folder, text=PAGE):
    """The file of a page."""
    file = folder / "page.py"
    file.write_text(text)
    return str(file)


def units_of(name, chosen="", *flags):
    """The units of a page."""
    call = parse([f"--config={name}", "--workdir=x", *flags], name)
    return make_units(call.config, read_sweep(name, call.config, chosen).points, call.overrides)


def loss(unit):
    """Lowest at a rate of 0.01, lower for higher ranks, a little other for other seeds."""
    rate, rank = unit.config.optimizer.learning_rate, unit.config.adapter.rank
    return abs(math.log10(rate / 0.01)) + 1 / rank + unit.config.seed.init / 10


class Trainer:
    """In place of experiments._sweep.pack.

    Attributes:
      bad: names of units that become NaN.
      runs: the names that each call was given.
      before: called with each unit.
    """

    def __init__(self, bad=(), before=lambda unit: None):
        self.bad, self.runs, self.before = bad, [], before

    def run_units(self, units, folder, stop, *, pack=0, memory=0.0, say=print):
        """As the real one, without training."""
        self.runs.append([unit.name for unit in units])
        self.pack, self.memory = pack, memory
        for unit in units:
            self.before(unit)
            leave(folder, unit, failed=unit.name in self.bad)


def leave(folder, unit, *, failed=False):
    """The folder of a unit that has ended."""
    place = folder / "units" / unit.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(unit.config.to_json_best_effort())
    value = loss(unit)
    record = {
        "run": "train", "kind": "result", "step": 2, "trainable": 100 * unit.config.adapter.rank,
        "validation/loss": value, "test/loss": value + 0.5, "base/test/loss": 9.0,
        "test/nan": None, "seconds_per_step": 0.01, "notes": ["a note"], "test/words": "text",
    }  # fmt: skip
    if failed:
        record = {"run": "train", "kind": "train", "step": 1, "loss": None}
    (place / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (place / ("FAILED" if failed else "DONE")).write_text("the loss of step 1 is no number\n")


def run(trainer, *flags, figures=False):
    """`python -m experiments.sweep`, with the stand-in; figures, which take longest, if asked."""
    module = types.ModuleType("experiments._sweep.pack")
    module.run_units = trainer.run_units
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setattr(experiments._sweep, "pack", module, raising=False)
        patch.setattr("experiments._memory.keep_freed", lambda: True)  # other tests follow
        if not figures:
            patch.setattr("experiments.figures.ranks.figures", lambda *_: ([], {}))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = sweep.main(list(flags))
    return Said(code, out.getvalue().splitlines(), err.getvalue().splitlines())
