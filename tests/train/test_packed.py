"""A packed unit is the unit run alone: losses, delta, zeros beyond its rank; one program."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.adapters.padded import Padded, with_numbers
from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.models.mlp import MLP
from lorax.train.losses import classification_loss
from lorax.train.optim import adamw
from lorax.train.packed import make_packed_step
from lorax.train.schedules import schedule
from lorax.train.stacks import common, cut, pad, stack, take
from lorax.train.step import init_state, make_step

pytestmark = pytest.mark.runs

STEPS, ROWS = 20, 16
MODEL = MLP((24, 24, 9))
UNITS = tuple(itertools.product((1, 3, 8), (1e-3, 1e-2), (0, 1)))
"""Rank, learning rate, seed."""


@functools.cache
def base():
    return jax.jit(MODEL.init)(jax.random.key(9), jnp.zeros((1, 12)))


def batch(seed, step):
    draw = np.random.default_rng((seed, step))
    x, y = draw.normal(size=(ROWS, 12)).astype(np.float32), draw.integers(0, 9, ROWS)
    return Batch(x, y.astype(np.int32), np.ones(ROWS, bool))


def optimizer(numbers):
    rate = schedule("cosine", numbers["rate"], 200, warmup=3, final=0.1)
    return adamw(rate, numbers["decay"], loraplus=numbers["loraplus"]), rate


@functools.cache
def step_alone(adapter, numbers):
    """That of `make_step`, its numbers constants."""
    return make_step(classification_loss(MODEL.apply, adapter), *optimizer(dict(numbers)))


class Unit:
    """One training: an adapter, its numbers, its first state."""

    def __init__(self, adapter, rate, seed, decay=0.1, loraplus=1.0):
        self.adapter, self.seed = adapter, seed
        self.numbers = {"rate": rate, "decay": decay, "loraplus": loraplus}
        example = jnp.zeros((1, 12))
        delta = lorax.adapt(MODEL.apply, adapter).init(jax.random.key(seed), base(), example)
        self.state = init_state(delta, optimizer(self.numbers)[0], jax.random.key(seed + 7))

    def alone(self, steps):
        """Losses of every step, and the delta in the end."""
        step = step_alone(self.adapter, tuple(self.numbers.items()))
        state = jax.tree.map(jnp.copy, self.state)
        losses = []
        for number in range(steps):
            state, metrics = step(state, base(), batch(self.seed, number))
            losses.append(metrics["loss"])
        return np.array(losses), state.delta


def packed(units, steps, width=0, active=None, dropout=False):
    """The same of all units at once: (losses (steps, units), final states as the units have them,
    the padded states)."""
    shapes = common([unit.state for unit in units])
    whole = [with_numbers(u.adapter, base(), u.state.delta, dropout=dropout) for u in units]
    numbers = [
        {"adapter": pad(w, common(whole)), **jax.tree.map(jnp.float32, u.numbers)}
        for w, u in zip(whole, units, strict=True)
    ]
    complete = lambda delta, n: dataclasses.replace(n["adapter"], delta=delta)
    loss = classification_loss(MODEL.apply, Padded(units[0].adapter))
    step = make_packed_step(loss, optimizer, complete, width=width)
    states, numbers = stack([pad(u.state, shapes) for u in units]), stack(numbers)
    active = jnp.ones(len(units), bool) if active is None else active
    losses = []
    for number in range(steps):
        batches = jax.tree.map(lambda *x: np.stack(x), *[batch(u.seed, number) for u in units])
        states, metrics = step(states, numbers, active, base(), batches)
        losses.append(metrics["loss"])
    ends = [cut(take(states, i), unit.state) for i, unit in enumerate(units)]
    assert step._cache_size() == 1
    return np.array(losses), ends, states


def close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * float(jnp.abs(y).max()))


@functools.cache
def twelve(width):
    """The units of `UNITS` packed."""
    units = [Unit(lorax.LoRA(rank=r, alpha=8.0), rate, seed) for r, rate, seed in UNITS]
    return units, *packed(units, STEPS, width)


def test_ranks_rates_and_seeds_in_one_program_equal_each_alone():
    units, losses, ends, _ = twelve(0)
    for i, unit in enumerate(units):
        alone, delta = unit.alone(STEPS)
        np.testing.assert_allclose(losses[:, i], alone, rtol=1e-5)
        close(ends[i].delta, delta, 1e-4)


@pytest.mark.parametrize("width", [4, 1])
def test_units_in_turn_are_units_side_by_side(width):
    _, losses, ends, _ = twelve(width)
    _, wanted, deltas, _ = twelve(0)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    for one, other in zip(ends, deltas, strict=True):
        close(one.delta, other.delta, 1e-4)


def test_scaling_decay_loraplus_dropout_and_first_draw_may_differ_too():
    lora = functools.partial(lorax.LoRA, where=(".*kernel",))
    units = [
        Unit(lora(rank=2, alpha=4.0, dropout=0.2), 1e-3, 0, decay=0.0, loraplus=16.0),
        Unit(lora(rank=4, scaling="rslora", initializer="gaussian"), 3e-3, 1, decay=0.5),
        Unit(lora(rank=1, init_scale=3.0, dropout=0.5), 2e-3, 2, loraplus=4.0),
    ]
    losses, ends, _ = packed(units, 6, dropout=True)
    for i, unit in enumerate(units):
        alone, delta = unit.alone(6)
        np.testing.assert_allclose(losses[:, i], alone, rtol=1e-5)
        close(ends[i].delta, delta, 1e-4)


@pytest.mark.parametrize(
    "adapters",
    [
        [lorax.LoRA(rank=r, initializer="pissa", where=(".*kernel",)) for r in (1, 3)],
        [lorax.Chain(lorax.LoRA(rank=r), lorax.BitFit()) for r in (1, 3)],
        [lorax.Full(), lorax.Full()],
    ],
    ids=["pissa", "chain", "full"],
)
def test_other_adapters_are_packed_too(adapters):
    units = [Unit(adapter, 1e-3 * (i + 1), i) for i, adapter in enumerate(adapters)]
    losses, ends, _ = packed(units, 5)
    for i, unit in enumerate(units):
        alone, delta = unit.alone(5)
        np.testing.assert_allclose(losses[:, i], alone, rtol=1e-5)
        close(ends[i].delta, delta, 1e-4)


def test_padding_is_exactly_zero_after_200_steps_with_weight_decay():
    units = [Unit(lorax.LoRA(rank=r), 1e-2, 0, decay=0.3) for r in (1, 3, 8)]
    _, ends, states = packed(units, 200)
    for i, unit in enumerate(units):
        rebuilt = pad(ends[i], common([u.state for u in units]))
        beyond = jax.tree.map(
            lambda x, y: bool((x == y).all()), take(states, i).delta, rebuilt.delta
        )
        assert all(jax.tree.leaves(beyond))
        moved = [
            not np.array_equal(*pair)
            for pair in zip(
                jax.tree.leaves(ends[i].delta), jax.tree.leaves(unit.state.delta), strict=True
            )
        ]
        assert all(moved)


def test_a_unit_that_becomes_nan_stays_where_it_was_and_its_neighbours_go_on():
    good = Unit(lorax.LoRA(rank=2), 1e-3, 0)
    bad = Unit(lorax.LoRA(rank=2), 1e-3, 1)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), bad.state.delta)
    bad.state = dataclasses.replace(bad.state, delta=broken)
    losses, ends, _ = packed([good, bad], 3)
    assert np.isfinite(losses[:, 0]).all() and np.isnan(losses[:, 1]).all()
    np.testing.assert_allclose(losses[:, 0], good.alone(3)[0], rtol=1e-5)
    assert int(ends[0].step) == 3 and int(ends[1].step) == 0


def test_an_inactive_unit_does_not_move():
    units = [Unit(lorax.LoRA(rank=2), 1e-3, seed) for seed in (0, 1)]
    _, ends, _ = packed(units, 2, active=jnp.array([True, False]))
    assert int(ends[0].step) == 2 and int(ends[1].step) == 0
    assert all(
        np.array_equal(*pair)
        for pair in zip(
            jax.tree.leaves(ends[1].delta), jax.tree.leaves(units[1].state.delta), strict=True
        )
    )


def test_a_width_that_does_not_divide_the_units_is_refused():
    units = [Unit(lorax.LoRA(rank=2), 1e-3, seed) for seed in (0, 1, 2)]
    with pytest.raises(LoraxError, match="width is 2 of 3 units: expected one of its divisors"):
        packed(units, 1, width=2)


def memory(units):
    """Bytes (arguments of the base, of each unit, temporary) of a step with so many units."""
    model, rows = MLP((256, 256, 256)), 8
    x = jnp.zeros((rows, 256))
    frozen = model.init(jax.random.key(0), x)
    adapter = lorax.LoRA(rank=8)
    delta = lorax.adapt(model.apply, adapter).init(jax.random.key(1), frozen, x)
    tx = optax.adam(1e-3)
    states = stack([init_state(delta, tx, jax.random.key(2))] * units)
    batches = Batch(
        *[
            jnp.zeros((units, *shape), dtype)
            for shape, dtype in (((rows, 256), jnp.float32), ((rows,), jnp.int32), ((rows,), bool))
        ]
    )
    step = make_packed_step(classification_loss(model.apply, adapter), lambda _: (tx, None))
    used = step.lower(states, None, jnp.ones(units, bool), frozen, batches).compile()
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    return used.memory_analysis(), size(frozen), size((states, batches)) // units


def test_the_base_is_there_once_and_the_rest_grows_with_the_units():
    found = {units: memory(units) for units in (1, 8, 32)}
    alone = found[1][0].temp_size_in_bytes
    for units, (used, frozen, each) in found.items():
        assert used.argument_size_in_bytes <= frozen + units * (each + 64) + 1024
        assert used.temp_size_in_bytes <= 1.15 * units * alone
