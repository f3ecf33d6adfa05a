"""Does the input pipeline keep up? Batches a second beside a step of the quickstart's model.

    python -m experiments.benchmarks.pipeline [--rounds=9] [--output=pipeline.json]

Work: batches of 2,048 tokens, read ahead by one thread: windows of bytes (16×128, as the quickstart
has them), and 42,061 examples of 20 to 100 tokens (as many as E2E has, and of like length) packed
into 4×512 and in buckets up to 128. Against them one step of LLaMA with 1.0M parameters, LoRA r=4.
Prints JSON: how many batches are made in the time of a step, and the share of time for which a run
of 60 steps waits for its batches.
"""

import importlib.metadata
import io
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

import lorax
from experiments import _memory
from experiments.benchmarks import _measure as measure
from lorax.data import python_text, text
from lorax.data.bucketing import Bucketed, buckets_up_to
from lorax.data.example import next_tokens
from lorax.data.order import Shuffled
from lorax.data.packing import Packed
from lorax.data.pipeline import Batches, Pipeline
from lorax.models import BYTE_1M, Llama
from lorax.train.loop import Plan, train
from lorax.train.losses import next_token_loss
from lorax.train.optim import adamw
from lorax.train.step import init_state, make_step

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 9, "timed rounds, each of one step and of batches of each kind", 1)
flags.DEFINE_integer("steps", 60, "length of the runs whose waiting is measured", 3)
flags.DEFINE_string("output", None, "also write the JSON to this file")

BATCHES = 200  # of each kind in a round; the few that are ready when it begins hardly count
TARGETS = {"batches_in_the_time_of_a_step": 20, "share_of_time_waiting": 0.02}


def pipelines() -> dict[str, Pipeline]:
    """One a kind, each of 2,048 tokens a batch."""
    stream = text.stream(python_text.python_source())
    windows = [next_tokens(stream[i : i + 129]) for i in range(0, len(stream) - 128, 128)]
    rng = np.random.default_rng(0)
    examples = [next_tokens(rng.integers(0, 256, n + 1)) for n in rng.integers(20, 101, 42_061)]
    lengths = [len(example.tokens) for example in examples]
    packed = Packed(lengths=lengths, batch=4, tokens=512, seed=1)
    bucketed = Bucketed(lengths=lengths, batch=16, buckets=buckets_up_to(128), seed=1)
    return {
        "windows": Pipeline(windows, Shuffled(examples=len(windows), batch=16, tokens=128, seed=1)),
        "packed": Pipeline(examples, packed),
        "bucketed": Pipeline(examples, bucketed),
    }


class Training:
    """The step to compare with, and runs of it."""

    def __init__(self, inputs: np.ndarray) -> None:
        model, adapter = Llama(BYTE_1M), lorax.LoRA(rank=4, alpha=16.0, where="all-linear")
        self.base = jax.jit(model.init)(jax.random.key(0), inputs)
        init = lorax.adapt(model.apply, adapter).init
        self.delta = jax.jit(init)(jax.random.key(1), self.base, inputs)
        self.tx = adamw(1e-3)
        self.step = make_step(next_token_loss(model.apply, adapter), self.tx)

    def stepper(self, batch: Any) -> Callable[[], Any]:
        """One step on that batch, each from where the last one ended."""
        state = init_state(self.delta, self.tx, jax.random.key(2))

        def run() -> Any:
            nonlocal state
            state, metrics = self.step(state, self.base, batch)
            return metrics

        return run

    def waiting(self, pipeline: Pipeline, steps: int) -> dict[str, float]:
        """Seconds and shares of a run as `experiments.train` makes it, first batch included."""
        state = init_state(self.delta, self.tx, jax.random.key(2))
        start = time.perf_counter()
        with pipeline.batches() as batches:
            plan = Plan(steps, stream=io.StringIO())
            outcome = train(self.step, state, self.base, batches, plan)
            seconds = time.perf_counter() - start
            return {
                "seconds": round(seconds, 2),
                "waited_seconds": round(batches.waited, 4),
                "share_of_time_waiting": round(batches.waited / seconds, 4),
                "share_as_the_run_reports_it": round(outcome.wait_share, 4),
            }


def timed(training: Training, kinds: dict[str, Pipeline]) -> dict[str, list[float]]:
    """Seconds of a step and of a batch of each kind in every round."""
    runs = {"step": training.stepper(kinds["windows"][0])}
    streams = {name: pipeline.batches() for name, pipeline in kinds.items()}
    runs |= {name: lambda batches=batches: _draw(batches) for name, batches in streams.items()}
    measure.interleaved(runs, 2)
    seconds = measure.interleaved(runs, FLAGS.rounds)
    for batches in streams.values():
        batches.close()
    return {
        name: values if name == "step" else [value / BATCHES for value in values]
        for name, values in seconds.items()
    }


def _draw(batches: Batches) -> None:
    for _ in range(BATCHES):
        next(batches)


def run() -> dict[str, Any]:
    """Everything, as one JSON-ready result."""
    kept = _memory.keep_freed()
    kinds = pipelines()
    training = Training(kinds["windows"][0].inputs)
    seconds = timed(training, kinds)
    setting = measure.setting()
    setting["versions"]["grain"] = importlib.metadata.version("grain")
    return {
        "benchmark": "pipeline",
        "work": "2,048 tokens a batch, one thread reading ahead; LLaMA 1.0M, LoRA r=4, AdamW, f32",
        "setting": setting | {"keeps_freed_memory": kept},
        "rounds": FLAGS.rounds,
        "batches_in_the_time_of_a_step": {
            name: measure.ratio(seconds, "step", name) for name in kinds
        },
        "waiting": {
            name: training.waiting(kinds[name], FLAGS.steps) for name in ("windows", "packed")
        },
        "targets": TARGETS,
        "median_microseconds": {
            name: round(1e6 * statistics.median(values)) for name, values in seconds.items()
        },
    }


def verb(argv: list[str]) -> None:
    """Runs the benchmark and prints its JSON."""
    del argv
    result = json.dumps(run(), indent=2, ensure_ascii=False)
    print(result)
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(result + "\n", "utf-8")


if __name__ == "__main__":
    app.run(verb)
