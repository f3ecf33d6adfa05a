"""Orders: every example once an epoch, the same step whenever and however it is asked for."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.bucketing import Bucketed
from lorax.data.order import Sequential, Shuffled, describe, integers, permutation
from lorax.data.packing import Packed

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=30)
BATCHES = st.integers(1, 7)
SEEDS = st.integers(0, 2**70)


def orders(lengths: list[int], batch: int, seed: int) -> list:
    """One of each kind that trains."""
    return [
        Shuffled(examples=len(lengths), batch=batch, seed=seed, tokens=12),
        Bucketed(lengths=lengths, batch=batch, buckets=(3, 6, 12), seed=seed),
        Packed(lengths=lengths, batch=batch, tokens=12, seed=seed),
    ]


@settings(max_examples=40)
@given(LENGTHS, BATCHES, SEEDS, st.integers(0, 3))
def test_every_example_comes_once_an_epoch(lengths, batch, seed, epoch):
    for order in orders(lengths, batch, seed):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        rows = [row for step in steps for row in order.rows(step)]
        assert len(rows) == batch * order.steps_per_epoch
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        assert order.steps is None and order.examples == len(lengths)


@settings(max_examples=40)
@given(LENGTHS, BATCHES, SEEDS)
def test_rows_fit_their_length(lengths, batch, seed):
    for order in orders(lengths, batch, seed):
        for step in range(order.steps_per_epoch):
            length = order.length(step)
            assert all(sum(lengths[i] for i in row) <= length for row in order.rows(step))
            assert order.packed or all(len(row) <= 1 for row in order.rows(step))


@settings(max_examples=30)
@given(LENGTHS, BATCHES, SEEDS, st.integers(0, 50))
def test_a_step_depends_on_seed_and_step_alone(lengths, batch, seed, step):
    for fresh, used in zip(*[orders(lengths, batch, seed) for _ in range(2)], strict=True):
        for other in (7, 0, step + 1):  # whatever was asked for before
            used.rows(other)
        permutation.cache_clear()
        assert fresh.rows(step) == used.rows(step) and fresh.length(step) == used.length(step)
        assert fresh == used and describe(fresh) == describe(used)


def test_the_order_of_all_time():
    """Another NumPy, another Python: still this order, or resumed runs would see other data."""
    shuffled = Shuffled(examples=5, batch=2, seed=1)
    assert [shuffled.rows(step) for step in range(3)] == [[[2], [3]], [[0], [1]], [[4], []]]
    packed = Packed(lengths=[3, 1, 2, 4, 2], batch=2, tokens=4, seed=1)
    assert [packed.rows(step) for step in range(2)] == [[[3], [0, 1]], [[4, 2], []]]
    bucketed = Bucketed(lengths=[3, 1, 2, 4, 2], batch=2, buckets=(2, 4), seed=1)
    assert [bucketed.rows(s) for s in range(3)] == [[[2], [1]], [[4], []], [[3], [0]]]


def test_epochs_and_seeds_differ():
    order = Shuffled(examples=50, batch=50, seed=0)
    other = Shuffled(examples=50, batch=50, seed=1)
    assert order.rows(0) != order.rows(1) != order.rows(2)
    assert order.rows(0) != other.rows(0) and order.rows(1) != other.rows(0)


def test_streams_do_not_meet():
    """(epoch 1, stream 0) must not be (epoch 0, stream 1)."""
    seen = [tuple(permutation(9, 3, epoch, stream)) for epoch in range(3) for stream in range(3)]
    assert len(set(seen)) == 9
    with pytest.raises(ValueError, match="read-only"):
        permutation(9, 3, 0)[0] = 0


def test_sequential_goes_through_once():
    order = Sequential(examples=5, batch=2, tokens=8)
    assert [order.rows(step) for step in range(3)] == [[[0], [1]], [[2], [3]], [[4], []]]
    assert order.steps == order.steps_per_epoch == 3 and order.length(2) == 8
    for step in (-1, 3):
        with pytest.raises(IndexError, match=f"step {step}: expected 0 to 2"):
            order.rows(step)


def test_training_has_no_step_before_the_first():
    for order in orders([1, 2], 1, 0):
        with pytest.raises(IndexError, match="step -1"):
            order.rows(-1)


def test_description_is_json_and_tells_data_apart():
    told = [describe(order) for order in orders([1, 2, 3], 2, 5)]
    assert json.loads(json.dumps(told)) == told
    assert told[0] == {"order": "Shuffled", "examples": 3, "batch": 2, "seed": 5, "tokens": 12}
    assert told[1]["buckets"] == [3, 6, 12] and told[1]["lengths"].startswith("3:")
    assert describe(orders([1, 3, 2], 2, 5)[1]) != told[1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Shuffled(examples=0, batch=1, seed=0), "no examples"),
        (lambda: Sequential(examples=1, batch=0), "batch is 0: expected 1 or more"),
        (lambda: Shuffled(examples=1, batch=1, seed=-1), "seed of the data is -1"),
        (lambda: Packed(lengths=[], batch=1, tokens=4, seed=0), "no examples"),
        (lambda: Packed(lengths=[1, 5], batch=1, tokens=4, seed=0), "example 1 has 5 tokens"),
        (lambda: integers([0.5]), "lengths are float64 of shape"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(LoraxError, match=message):
        make()
