"""What does a training step of LoRA cost beside the floor, full fine-tuning and its peers?

Benchmark 1: all programs take their first steps on the same weights, factors and tokens, and must
have the same losses; only then are they timed, in turn.
"""

import json
import os
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import _measure as measure
from experiments.benchmarks import _peers_jax, _peers_torch
from experiments.benchmarks._peers_work import RATE, Work, size
from lorax.io import peft, pretrained

JAX = ("floor", "ours", "ours_blocks", "full", "naive", "qwix")
TORCH = ("eager", "compiled")
GATE_STEPS = 3
GATES = {"float32": 1e-4, "bfloat16": 2e-2}
"""How near the losses of the first steps must be to ours, relatively, by dtype."""

UPDATED = ("ours", "ours_blocks", "naive", "qwix")
"""Programs of JAX that train the same factors, so that all their losses are the same."""

PAUSE = 0.2
"""Seconds after a step of torch in which its idle threads still hold the cores."""

KEEP_FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
"""What `experiments._memory.keep_freed` does, for a process of torch."""


class Torch:
    """peft in another process, asked one thing at a time. Use as a context."""

    def __init__(self, python: str, folder: pathlib.Path, **env: str):
        script = pathlib.Path(_peers_torch.__file__)
        command = [python, str(script), str(folder), str(os.cpu_count())]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=os.environ | env
        )
        self.about = self._answer()

    def __enter__(self) -> "Torch":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.communicate()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Sends it, and waits for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        while line and not line.startswith("{"):  # what libraries print
            line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError(f"torch ended with exit code {self._process.returncode}")
        return json.loads(line)


def export(work: Work, base: Any, folder: pathlib.Path) -> None:
    """What a process of torch reads: weights, first factors, tokens."""
    delta = work.start(work.adapter, base)
    pretrained.save(folder / "model", work.model, base)
    peft.save(folder / "adapter", work.adapter, delta, work.model)
    batch = work.tokens
    np.savez(folder / "batch.npz", inputs=batch.inputs, targets=batch.targets)
    (folder / "work.json").write_text(json.dumps({"rate": RATE, "dtype": work.dtype}), "utf-8")


def compared(
    work: Work, rounds: int, names: Sequence[str], torch_python: str, folder: pathlib.Path
) -> dict[str, Any]:
    """Times, ratios and losses of one model, as a JSON-ready result.

    Args:
      work: what is trained.
      rounds: timed, after the steps of the gate and one more.
      names: programs of JAX, "floor" and "ours" among them.
      torch_python: of an environment with torch and peft; empty leaves torch out.
      folder: empty; for what the other process reads.

    Raises:
      RuntimeError: losses that differ.
    """
    base = work.base()
    runs, about = _compiled(work, base, names)
    if not torch_python:
        return _result(work, base, runs, about, rounds)
    export(work, base, folder)
    with Torch(torch_python, folder, **KEEP_FREED) as torch:
        about |= {"torch": torch.about}
        for name in TORCH:
            torch.ask(start=name)
            runs[f"torch_{name}"] = _of_torch(torch, name)
        return _result(work, base, runs, about, rounds)


def _compiled(
    work: Work, base: Any, names: Sequence[str]
) -> tuple[dict[str, Callable[[], float]], dict[str, Any]]:
    """Every program of JAX as a run that makes a step and returns its loss."""
    batch = jax.tree.map(jnp.asarray, work.tokens)
    runs, seconds = {}, {}
    for name in names:
        program = _peers_jax.ALL[name](work, base)
        lowered = jax.jit(program.step, donate_argnums=0).lower(program.state, base, batch)
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds[name] = round(time.perf_counter() - start, 2)
        runs[name] = _stepper(compiled, program.state, base, batch)
    trained = size(work.start(work.adapter, base))
    return runs, {"seconds_to_compile": seconds, "trained_parameters": trained}


def _stepper(compiled: Any, state: Any, base: Any, batch: Any) -> Callable[[], float]:
    def run() -> float:
        nonlocal state
        state, loss = compiled(state, base, batch)
        jax.block_until_ready(state)
        return float(loss)

    return run


def _of_torch(torch: Torch, name: str) -> Callable[[], float]:
    return lambda: torch.ask(step=name, count=1)["losses"][0]


def gate(losses: Mapping[str, Sequence[float]], tolerance: float) -> float:
    """The largest relative difference from the losses of "ours"; nothing is timed that is wrong.

    Programs that train something else, or nothing, are held to the loss of the first step.

    Raises:
      RuntimeError: it is above `tolerance`.
    """
    differences = {}
    for name, own in losses.items():
        same = name in UPDATED or name.startswith("torch")
        found = np.asarray(own if same else own[:1])
        wanted = np.asarray(losses["ours"])[: len(found)]
        differences[name] = float(np.max(np.abs(found - wanted) / np.abs(wanted)))
    worst = float(np.max([*differences.values()]))  # NaN wherever there is one
    if not worst <= tolerance:
        raise RuntimeError(f"losses differ by more than {tolerance}: {differences}")
    return float(f"{worst:.1e}")


def _result(
    work: Work, base: Any, runs: dict[str, Callable[[], float]], about: dict[str, Any], rounds: int
) -> dict[str, Any]:
    losses = {name: [run() for _ in range(GATE_STEPS)] for name, run in runs.items()}
    worst = gate(losses, GATES[work.dtype])
    _timed(runs, 1)
    seconds = _timed(runs, rounds)
    matmul, tokens = work.matmul_parameters(base), work.batch * work.length
    ceiling = product_ceiling(work.dtype)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    others = [name for name in runs if name != "ours"]
    return {
        "work": work.describe(),
        "matmul_parameters": matmul,
        **about,
        "losses_of_ours": losses["ours"],
        "largest_relative_difference_of_losses": worst,
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "over_floor": {n: measure.ratio(seconds, n, "floor") for n in runs if n != "floor"},
        "over_ours": {n: measure.ratio(seconds, n, "ours") for n in others},
        "over_ours_blocks": {
            n: measure.ratio(seconds, n, "ours_blocks") for n in runs if n != "ours_blocks"
        },
        "tokens_a_second": {n: round(tokens / value) for n, value in medians.items()},
        "product_ceiling_teraflops": round(ceiling / 1e12, 3),
        "mfu_4n": {n: round(4 * matmul * tokens / v / ceiling, 3) for n, v in medians.items()},
    }


def _timed(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, the runs taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            if name.startswith("torch"):
                time.sleep(PAUSE)
    return seconds


def product_ceiling(dtype: str) -> float:
    """FLOP/s of the best of a few large matrix products on this device."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(lambda x: x @ x)
    run = lambda: product(x).block_until_ready()
    run()
    return 2 * n**3 / min(measure.seconds_of(run) for _ in range(7))
