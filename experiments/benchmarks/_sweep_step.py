"""What does a step of K packed units cost and take, beside the units in turn and beside the floor?

Work: LLaMA shape, 4 layers, d 512, vocabulary 512, float32, LoRA on all linear layers, AdamW. The
units differ in rate, seed and data, and in rank where several are given; packed ones are padded to
the largest. The floor is the bare model on the tokens of all units, forward and backward down to
the first layer's input.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lorax
from experiments.benchmarks import _measure as measure
from experiments.benchmarks.step import floor_loss
from lorax.adapters.padded import Padded, with_numbers
from lorax.data.batch import Batch
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.train.losses import next_token_loss
from lorax.train.optim import adamw
from lorax.train.packed import PackedStep, make_packed_step
from lorax.train.stacks import common, pad, stack
from lorax.train.step import init_state, make_step

MODEL = LlamaConfig(
    vocab_size=512, dim=512, layers=4, heads=8, kv_heads=8, hidden_dim=1024, max_length=512
)
WORK = "LLaMA shape, 4 layers, d 512, hidden 1024, V 512, LoRA all-linear, AdamW, f32, rows of 128"
ALPHA, ROW, RATES = 16.0, 128, (1e-3, 2e-3)
GATE_STEPS, GATE = 5, 1e-5
WIDTHS = (1, 2, 4, 8)
"""What is tried beside all units at once."""


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

    def packed(self, width: int) -> Callable[[], jax.Array]:
        """One step of all units by one program, `width` of them side by side: the losses."""
        step, (states, *others) = self._packed(width)

        def run() -> jax.Array:
            nonlocal states
            states, metrics = step(states, *others)
            return metrics["loss"]

        return run

    def sizes(self, width: int) -> dict[str, float]:
        """MiB of the compiled packed step, and of the base in it."""
        step, arguments = self._packed(width)
        base = sum(leaf.nbytes for leaf in jax.tree.leaves(self.base)) / 2**20
        return measure.memory(step.lower(*arguments).compile()) | {"base": round(base, 1)}

    def _states(self) -> list[Any]:
        return [
            init_state(delta, adamw(unit.rate), jax.random.key(unit.seed))
            for delta, unit in zip(self.deltas, self.units, strict=True)
        ]

    def _packed(self, width: int) -> tuple[PackedStep, tuple[Any, ...]]:
        """The step, and its arguments: states, numbers, active, base, batches."""
        states, units = self._states(), self.units
        whole = [
            with_numbers(_adapter(unit.rank), self.base, delta, dropout=False)
            for unit, delta in zip(units, self.deltas, strict=True)
        ]
        shapes = common(states), common(whole)
        numbers = {
            "adapter": stack([pad(one, shapes[1]) for one in whole]),
            "rate": jnp.asarray([unit.rate for unit in units]),
        }
        step = make_packed_step(
            next_token_loss(self.model.apply, Padded(_adapter(units[0].rank))),
            lambda numbers: (adamw(numbers["rate"]), None),
            lambda delta, numbers: dataclasses.replace(numbers["adapter"], delta=delta),
            width=width,
        )
        stacked = stack([pad(state, shapes[0]) for state in states])
        return step, (stacked, numbers, jnp.ones(len(units), bool), self.base, self.batches)


def _adapter(rank: int) -> lorax.LoRA:
    return lorax.LoRA(rank=rank, alpha=ALPHA, where="all-linear")


def gate(work: Work, width: int) -> float:
    """The largest relative difference of a packed unit's loss from its loss alone, in a few steps.

    Raises:
      RuntimeError: it is above 1e-5.
    """
    alone, packed = work.in_turn(), work.packed(width)
    worst = 0.0
    for _ in range(GATE_STEPS):
        wanted = np.array([float(loss) for loss in alone()])
        worst = max(worst, float(np.max(np.abs(np.asarray(packed()) / wanted - 1))))
    if not worst <= GATE:
        raise RuntimeError(f"packed losses differ from those of the units alone by {worst:.2g}")
    return worst


def timed(units: int, tokens: int, ranks: Sequence[int], rounds: int) -> dict[str, Any]:
    """Ratios of one setting: the width is chosen in rounds of its own, before the others."""
    work = Work(units, tokens, ranks)
    widths = sorted({width for width in (*WIDTHS, units) if units % width == 0})
    runs: dict[Any, Callable[[], Any]] = {width: work.packed(width) for width in widths}
    measure.interleaved(runs, 1)
    trial = {width: min(seconds) for width, seconds in measure.interleaved(runs, 3).items()}
    width = min(trial, key=trial.__getitem__)
    runs = {"packed": runs[width], "all_side_by_side": runs[units]}
    runs |= {"in_turn": work.in_turn(), "floor": work.floor()}
    measure.interleaved(runs, 2)
    seconds = measure.interleaved(runs, rounds)
    return {
        "units": units,
        "tokens_a_unit": tokens,
        "width": width,
        "largest_relative_difference_of_losses": float(f"{gate(work, width):.1e}"),
        "in_turn_over_packed": measure.ratio(seconds, "in_turn", "packed"),
        "in_turn_over_all_side_by_side": measure.ratio(seconds, "in_turn", "all_side_by_side"),
        "packed_over_floor": measure.ratio(seconds, "packed", "floor"),
        "in_turn_over_floor": measure.ratio(seconds, "in_turn", "floor"),
        "median_milliseconds": {
            name: round(1e3 * statistics.median(values), 2) for name, values in seconds.items()
        },
        "milliseconds_by_width": {str(w): round(1e3 * value, 2) for w, value in trial.items()},
    }


def memory(counts: Sequence[int], tokens: int, ranks: Sequence[int]) -> Mapping[str, Any]:
    """MiB of the packed step of several numbers of units side by side, and their shares of one."""
    sizes = {count: Work(count, tokens, ranks).sizes(count) for count in (1, *counts)}
    one = sizes[1]
    return {
        "tokens_a_unit": tokens,
        "mib": {str(count): size for count, size in sizes.items()},
        "temp_over_units_times_one": {
            str(count): round(size["temp"] / (count * one["temp"]), 3)
            for count, size in sizes.items()
        },
        "argument_less_base_over_units_times_one": {
            str(count): round(
                (size["argument"] - size["base"]) / (count * (one["argument"] - one["base"])), 3
            )
            for count, size in sizes.items()
        },
    }
