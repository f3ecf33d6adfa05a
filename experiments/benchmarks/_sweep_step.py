"""What does a step of K packed units cost and take, beside the units in turn and beside the floor?

Work: LLaMA shape, 4 layers, d 512, vocabulary 512, float32, LoRA on all linear layers, AdamW. The
units differ in rate, seed and data, and in rank where several are given; packed ones are padded to
the largest. The floor is the bare model on the tokens of all units, forward and backward down to
the first layer's input.
"""

import dataclasses
import functools
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lorax
from experiments._sweep import tune
from experiments.benchmarks import _measure as measure
from experiments.benchmarks._floor import floor_loss
from lorax.adapters.padded import Padded, with_numbers
from lorax.data.batch import Batch
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.train.losses import next_token_loss
from lorax.train.optim import adamw
from lorax.train.packed import make_packed_step
from lorax.train.stacks import common, pad, stack
from lorax.train.step import init_state, make_step

MODEL = LlamaConfig(
    vocab_size=512, dim=512, layers=4, heads=8, kv_heads=8, hidden_dim=1024, max_length=512
)
WORK = "LLaMA shape, 4 layers, d 512, hidden 1024, V 512, LoRA all-linear, AdamW, f32, rows of 128"
ALPHA, ROW, RATES = 16.0, 128, (1e-3, 2e-3)
GATE_STEPS, GATE = 5, 1e-5
MEMORY_TOKENS = 64
LONG = 10**9
"""Steps of a training that is long enough for every width to be tried."""


class Unit(NamedTuple):
    """What sets a unit apart; its data are its own too."""

    rank: int
    rate: float
    seed: int


