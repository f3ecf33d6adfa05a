"""An epoch in one program is the same steps of `make_step`: alone, side by side and in turn."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.models.mlp import MLP
from lorax.train.epochs import make_epoch
from lorax.train.losses import classification_loss
from lorax.train.stacks import stack, take
from lorax.train.step import State, init_state, make_step

MODEL, ADAPTER = MLP((3,)), lorax.LoRA(rank=2)
EXAMPLES, BATCH, STEPS = 14, 4, 5
RATES = (1e-2, 1e-1, 1e-2, 1e-1)
LOSS = classification_loss(MODEL.apply, ADAPTER)


def tx_of(numbers):
    """The optimizer of a unit, whose rate falls: its schedule counts the unit's own steps."""
    rate = optax.linear_schedule(numbers["rate"], 0.0, 2 * STEPS)
    return optax.adam(rate), rate


@functools.cache
def base():
    return jax.jit(MODEL.init)(jax.random.key(9), jnp.zeros((1, 6)))


@functools.cache
def data():
    """All examples; the last row does not count, and would be told apart if it did."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(EXAMPLES + 1, 6)).astype(np.float32)
    x[-1] = 1e3
    y = draw.integers(0, 3, EXAMPLES + 1).astype(np.int32)
    return jax.tree.map(jnp.asarray, Batch(x, y, np.arange(EXAMPLES + 1) < EXAMPLES))


ORDER = np.random.default_rng(1).integers(0, EXAMPLES, (STEPS, BATCH)).astype(np.int32)


def first(unit):
    delta = lorax.adapt(MODEL.apply, ADAPTER).init(jax.random.key(unit), base(), jnp.zeros((1, 6)))
    return init_state(delta, tx_of({"rate": 0.0})[0], jax.random.key(unit + 7))


def batches():
    """Those of an epoch."""
    return [jax.tree.map(operator.itemgetter(rows), data()) for rows in ORDER]


@functools.cache
def step_of(rate):
    return make_step(LOSS, *tx_of({"rate": rate}))


@functools.cache
def alone(unit):
    """Losses of every step of `make_step`, and the state in the end."""
    state, losses = first(unit), []
    for batch in batches():
        state, metrics = step_of(RATES[unit])(state, base(), batch)
        losses.append(metrics["loss"])
    return np.array(losses), state


@functools.cache
def epoch_of(width, by_step):
    return make_epoch(LOSS, tx_of, width=width, by_step=by_step)


def trained(rates, order=ORDER, states=None, width=0, by_step=False):
    """(states, losses, finite) of units with these rates, after an epoch."""
    states = stack(states or [first(unit) for unit in range(len(rates))])
    numbers = {"rate": jnp.array(rates)}
    return epoch_of(width, by_step)(states, numbers, base(), data(), jnp.asarray(order))


def same(state, wanted, tolerance=1e-6):
    assert int(state.step) == int(wanted.step)
    for x, y in zip(jax.tree.leaves(state.delta), jax.tree.leaves(wanted.delta), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("width", "by_step"), [(0, False), (2, False), (1, False), (2, True), (1, True)]
)
def test_units_side_by_side_and_in_turn_are_each_alone(width, by_step):
    states, losses, finite = trained(RATES, width=width, by_step=by_step)
    assert losses.shape == finite.shape == (4,) and np.all(finite)
    for unit in range(4):
        steps, state = alone(unit)
        np.testing.assert_allclose(losses[unit], steps.mean(), rtol=1e-6)
        same(take(states, unit), state)


def test_epochs_of_one_unit_go_on_where_the_last_one_ended():
    epoch, numbers = make_epoch(LOSS, tx_of), {"rate": jnp.array(RATES[3:])}
    states, losses = stack([first(3)]), []
    for order in (ORDER[:2], ORDER[2:4], ORDER[3:]):
        states, loss, _ = epoch(states, numbers, base(), data(), jnp.asarray(order))
        losses.append(loss[0])
    steps, _ = alone(3)
    np.testing.assert_allclose(losses[:2], [steps[:2].mean(), steps[2:4].mean()], rtol=1e-6)
    assert int(states.step[0]) == 6 and epoch._cache_size() == 1


def test_what_completes_a_delta_and_parts_of_a_batch():
    scaled = lambda delta, numbers: jax.tree.map(lambda x: x * numbers["scale"], delta)
    scale = jnp.array([1.0, 0.5])
    epoch = make_epoch(LOSS, tx_of, scaled, accumulate=2)
    states = stack([first(0), first(1)])
    numbers = {"rate": jnp.array(RATES[:2]), "scale": scale}
    states, losses, _ = epoch(states, numbers, base(), data(), jnp.asarray(ORDER))
    whole, state = alone(0)
    np.testing.assert_allclose(losses[0], whole.mean(), rtol=1e-6)
    same(take(states, 0), state)
    half = lambda delta, *rest: LOSS(jax.tree.map(lambda x: x * 0.5, delta), *rest)
    step, state = make_step(half, *tx_of({"rate": RATES[1]})), first(1)
    for batch in batches():
        state, _ = step(state, base(), batch)
    same(take(states, 1), state)


@pytest.mark.parametrize("width", [0, 1])
def test_a_unit_that_is_not_finite_stands_still_and_its_neighbours_go_on(width):
    broken = first(1)
    broken = State(
        jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), broken.delta), broken.opt_state,
        broken.step, broken.key,
    )  # fmt: skip
    rates = (RATES[0], RATES[1], 1e30, RATES[3])  # the third leaves the numbers after a step
    states = [first(0), broken, first(2), first(3)]
    states, losses, finite = trained(rates, states=states, width=width)
    assert finite.tolist() == [True, False, False, True]
    assert states.step.tolist() == [STEPS, 0, 1, STEPS]
    for unit in (0, 3):
        steps, state = alone(unit)
        np.testing.assert_allclose(losses[unit], steps.mean(), rtol=1e-6)
        same(take(states, unit), state)
    assert all(np.isnan(leaf[1]).all() for leaf in jax.tree.leaves(states.delta))
    assert all(np.isfinite(leaf[2]).all() for leaf in jax.tree.leaves(states.delta))


def test_rows_that_fill_up_a_batch_count_nothing():
    order = np.full_like(ORDER, EXAMPLES)  # the row that does not count
    order[:, :3] = ORDER[:, :3]
    full, losses, _ = trained(RATES, order)
    fewer, wanted, _ = trained(RATES, ORDER[:, :3])
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    same(take(full, 3), take(fewer, 3))
    order[-1] = EXAMPLES  # a batch of them is a loss of zero
    _, losses, finite = trained(RATES, order)
    assert np.all(finite) and np.all(losses < wanted)


def test_a_width_that_does_not_divide_the_units_is_refused():
    with pytest.raises(LoraxError, match="width is 2 of 3 units: expected one of its divisors"):
        trained(RATES[:3], width=2)
