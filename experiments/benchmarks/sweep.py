"""What does packing the units of a sweep into one program gain, in time and in memory?

    python -m experiments.benchmarks.sweep [--parts=step,memory,makespan] [--rounds=9]
        [--torch_python=ENV/bin/python] [--output=sweep.json]

step: a step of 8 and of 32 packed units, beside the same units one after another and beside the
least it could take. memory: of the compiled step of 1, 8 and 32 units. makespan: 24 units trained
from the command to the end, compiling included, beside as many processes, and beside torch and peft
in one process, for which --torch_python names the Python of an environment with torch, transformers
and peft. makespan needs LORAX_DATA. Prints JSON.
"""

import json
import pathlib
import tempfile
from typing import Any

from absl import app, flags

from experiments import _memory
from experiments.benchmarks import _measure as measure
from experiments.benchmarks import _sweep_makespan as makespan
from experiments.benchmarks import _sweep_step as packed

PARTS = ("step", "memory", "makespan")
FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(PARTS), "what is measured")
flags.DEFINE_integer("rounds", 9, "timed rounds, each of one step of every program", 1)
flags.DEFINE_list("units", ["8", "32"], "numbers of units in a pack")
flags.DEFINE_list("tokens", ["16", "64", "512"], "tokens of a unit's batch")
flags.DEFINE_list("ranks", ["8"], "ranks of the units, dealt out in turn")
flags.DEFINE_integer("solo", 0, "units that are run as processes of their own; 0 for all", 0)
flags.DEFINE_string("page", makespan.PAGE, "the sweep of makespan")
flags.DEFINE_string("torch_python", "", "Python of an environment with torch and peft")
flags.DEFINE_string("output", None, "also write the JSON to this file")

TARGETS = {
    "in_turn_over_packed": {
        "cpu": {"16": 2.0, "64": 1.5, "512": 1.0},
        "gpu": {"16": 6.0, "512": 1.0},
    },
    "largest_relative_difference_of_losses": packed.GATE,
    "temp_over_units_times_one": 1.15,
    "sweep_over_separate_processes": 0.4,
    "sweep_over_torch": 0.4,
    "compilations_of_the_step": 1,
}


def run(parts: list[str], folder: pathlib.Path) -> dict[str, Any]:
    """Those parts, as one JSON-ready result; workdirs are made in `folder`."""
    kept = _memory.keep_freed()
    units, tokens, ranks = (
        [int(x) for x in values] for values in (FLAGS.units, FLAGS.tokens, FLAGS.ranks)
    )
    result: dict[str, Any] = {
        "benchmark": "sweep",
        "work": {"step": packed.WORK, "makespan": makespan.WORK},
        "ranks": ranks,
        "setting": measure.setting() | {"keeps_freed_memory": kept},
        "rounds": FLAGS.rounds,
        "targets": TARGETS,
    }
    if "step" in parts:
        result["step"] = [
            packed.timed(count, m, ranks, FLAGS.rounds) for m in tokens for count in units
        ]
    if "memory" in parts:
        result["memory"] = packed.memory(units, packed.MEMORY_TOKENS, ranks)
    if "makespan" in parts:
        plan = makespan.Plan(FLAGS.page, FLAGS.solo, FLAGS.torch_python)
        result["makespan"] = makespan.run(plan, folder)
    return result


def verb(argv: list[str]) -> None:
    """Runs the benchmark and prints its JSON."""
    del argv
    for part in set(FLAGS.parts) - {*PARTS}:
        raise app.UsageError(f"--parts={part}: expected some of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(run(FLAGS.parts, pathlib.Path(folder)), indent=2, ensure_ascii=False)
    print(text)
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    app.run(verb)
