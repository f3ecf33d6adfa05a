"""What does a step of every method cost beside the floor, and how much memory does it take?

    python -m experiments.benchmarks.methods [--rounds=7] [--output=methods.json]

Work: that of experiments.benchmarks.step, a LLaMA shape of 4 layers, d 768, 4×128 tokens,
vocabulary 50,257, float32, AdamW; methods, ranks and targets are those of
configs/method_comparison.py. The floor is the same model with nothing adapted, forward and backward
down to the first layer's input. What a method derives from the base is derived before. Prints JSON:
ratios of steps taken in turn in one process, and memory of the compiled programs.
"""

import dataclasses
import json
import pathlib
import statistics
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict

import lorax
from configs.method_comparison import METHODS
from experiments import _memory
from experiments._train.method import make_adapter
from experiments.benchmarks import _measure as measure
from experiments.benchmarks._step_programs import MODEL, Programs, stepper

FLAGS = flags.FLAGS

TARGETS = {("DoRA", "LoRA"): 1.25}
"""What the step of one method may be of another's, at most."""

ROOM = 256
"""Positions of the model, so that virtual tokens stand before a batch; they cost nothing."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The step of one method: one after the other, numbers that it trains, MiB."""

    run: Callable[[], Any]
    trainable: int
    memory: Mapping[str, float]


def adapters() -> dict[str, lorax.Adapter]:
    """Those of the comparison by name."""
    made = lambda fields: types.SimpleNamespace(adapter=ConfigDict(fields), also_train=())
    return {name: make_adapter(made(fields)) for name, (fields, *_) in METHODS.items()}


def compiled(programs: Programs, adapter: lorax.Adapter) -> Compiled:
    """The step of a method, which need not have a factored form."""
    delta, opt_state = programs.start(adapter)
    base = adapter.prepare(programs.base, delta)
    step = jax.jit(programs.step(adapter, on_fallback="allow"), donate_argnums=0)
    size = sum(leaf.size for leaf in jax.tree.leaves(delta))
    made = step.lower((delta, opt_state), base, programs.tokens).compile()
    run = stepper(made, (delta, opt_state), base, programs.tokens)
    return Compiled(run, size, measure.memory(made))


def compared(
    programs: Programs, methods: Mapping[str, lorax.Adapter], rounds: int
) -> dict[str, Any]:
    """Every method beside the floor; see the module.

    Args:
      programs: of the work.
      methods: adapters by name.
      rounds: timed ones, after two.
    """
    base, tokens = programs.base, programs.tokens
    floor = jax.jit(programs.floor()).lower(programs.shift, base, tokens).compile()
    steps = {name: compiled(programs, adapter) for name, adapter in methods.items()}
    runs = {"floor": lambda: floor(programs.shift, base, tokens)}
    runs |= {name: one.run for name, one in steps.items()}
    measure.interleaved(runs, 2)
    seconds = measure.interleaved(runs, rounds)
    median = lambda name: round(statistics.median(seconds[name]), 4)
    return {
        "floor": {"memory_mib": measure.memory(floor), "seconds": median("floor")},
        "methods": {
            name: {
                "trainable": one.trainable, "over_floor": measure.ratio(seconds, name, "floor"),
                "memory_mib": one.memory, "seconds": median(name),
            }
            for name, one in steps.items()
        },
        "verdicts": verdicts(seconds),
    }  # fmt: skip


def verdicts(seconds: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Ratios that are held to a target: {"what", "found", "target", "held"}."""
    found = []
    for (above, below), most in TARGETS.items():
        if above in seconds and below in seconds:
            ratio = measure.ratio(seconds, above, below)
            what = f"{above} step over {below} step"
            held = ratio["median"] <= most
            found.append({"what": what, "found": ratio, "target": f"<= {most}", "held": held})
    return found


def run() -> dict[str, Any]:
    """Everything, as one JSON-ready result."""
    kept = _memory.keep_freed()  # else every step on the CPU also pays for clearing fresh pages
    programs = Programs(dataclasses.replace(MODEL, max_length=ROOM))
    return {
        "benchmark": "methods",
        "work": "LLaMA shape, 4 layers, d 768, 4×128 tokens, V 50,257, AdamW, f32",
        "setting": measure.setting() | {"keeps_freed_memory": kept},
        "rounds": FLAGS.rounds,
        **compared(programs, adapters(), FLAGS.rounds),
    }


def verb(argv: list[str]) -> None:
    """Runs the benchmark and prints its JSON."""
    del argv
    text = json.dumps(run(), indent=2, ensure_ascii=False)
    print(text)
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 7, "timed rounds, each of them one step of every program", 1)
    flags.DEFINE_string("output", None, "also write the JSON to this file")
    app.run(verb)
