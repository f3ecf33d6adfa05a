"""Buckets: rows of like length, one bucket a batch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.bucketing import Bucketed, buckets_up_to


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=40),
    st.integers(1, 5),
    st.sets(st.integers(1, 39), max_size=4),
)
def test_an_example_is_in_the_smallest_bucket_that_holds_it(lengths, batch, buckets):
    order = Bucketed(lengths=lengths, batch=batch, buckets=(40, *buckets), seed=0)
    for step in range(order.steps_per_epoch):
        for row in order.rows(step):
            for example in row:
                fitting = [b for b in (40, *buckets) if b >= lengths[example]]
                assert order.length(step) == min(fitting)


def test_batches_of_all_buckets_are_mixed():
    order = Bucketed(lengths=[5] * 40 + [10] * 40, batch=4, buckets=(5, 10), seed=0)
    lengths = [order.length(step) for step in range(order.steps_per_epoch)]
    assert sorted(lengths) == [5] * 10 + [10] * 10 and lengths != sorted(lengths)


def test_a_bucket_that_is_empty_takes_no_step():
    order = Bucketed(lengths=[1, 9], batch=2, buckets=(2, 4, 9), seed=0)
    assert sorted(order.length(step) for step in range(order.steps_per_epoch)) == [2, 9]


def test_refuses_an_example_that_no_bucket_holds():
    with pytest.raises(LoraxError, match="example 2 has 9 tokens, but the longest bucket holds 8"):
        Bucketed(lengths=[1, 8, 9], batch=1, buckets=(4, 8), seed=0)
    with pytest.raises(LoraxError, match="the longest bucket holds 0"):
        Bucketed(lengths=[1], batch=1, buckets=(), seed=0)


@pytest.mark.parametrize(
    "length, expected", [(8, (8,)), (16, (16,)), (17, (16, 17)), (100, (16, 32, 64, 100))]
)
def test_buckets_up_to(length, expected):
    assert buckets_up_to(length) == expected
