"""How much memory does a whole training step take, beside what it cannot do without?

Benchmark 3: arguments + outputs - aliases + temporaries of the compiled step, over the formula
weights + 16 P + residuals, P the trained parameters (factor, gradient, both moments of Adam in
float32). Residuals are those of a remat policy: with "none" the inputs of all products and what
the nonlinear parts need, with "full" the input of every layer. A step of "full" has one layer at
work besides: what it computes again, and its slice of the stacked weights, which XLA copies on the
CPU. Layers are a scan: without one XLA's CPU backend undoes remat. Compiled from shapes alone.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import _measure as measure
from experiments.benchmarks import _peers_jax
from experiments.benchmarks._peers_step import Torch, export
from experiments.benchmarks._peers_work import Work, size

PROGRAMS = ("ours_blocks", "ours", "full_blocks", "full", "qwix")


def compared(
    work: Work, names: Sequence[str], torch_python: str, folder: pathlib.Path
) -> dict[str, Any]:
    """Of both policies: the formula, MiB of every program, and ratios; and torch's peak.

    Args:
      work: what is trained; its scan and remat are not looked at.
      names: of `PROGRAMS`.
      torch_python, folder: as for `_peers_step.compared`.
    """
    found: dict[str, Any] = {"work": work.describe()}
    for policy, remat in (("none", False), ("full", True)):
        now = dataclasses.replace(work, scan=True, remat=remat)
        base = jax.eval_shape(now.model.init, jax.random.key(0), now.tokens.inputs)
        trained = size(jax.eval_shape(lambda base, now=now: now.start(now.adapter, base), base))
        parts = formula(now, base, trained)
        mib = {name: _memory(now, base, name) for name in names}
        peaks = {name: one["peak"] for name, one in mib.items()}
        floor = sum(parts.values())
        at_work = floor + one_layer(now, base)
        found[f"remat_{policy}"] = {
            "formula_mib": parts | {"total": round(floor, 1), "with_a_layer": round(at_work, 1)},
            "mib": mib,
            "over_formula": {name: round(peak / floor, 3) for name, peak in peaks.items()},
            "over_formula_with_a_layer": {n: round(x / at_work, 3) for n, x in peaks.items()},
            "over_ours_blocks": {
                name: round(peak / peaks["ours_blocks"], 3) for name, peak in peaks.items()
            },
        }
    if torch_python:
        base = work.base()
        export(work, base, folder)
        with Torch(torch_python, folder) as torch:
            torch.ask(start="eager")
            torch.ask(step="eager", count=3)
            taken = torch.ask(peak=1)["bytes"]
        found["torch_eager_mib"] = round(taken / 2**20, 1)
    return found


def formula(work: Work, base: Any, trained: int) -> dict[str, float]:
    """MiB of weights, of the trained parameters' four copies, and of the residuals."""
    one = jnp.dtype(work.dtype).itemsize
    tokens = work.batch * work.length
    values = {
        "weights": size(base) * one,
        "sixteen_p": 16 * trained,
        "residuals": tokens * residuals(work) * one,
    }
    return {name: round(value / 2**20, 1) for name, value in values.items()}


def one_layer(work: Work, base: Any) -> float:
    """MiB of one layer at work: what its backward pass needs, and its weights."""
    one = jnp.dtype(work.dtype).itemsize
    weights = size(base["params"]["layers"]) // work.layers
    return one * (weights + work.batch * work.length * _kept_layer(work)) / 2**20


def residuals(work: Work) -> int:
    """Numbers a token that the backward pass needs under the work's policy.

    At the end of the model: the stream before the last norm, and the gradient of the loss by the
    hidden states.
    """
    return 2 * work.dim + work.layers * (work.dim if work.remat else _kept_layer(work))


def _kept_layer(work: Work) -> int:
    """Numbers a token of a layer that is kept.

    The stream before both norms, the norms' results, queries, keys, values, attention weights, what
    they mix, and the feed-forward's inner vectors.
    """
    inner = 3 * work.hidden if work.family == "llama" else 2 * 4 * work.dim
    return 8 * work.dim + work.heads * work.length + inner


def _memory(work: Work, base: Any, name: str) -> dict[str, float]:
    program = _peers_jax.ALL[name](work, base)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), work.tokens)
    step = jax.jit(program.step, donate_argnums=0)
    return measure.memory(step.lower(program.state, base, batch).compile())
