"""Units in lockstep: each is told, measured and saved as if alone, whatever the others do."""

import io
import itertools
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.train import lockstep
from lorax.train.lockstep import LAG, Lane, train_packed
from lorax.train.loop import NotFinite, Plan
from lorax.train.stacks import stack
from lorax.train.stop import Stop, Stopped
from tests.train.toy_units import BASE, Unit, batches, close, near, run, same


def mixed(**changes):
    """Three units of other ranks, rates, data and reports."""
    return [
        Unit(1, 0.1, 0, **{"log_every": 3, "eval_every": 4, "save_every": 3, "pending": True}
             | changes),
        Unit(3, 0.02, 1, **{"log_every": 1, "eval_every": 2} | changes),
        Unit(2, 0.5, 2, **{"log_every": 10, "save_every": 5} | changes),
    ]  # fmt: skip


@pytest.mark.parametrize("spare", [0, 2])
def test_each_unit_is_told_and_saved_as_if_alone(spare):
    units, alone = mixed(), mixed()
    ends = run(units, spare)
    for unit, other, end in zip(units, alone, ends, strict=True):
        outcome = other.alone()
        same(unit, other)
        close(end.outcome.state.delta, outcome.state.delta)
        assert end.outcome.metrics == near(outcome.metrics)
        assert end.failure is None and int(end.outcome.state.step) == 7
        assert end.outcome.seconds_per_step > 0 and 0 <= end.outcome.wait_share <= 1
    assert [m.step for m, _ in units[0].saved] == [0, 3, 4, 6, 7]
    assert [m.step for m, _ in units[1].saved] == units[1].measured == [2, 4, 6, 7]
    assert [m.step for m, _ in units[2].saved] == [5, 7]


def test_units_that_resume_at_different_steps_end_at_the_same():
    steps = 4, 7, 1
    begun = lambda: [u.at(at) for u, at in zip(mixed(log_every=1), steps, strict=True)]
    units, alone = begun(), begun()
    ends = run(units)
    for unit, other, end in zip(units, alone, ends, strict=True):
        outcome = other.alone()
        same(unit, other)
        close(end.outcome.state.delta, outcome.state.delta)
    assert units[0].measured == [4, 7]  # the evaluation that was pending comes first
    assert [m.step for m, _ in units[0].saved] == [4, 6, 7]
    assert units[1].records == units[1].saved == [] and ends[1].outcome.metrics == {}
    assert math.isnan(ends[1].outcome.seconds_per_step)


def test_rows_may_have_another_length_at_every_step():
    make = lambda: [Unit(seed=0, long=True, steps=4), *(Unit(seed=s, long=True) for s in (1, 2))]
    begun = lambda: [unit.at(at) for unit, at in zip(make(), (1, 4, 2), strict=True)]
    units, alone = begun(), begun()
    run(units, spare=1)  # those that are ahead wait for the others
    for unit, other in zip(units, alone, strict=True):
        other.alone()
        same(unit, other)


@pytest.mark.parametrize("bad", [1, 5, 7])
def test_a_unit_that_becomes_nan_fails_alone(bad):
    make = lambda: [Unit(seed=0), Unit(seed=1, bad=bad, log_every=2, save_every=2), Unit(seed=2)]
    units, alone = make(), make()
    stream = io.StringIO()
    ends = run(units, stream=stream)
    outcomes = [unit.alone() for unit in alone]
    for unit, other in zip(units, alone, strict=True):
        same(unit, other)
    assert ends[0].failure is None and ends[2].failure is None
    close(ends[2].outcome.state.delta, outcomes[2].state.delta)
    assert isinstance(ends[1].failure, NotFinite) and str(ends[1].failure) == str(outcomes[1])
    assert f"training stopped at step {bad}, where loss is nan" in str(ends[1].failure)
    assert units[1].records[-1]["step"] == bad
    assert int(ends[1].outcome.state.step) == bad - 1  # it is frozen
    assert np.isfinite(ends[1].outcome.state.delta["a"]).all()
    assert [m.step for m, _ in units[1].saved] == list(range(2, bad, 2))
    assert "1 failed" in stream.getvalue().splitlines()[-1]


def test_a_pack_whose_units_all_fail_ends():
    ends = run([Unit(seed=0, bad=2, steps=50), Unit(seed=1, bad=4, steps=50)])
    assert ["step 2," in str(ends[0].failure), "step 4," in str(ends[1].failure)] == [True, True]


