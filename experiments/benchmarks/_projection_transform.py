"""What does H x cost beside other ways to compute it, and which factor is best on this device?

Ours is `lorax.ops.hadamard`. Beside it in JAX: a butterfly whose log2(L) passes pair entries at
distances of 1, 2, 4 ...; the same number of passes of constant geometry, which pair neighbours and
never reshape otherwise; and einsums over axes of 128 at the highest precision, as fedjax has them.
In torch: passes of chunk and cat. The floor is one pass of x + 1.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import _measure as measure
from experiments.benchmarks import _projection_torch
from lorax.ops import hadamard as ops

ERROR = 1e-6
"""The largest difference from float64, over the largest value, that ours may have."""

CALL_SIZE = 2**22
"""Numbers that a timed run transforms at least, in as many calls as that takes."""

Transform = Callable[[jax.Array], jax.Array]


def butterfly(x: jax.Array) -> jax.Array:
    """Passes at distances of 1, 2, 4, ..."""
    y, distance = x, 1
    while distance < x.size:
        y = y.reshape(-1, 2, distance)
        y = jnp.stack([y[:, 0] + y[:, 1], y[:, 0] - y[:, 1]], axis=1)
        distance *= 2
    return y.reshape(x.shape)


def constant_geometry(x: jax.Array) -> jax.Array:
    """Passes over neighbours: sums go to the first half, differences to the second."""
    y = x
    for _ in range(x.size.bit_length() - 1):
        y = y.reshape(-1, 2)
        y = jnp.concatenate([y[:, 0] + y[:, 1], y[:, 0] - y[:, 1]])
    return y


def kronecker(x: jax.Array, factor: int = 128) -> jax.Array:
    """An einsum for each axis of `factor`, the axis staying in its place."""
    bits, each = x.size.bit_length() - 1, factor.bit_length() - 1
    shape = [2 ** (bits % each)] * bool(bits % each) + [factor] * (bits // each)
    y = x.reshape(shape)
    axes = "abcdefgh"[: len(shape)]
    for axis, size in zip(axes, shape, strict=True):
        small = jnp.asarray(ops.matrix(size))
        rule = f"{axes},{axis}z->{axes.replace(axis, 'z')}"
        y = jnp.einsum(rule, y, small, precision="highest")
    return y.reshape(x.shape)


PEERS: dict[str, Transform] = {
    "butterfly": butterfly,
    "constant_geometry": constant_geometry,
    "kronecker_128": kronecker,
}


class Torch:
    """The transform in another process, asked one call at a time. Use as a context."""

    def __init__(self, python: str):
        script = pathlib.Path(_projection_torch.__file__)
        command = [python, str(script), str(os.cpu_count())]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.versions = self._answer()

    def __enter__(self) -> "Torch":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.communicate()

    def ask(self, **question: Any) -> None:
        """Sends it, and waits until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError(f"torch ended with exit code {self._process.returncode}")
        return json.loads(line)


def reference(x: np.ndarray) -> np.ndarray:
    """H x by a butterfly in float64."""
    y = x.astype(np.float64)
    distance = 1
    while distance < y.size:
        pairs = y.reshape(-1, 2, distance)
        y = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        distance *= 2
    return y.reshape(x.shape)


def compared(length: int, rounds: int, torch: Torch | None, folder: pathlib.Path) -> dict[str, Any]:
    """Errors of ours, and times of the others over ours, of the transform and of its adjoint.

    Args:
      length: L.
      rounds: timed, after one that warms up.
      torch: a process of torch, or None.
      folder: for files that the process reads and writes.
    """
    x = np.random.default_rng(0).normal(size=length).astype(np.float32)
    wanted = reference(x)
    calls = max(1, CALL_SIZE // length)
    if torch is not None:
        np.save(folder / "x.npy", x)
        torch.ask(load=str(folder / "x.npy"))
    found: dict[str, Any] = {"length": length, "calls_a_run": calls}
    for what in ("forward", "vjp"):
        programs = {name: _compiled(f, what) for name, f in _transforms().items()}
        errors = {
            name: error(np.asarray(program(jnp.asarray(x))), wanted)
            for name, program in programs.items()
        }
        programs["floor"] = jax.jit(lambda x: x + 1)
        runs = {name: _repeated(program, x, calls) for name, program in programs.items()}
        if torch is not None:
            torch.ask(save=str(folder / "y.npy"), what=what)
            errors["torch"] = error(np.load(folder / "y.npy"), wanted)
            runs["torch"] = functools.partial(torch.ask, calls=calls, what=what)
        check(errors)
        found[what] = _timed(runs, rounds, calls) | {"errors": errors}
    return found


def factors(lengths: Sequence[int], sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """For each length: milliseconds of every factor, times over the fastest, and which that is."""
    found = []
    for length in lengths:
        x = np.random.default_rng(0).normal(size=length).astype(np.float32)
        calls = max(1, CALL_SIZE // length)
        runs = {
            str(size): _repeated(jax.jit(functools.partial(ops.hadamard, factor=size)), x, calls)
            for size in sizes
        }
        measure.interleaved(runs, 1)
        seconds = measure.interleaved(runs, rounds)
        best = min(seconds, key=lambda name: statistics.median(seconds[name]))
        found.append(
            {
                "length": length,
                "best": int(best),
                "milliseconds": _milliseconds(seconds, calls),
                "over_best": {name: measure.ratio(seconds, name, best) for name in runs},
            }
        )
    return found


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest value."""
    return float(f"{np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)):.1e}")


def check(errors: dict[str, float]) -> None:
    """Nothing is timed that is wrong.

    Raises:
      RuntimeError: ours, or another, is further from float64 than `ERROR`.
    """
    wrong = {name: value for name, value in errors.items() if not value <= ERROR}
    if wrong:
        raise RuntimeError(f"errors of the transforms are above {ERROR}: {wrong}")


def _transforms() -> dict[str, Transform]:
    return {"ours": ops.hadamard, **PEERS}


def _compiled(transform: Transform, what: str) -> Transform:
    if what == "forward":
        return jax.jit(transform)
    return jax.jit(lambda x: jax.vjp(transform, x)[1](x)[0])  # linear: no forward pass is left


def _repeated(program: Transform, x: np.ndarray, calls: int) -> Callable[[], Any]:
    held = jnp.asarray(x)

    def run() -> Any:
        for _ in range(calls):
            y = program(held)
        return y

    return run


def _timed(runs: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, Any]:
    measure.interleaved(runs, 1)
    seconds = measure.interleaved(runs, rounds)
    others = [name for name in runs if name not in ("ours", "floor")]
    return {
        "over_ours": {name: measure.ratio(seconds, name, "ours") for name in others},
        "ours_over_floor": measure.ratio(seconds, "ours", "floor"),
        "milliseconds": _milliseconds(seconds, calls),
    }


def _milliseconds(seconds: dict[str, list[float]], calls: int) -> dict[str, float]:
    return {
        name: round(1e3 * statistics.median(values) / calls, 4) for name, values in seconds.items()
    }
