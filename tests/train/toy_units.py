"""Toy units of a sweep: what each is told of, measured and saved by, alone or in lockstep."""

import functools
import io
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lorax.train.lockstep import Lane, train_packed
from lorax.train.loop import NotFinite, Plan, train
from lorax.train.packed import make_packed_step
from lorax.train.stacks import common, pad, stack
from lorax.train.step import init_state, make_step

BASE = {"w": jnp.arange(3.0)}
TIMES = {"step_time_sec"}


def loss(delta, base, batch, key):
    error = delta["a"] @ delta["b"] + base["w"] - batch
    return (error**2).mean(), {"bias": error.mean()}


def optimizer(numbers):
    rate = optax.linear_schedule(numbers["rate"], 0.0, 20)
    return optax.adam(rate), rate


@functools.cache
def step_alone(rate):
    return make_step(loss, *optimizer({"rate": rate}))


PACKED = make_packed_step(loss, optimizer)


def batches(seed, start=0, bad=math.inf):
    """A batch a step, drawn from its number alone; from step `bad` on, counted from 1, of NaN."""
    for number in itertools.count(start):
        drawn = np.random.default_rng((seed, number)).normal(size=3).astype(np.float32)
        yield drawn if number + 1 < bad else np.full_like(drawn, np.nan)


class Unit:
    """A training whose A has `rank` columns: what it was told of, measured and saved by."""

    def __init__(self, rank=2, rate=0.1, seed=0, steps=7, bad=math.inf, long=False, **plan):
        self.rate, self.seed, self.bad, self.long = rate, seed, bad, long
        self.plan = Plan(steps, f"unit {seed}", stream=io.StringIO(), **plan)
        a = jax.random.normal(jax.random.key(seed), (3, rank))
        delta = {"a": a, "b": jnp.zeros(rank)}
        tx, _ = optimizer({"rate": rate})
        self.state = init_state(delta, tx, jax.random.key(seed + 7))
        self.records, self.saved, self.measured = [], [], []

    def write(self, **record):
        self.records.append(record)

    def evaluate(self, state):
        assert state.delta["a"].shape == self.state.delta["a"].shape
        self.measured.append(int(state.step))
        return {"score": float(jnp.abs(state.delta["b"]).sum())}

    def save(self, state, moment):
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, self.state)
        assert int(state.step) == moment.step
        self.saved.append((moment, jax.device_get(state.delta)))

    @property
    def parts(self):
        return {"writer": self, "evaluate": self.evaluate, "save": self.save}

    def left(self):
        start = int(self.state.step)
        for number, batch in enumerate(batches(self.seed, start, self.bad), start):
            yield np.tile(batch, (1 + number % 3, 1)) if self.long else batch

    def lane(self):
        return Lane(self.plan, self.left(), self.state, **self.parts)

    def alone(self):
        """The outcome of `train`, or its failure; its records and saves go to this unit."""
        state = jax.tree.map(jnp.copy, self.state)
        step = step_alone(self.rate)
        try:
            return train(step, state, BASE, self.left(), self.plan, **self.parts)
        except NotFinite as failure:
            return failure

    def at(self, step):
        """The unit as it was after so many steps."""
        plan = Plan(step, stream=io.StringIO())
        state = jax.tree.map(jnp.copy, self.state)
        self.state = train(step_alone(self.rate), state, BASE, self.left(), plan).state
        return self


def run(units, spare=0, **options):
    """`train_packed`, with `spare` places more than units."""
    shapes = common([unit.state for unit in units])
    states = [pad(unit.state, shapes) for unit in units]
    numbers = [{"rate": jnp.float32(unit.rate)} for unit in units]
    return train_packed(
        PACKED, stack(states + states[:1] * spare), stack(numbers + numbers[:1] * spare), BASE,
        [unit.lane() for unit in units], **{"stream": io.StringIO()} | options,
    )  # fmt: skip


def same(unit, other):
    """Both were told the same, and saved the same at the same moments."""
    assert len(unit.records) == len(other.records)
    for one, two in zip(unit.records, other.records, strict=True):
        assert one.keys() - TIMES == two.keys() - TIMES
        for name in one.keys() - TIMES:
            text = isinstance(one[name], str)
            assert one[name] == (two[name] if text else near(two[name])), name
    assert [m[:1] + m[2:] for m, _ in unit.saved] == [m[:1] + m[2:] for m, _ in other.saved]
    for (one, delta), (two, wanted) in zip(unit.saved, other.saved, strict=True):
        assert one.numbers == (two.numbers and near(two.numbers))
        close(delta, wanted)
    assert unit.measured == other.measured


def near(value):
    return pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.shape(x) == np.shape(y)
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
