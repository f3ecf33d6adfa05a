"""How many units a pack has, and how many side by side: by count, memory, and measured speed."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments._sweep import tune
from experiments._sweep.tune import Program, compiled, fastest, first_width, limit, places, units_of

COUNTS = st.integers(1, 500)


@given(COUNTS, st.integers(0, 70))
def test_packs_are_few_and_of_like_size(count, pack):
    most, units = pack or tune.MOST, units_of(count, pack)
    assert 1 <= units <= min(count, most)
    packs = math.ceil(count / units)
    assert packs == math.ceil(count / most)
    assert units * packs - count < packs  # no pack has a gap of two


@pytest.mark.parametrize(
    "count, pack, units", [(1, 0, 1), (24, 0, 24), (64, 0, 64), (65, 0, 33), (12, 5, 4), (3, 9, 3)]
)
def test_units_of_a_pack(count, pack, units):
    assert units_of(count, pack) == units


@given(COUNTS)
def test_places_are_those_of_the_units_and_few_more(units):
    assert units <= places(units) < units + 4
    assert places(units) == units or (units > 8 and places(units) % 4 == 0)
    assert places(places(units)) == places(units)


@given(st.integers(1, 64).map(places), st.integers(1, 2**22))
def test_the_first_width_divides_the_places_and_falls_with_the_size(count, size):
    width = first_width(count, size)
    assert count % width == 0 and 1 <= width <= count
    assert first_width(count, 2 * size) <= width
    assert first_width(count, 1) == count and first_width(count, 2**40) == 1


def test_the_limit_is_what_is_told_or_what_there_is(monkeypatch):
    assert limit(0.5) == 2**29
    host = limit()
    assert 2**28 < host < 2**50
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 12345})
    monkeypatch.setattr(tune.jax, "local_devices", lambda: [device])
    assert limit() == 12345 and limit(1) == 2**30
    device.memory_stats = lambda: None  # as of a CPU
    assert limit() == host


def test_a_compiled_step_tells_its_bytes():
    def step(states, numbers, active, base, batches):
        return states + base.sum(), batches

    arguments = tuple(
        jnp.zeros(shape, jnp.float32) for shape in ((4, 100), (4,), (4,), (1000,), (4, 10))
    )
    program = compiled(jax.jit(step, donate_argnums=0), 2, arguments)
    assert program.units == 4 and program.width == 2 and program.compiling > 0
    assert math.isnan(program.seconds)
    assert 4 * (1000 + 400) <= program.bytes < 8 * (1000 + 400)
    shorter = (*arguments[1:4], jnp.zeros((4, 7)))
    assert program(jnp.ones((4, 100)), *shorter)[1].shape == (4, 7)
    assert program(jnp.ones((4, 100)), *arguments[1:])[1].shape == (4, 10)
    timed = tune.timed(program, arguments)
    assert timed.seconds > 0 and timed.step is program.step
    assert not arguments[0].is_deleted()  # the step was given copies


@pytest.fixture
def device(monkeypatch):
    """A clock, and programs of eight units whose steps take what `costs` says of their width."""
    now = types.SimpleNamespace(time=0.0, costs={}, bytes=dict.fromkeys((1, 2, 4, 8), 1), made=[])
    monkeypatch.setattr(tune.time, "perf_counter", lambda: now.time)

    def make(width):
        now.made.append(width)

        def step(states, *rest):
            now.time += now.costs[width]
            return states

        return Program(step, 8, width, now.bytes[width], compiling=1.0)

    now.make = make
    return now


def chosen(device, first, steps=1000, **options):
    """The width that is chosen, and those that were tried."""
    device.made.clear()
    arguments = (np.zeros((8, 2)), None, np.ones(8, bool), None, None)
    begun = device.make(first)
    best = fastest(begun, device.make, arguments, steps, **options)
    assert best.seconds == pytest.approx(device.costs[best.width])
    return best.width, device.made[1:]


WIDER = {1: 8.0, 2: 5.0, 4: 3.0, 8: 2.0}
"""Seconds of a step where side by side is faster."""

NARROWER = {1: 1.0, 2: 2.0, 4: 3.0, 8: 4.0}


@pytest.mark.parametrize(
    "costs, first, width, tried",
    [
        (WIDER, 8, 8, [2]),
        (WIDER, 2, 8, [8]),
        (WIDER, 1, 8, [4, 8]),
        (NARROWER, 8, 1, [2, 1]),
        (NARROWER, 1, 1, [4]),
        (NARROWER, 4, 1, [8, 1]),
        ({1: 1.0, 4: 0.98, 8: 0.5}, 1, 1, [4]),  # too little to be taken
    ],
)
def test_the_faster_width_is_found(device, costs, first, width, tried):
    device.costs = costs
    assert chosen(device, first) == (width, tried)


def test_nothing_is_tried_where_training_is_short(device):
    device.costs = WIDER  # compiling takes a second, a step of width 1 eight
    assert chosen(device, 1, steps=tune.WORTH // 8) == (1, [])
    assert chosen(device, 1, steps=tune.WORTH // 8 + 1) == (8, [4, 8])


def test_a_faster_width_that_does_not_fit_is_not_run(device):
    device.costs = WIDER | {8: math.nan}
    device.bytes = {1: 10, 2: 20, 4: 40, 8: 80}
    assert chosen(device, 1, limit=50) == (4, [4, 8])
    assert chosen(device, 2, limit=50) == (2, [8, 1])
