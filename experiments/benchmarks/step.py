"""What does a LoRA step cost beside the least it could cost, full fine-tuning and merging?

    python -m experiments.benchmarks.step [--rounds=9] [--output=step.json]

Work: LLaMA shape, 4 layers, d 768, 4×128 tokens, vocabulary 50,257, float32, r=8 on all linear
layers, AdamW. The floor is the same model with nothing adapted, forward and backward down to the
first layer's input. Prints JSON: ratios of steps taken in turn in one process, memory of the
compiled programs, and what `adapt` adds to tracing and compiling.
"""

import json
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags

from experiments import _memory
from experiments.benchmarks import _measure as measure
from experiments.benchmarks._step_programs import Programs, stepper

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 9, "timed rounds, each of them one step of every program", 1)
flags.DEFINE_integer("compilations", 3, "rounds of tracing and compiling", 1)
flags.DEFINE_string("output", None, "also write the JSON to this file")

TARGETS = {
    "a_lora_step_over_floor": 1.08,
    "b_full_step_over_lora_step": 1.6,
    "c_merged_step_over_factored_step": 1.35,
    "e_trace_over_bare": 2.5,
    "e_compile_over_bare": 1.3,
}


def timed_steps(programs: Programs, rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every step in every round, and memory of every compiled step."""
    base, tokens = programs.base, programs.tokens
    floor = jax.jit(programs.floor()).lower(programs.shift, base, tokens).compile()
    runs: dict[str, Callable[[], Any]] = {"floor": lambda: floor(programs.shift, base, tokens)}
    sizes = {"floor": measure.memory(floor)}
    kinds = {
        "lora": (programs.adapter, "factored"),
        "merged": (programs.adapter, "merged"),
        "full": (programs.full, "factored"),
    }
    for name, (adapter, engine) in kinds.items():
        state = programs.start(adapter)
        step = jax.jit(programs.step(adapter, engine), donate_argnums=0)
        compiled = step.lower(state, base, tokens).compile()
        sizes[name] = measure.memory(compiled)
        runs[name] = stepper(compiled, state, base, tokens)
    measure.interleaved(runs, 2)
    return measure.interleaved(runs, rounds), sizes


def timed_compilations(programs: Programs, rounds: int) -> dict[str, list[float]]:
    """Seconds of tracing and of compiling the bare and the adapted model, in turn.

    "forward" is the loss; "gradient" adds the backward pass, of the bare model down to the first
    layer's input.
    """
    delta, _ = programs.start(programs.adapter)
    base, tokens = programs.base, programs.tokens
    jobs: dict[str, Callable[[], Any]] = {
        "bare_forward": lambda: jax.jit(programs.bare_forward()).trace(base, tokens),
        "adapted_forward": lambda: jax.jit(programs.adapted_forward()).trace(base, delta, tokens),
        "bare_gradient": lambda: jax.jit(programs.floor()).trace(programs.shift, base, tokens),
        "adapted_gradient": lambda: jax.jit(
            jax.value_and_grad(programs.adapted_forward(), argnums=1)
        ).trace(base, delta, tokens),
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            jax.clear_caches()
            traced: list[Any] = []
            take = measure.seconds_of(lambda job=job, traced=traced: traced.append(job()))
            seconds.setdefault(f"trace_{name}", []).append(take)
            lowered = traced[0].lower()
            take = measure.seconds_of(lowered.compile)
            seconds.setdefault(f"compile_{name}", []).append(take)
    return {name: values[1:] for name, values in seconds.items()}  # the first round warms up


def run() -> dict[str, Any]:
    """Everything, as one JSON-ready result."""
    kept = _memory.keep_freed()  # else every step on the CPU also pays for clearing fresh pages
    programs = Programs()
    compiling = timed_compilations(programs, FLAGS.compilations)
    steps, memory = timed_steps(programs, FLAGS.rounds)
    found = {
        "a_lora_step_over_floor": measure.ratio(steps, "lora", "floor"),
        "b_full_step_over_lora_step": measure.ratio(steps, "full", "lora"),
        "c_merged_step_over_factored_step": measure.ratio(steps, "merged", "lora"),
        "merged_step_over_floor": measure.ratio(steps, "merged", "floor"),
        "full_step_over_floor": measure.ratio(steps, "full", "floor"),
    }
    for part in ("forward", "gradient"):
        for what in ("trace", "compile"):
            names = f"{what}_adapted_{part}", f"{what}_bare_{part}"
            found[f"e_{what}_over_bare_{part}"] = measure.ratio(compiling, *names)
    return {
        "benchmark": "step",
        "work": "LLaMA shape, 4 layers, d 768, 4×128 tokens, V 50,257, r=8 all-linear, AdamW, f32",
        "setting": measure.setting() | {"keeps_freed_memory": kept},
        "rounds": FLAGS.rounds,
        "ratios": found,
        "targets": TARGETS,
        "d_memory_mib": memory,
        "median_seconds": {
            name: round(statistics.median(values), 4)
            for name, values in (steps | compiling).items()
        },
    }


def verb(argv: list[str]) -> None:
    """Runs the benchmark and prints its JSON."""
    del argv
    text = json.dumps(run(), indent=2, ensure_ascii=False)
    print(text)
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    app.run(verb)