def test_the_lowest_loss_is_shown():
    stream = io.StringIO()
    units = [Unit(seed=0, log_every=1), Unit(seed=1, log_every=1)]
    for unit, scale in zip(units, (3.0, 30.0), strict=True):  # losses of 9 or so, and 900
        unit.left = lambda scale=scale: itertools.repeat(np.full(3, scale, np.float32))
    run(units, stream=stream, label="two units")
    lowest = min(unit.records[-2]["loss"] for unit in units)  # the last one is the evaluation's
    assert f"two units  14/14  lowest loss {lowest:.3f}  " in stream.getvalue()


def stopping(unit, stop, after):
    """The batches of a unit; a signal comes while the one after `after` steps is made."""
    plain = unit.left

    def left():
        for number, batch in enumerate(plain()):
            if number == after - 1:
                stop.signum = signal.SIGTERM
            yield batch

    unit.left = left


def moments(unit):
    return [(m.step, m.numbers is not None, m.pending) for m, _ in unit.saved]


def test_a_signal_ends_it_after_a_save_of_every_unit():
    stop, units = Stop(), [Unit(seed=seed, steps=9, log_every=1) for seed in range(3)]
    stopping(units[1], stop, 4)
    with pytest.raises(Stopped, match="stopped by SIGTERM after 12 steps of three"):
        run(units, stop=stop, label="three")
    for unit in units:
        assert moments(unit) == [(4, False, False)]
        assert [r["step"] for r in unit.records] == [1, 2, 3, 4]
    again = [Unit(seed=seed, steps=9).at(4) for seed in range(3)]
    whole = [Unit(seed=seed, steps=9).alone() for seed in range(3)]
    for end, wanted in zip(run(again), whole, strict=True):
        close(end.outcome.state.delta, wanted.state.delta)


def test_a_signal_in_an_evaluation_leaves_it_pending_where_it_was_due():
    stop = Stop()
    units = [Unit(seed=seed, steps=9, eval_every=every) for seed, every in enumerate((2, 2, 2, 0))]
    plain = units[1].evaluate

    def evaluate(state):
        if state.step == 4:
            stop.signum = signal.SIGINT
            stop.check()
        return plain(state)

    units[1].evaluate = evaluate
    with pytest.raises(Stopped, match="stopped by SIGINT after 16 steps of units"):
        run(units, stop=stop)
    assert moments(units[0]) == [(2, True, False), (4, True, False)]
    for unit in units[1:3]:  # its own, and that of the unit behind it
        assert moments(unit) == [(2, True, False), (4, False, True)]
    assert moments(units[3]) == [(4, False, False)]


def test_a_stop_saves_nothing_twice_and_nothing_that_failed():
    stop = Stop()
    units = [Unit(seed=0), Unit(seed=1, bad=2), Unit(seed=2, steps=3), Unit(seed=3).at(6)]
    stopping(units[0], stop, 5)
    with pytest.raises(Stopped):
        run(units, stop=stop)
    assert moments(units[0]) == [(5, False, False)]
    assert moments(units[1]) == []
    # one ended two steps before: its evaluation stays with its checkpoint
    assert moments(units[2]) == [(3, True, False)]
    assert moments(units[3]) == []  # nothing happened since it was saved


def test_a_signal_before_the_first_step():
    stop = Stop()
    stop.signum = signal.SIGTERM
    units = [Unit(seed=0, pending=True), Unit(seed=1).at(4)]
    with pytest.raises(Stopped, match="after 4 steps of units"):
        run(units, stop=stop)
    assert moments(units[0]) == [(0, False, True)] and moments(units[1]) == []


def test_batches_that_run_out():
    units = [Unit(seed=0), Unit(seed=1)]
    units[1].left = lambda: itertools.islice(batches(1), 2)
    with pytest.raises(LoraxError, match="batches ran out after 2 of 7 steps"):
        run(units)


def test_the_newest_steps_are_never_waited_for(monkeypatch):
    read, started = [], []
    get = jax.device_get

    def device_get(tree):
        if isinstance(tree, list):
            read.append(len(started))
        return get(tree)

    def step(states, numbers, active, base, batches):
        started.append(int(active.sum()))
        return states, {"loss": jnp.ones(2), "l2_grads": jnp.ones(2)}

    monkeypatch.setattr(lockstep.jax, "device_get", device_get)
    state = stack([Unit(seed=seed).state for seed in range(2)])
    lanes = [Lane(Plan(n, log_every=1000), batches(0), Unit().state) for n in (20, 12)]
    train_packed(step, state, None, BASE, lanes, stream=io.StringIO())
    assert started == [2] * 12 + [1] * 8
    assert read[:9] == list(range(LAG + 1, 12))  # then the shorter one ends, and is waited for