class Work:
    """Model, units and batches, and the programs on them.

    Args:
      units: how many.
      tokens: of a unit's batch; a row has at most 128.
      ranks: dealt out to the units in turn.
    """

    def __init__(self, units: int, tokens: int, ranks: Sequence[int]) -> None:
        self.model = Llama(MODEL)
        self.units = [
            Unit(ranks[i % len(ranks)], RATES[i // len(ranks) % len(RATES)], i)
            for i in range(units)
        ]
        self.length = min(tokens, ROW)
        ids = np.random.default_rng(0).integers(
            0, MODEL.vocab_size, (units, tokens // self.length, self.length + 1), np.int32
        )
        mask = np.ones((*ids.shape[:2], self.length), bool)
        self.batches = jax.device_put(Batch(ids[..., :-1], ids[..., 1:], mask))
        self.base = jax.jit(self.model.init)(jax.random.key(0), ids[0, :, :-1])

    @functools.cached_property
    def deltas(self) -> list[Any]:
        """Where each unit begins."""
        inits = {
            rank: jax.jit(lorax.adapt(self.model.apply, _adapter(rank)).init)
            for rank in {unit.rank for unit in self.units}
        }
        example = self.batches.inputs[0]
        return [inits[u.rank](jax.random.key(u.seed), self.base, example) for u in self.units]

    def in_turn(self) -> Callable[[], list[jax.Array]]:
        """One step of every unit by `make_step` of its rank and rate: the losses."""
        steps = {
            (rank, rate): make_step(next_token_loss(self.model.apply, _adapter(rank)), adamw(rate))
            for rank, rate in {unit[:2] for unit in self.units}
        }
        own = [steps[unit[:2]] for unit in self.units]
        states = self._states()
        batches = [jax.tree.map(lambda x, i=i: x[i], self.batches) for i in range(len(states))]

        def run() -> list[jax.Array]:
            losses = []
            for i, step in enumerate(own):
                states[i], metrics = step(states[i], self.base, batches[i])
                losses.append(metrics["loss"])
            return losses

        return run

    def floor(self) -> Callable[[], Any]:
        """The bare model on all tokens at once."""
        inputs = self.batches.inputs.reshape(-1, self.length)
        shift = jnp.zeros((*inputs.shape, MODEL.dim))
        program = jax.jit(jax.value_and_grad(floor_loss(self.model.apply)))
        return lambda: program(shift, self.base, inputs)

    def packed(self, program: tune.Program) -> Callable[[], jax.Array]:
        """One step of all units by one program: the losses."""
        states, *others = self.arguments
        states = jax.tree.map(jnp.copy, states)  # which are donated

        def run() -> jax.Array:
            nonlocal states
            states, metrics = program.step(states, *others)
            return metrics["loss"]

        return run

    def program(self, width: int) -> tune.Program:
        """The compiled packed step, `width` units of it side by side."""
        step = make_packed_step(
            next_token_loss(self.model.apply, Padded(_adapter(self.units[0].rank))),
            lambda numbers: (adamw(numbers["rate"]), None),
            lambda delta, numbers: dataclasses.replace(numbers["adapter"], delta=delta),
            width=width,
        )
        return tune.compiled(step, width, self.arguments)

    def _states(self) -> list[Any]:
        return [
            init_state(delta, adamw(unit.rate), jax.random.key(unit.seed))
            for delta, unit in zip(self.deltas, self.units, strict=True)
        ]

    @functools.cached_property
    def arguments(self) -> tuple[Any, ...]:
        """Of the packed step: states, numbers, active, base, batches."""
        states = self._states()
        whole = [
            with_numbers(_adapter(unit.rank), self.base, delta, dropout=False)
            for unit, delta in zip(self.units, self.deltas, strict=True)
        ]
        numbers = {
            "adapter": _stacked(whole),
            "rate": jnp.asarray([unit.rate for unit in self.units]),
        }
        active = jnp.ones(len(states), bool)
        return _stacked(states), numbers, active, self.base, self.batches


def _stacked(trees: Sequence[Any]) -> Any:
    return stack([pad(tree, common(trees)) for tree in trees])


def _adapter(rank: int) -> lorax.LoRA:
    return lorax.LoRA(rank=rank, alpha=ALPHA, where="all-linear")


def gate(work: Work, program: tune.Program) -> float:
    """The largest relative difference of a packed unit's loss from its loss alone, in a few steps.

    Raises:
      RuntimeError: it is above 1e-5.
    """
    alone, packed = work.in_turn(), work.packed(program)
    worst = 0.0
    for _ in range(GATE_STEPS):
        wanted = np.array([float(loss) for loss in alone()])
        worst = max(worst, float(np.max(np.abs(np.asarray(packed()) / wanted - 1))))
    if not worst <= GATE:
        raise RuntimeError(f"packed losses differ from those of the units alone by {worst:.2g}")
    return worst


def timed(units: int, tokens: int, ranks: Sequence[int], rounds: int) -> dict[str, Any]:
    """Ratios of one setting, at the width that a sweep chooses, in steps before all others."""
    work = Work(units, tokens, ranks)
    made: dict[int, tune.Program] = {}

    def make(width: int) -> tune.Program:
        return made.setdefault(width, work.program(width))

    first = make(tune.first_width(units, tokens))
    chosen = tune.fastest(first, make, work.arguments, LONG)
    worst = gate(work, chosen)
    runs: dict[str, Callable[[], Any]] = {
        "packed": work.packed(chosen),
        "all_side_by_side": work.packed(make(units)),
        "in_turn": work.in_turn(),
        "floor": work.floor(),
    }
    measure.interleaved(runs, 2)
    seconds = measure.interleaved(runs, rounds)
    ratio = functools.partial(measure.ratio, seconds)
    return {
        "units": units,
        "tokens_a_unit": tokens,
        "width": chosen.width,
        "widths_tried": sorted(made),
        "largest_relative_difference_of_losses": float(f"{worst:.1e}"),
        "in_turn_over_packed": ratio("in_turn", "packed"),
        "in_turn_over_all_side_by_side": ratio("in_turn", "all_side_by_side"),
        "packed_over_floor": ratio("packed", "floor"),
        "in_turn_over_floor": ratio("in_turn", "floor"),
        "median_milliseconds": {
            name: round(1e3 * statistics.median(values), 2) for name, values in seconds.items()
        },
        "load_average": round(os.getloadavg()[0], 2),
    }


def memory(counts: Sequence[int], tokens: int, ranks: Sequence[int]) -> dict[str, Any]:
    """MiB of the packed step of 1 and of `counts` units side by side, and the share of each unit.

    The argument without the base, and the temporary memory, are divided by as many times those of
    one unit; the base is in the argument once.
    """
    sizes: dict[int, dict[str, float]] = {}
    for count in (1, *counts):
        work = Work(count, tokens, ranks)
        base = sum(leaf.nbytes for leaf in jax.tree.leaves(work.base)) / 2**20
        sizes[count] = measure.memory(work.program(count).step) | {"base": round(base, 1)}
    own = {count: size["argument"] - size["base"] for count, size in sizes.items()}
    return {
        "tokens_a_unit": tokens,
        "mib": {str(count): size for count, size in sizes.items()},
        "temp_over_units_times_one": {
            str(count): round(size["temp"] / (count * sizes[1]["temp"]), 3)
            for count, size in sizes.items()
        },
        "argument_less_base_over_units_times_one": {
            str(count): round(value / (count * own[1]), 3) for count, value in own.items()
        },
    }
