"""Sums of formed updates: the cut is the best there is, and both errors are told."""

import math

import jax.numpy as jnp
import pytest

from lorax.adapters.parts import Whole
from lorax.adapters.whole_sums import Rule, cut_sum, weighted_sum
from tests.adapters.sums import BASE, ROLES, as_matrices, cut, relative, two, update


def double(updates, weights, keys, numbers):
    """Twice the sum."""
    return numbers * weighted_sum(updates, weights, keys, ())


def zero(updates, weights, keys, numbers):
    """The first update, whatever its weight."""
    return updates[0]


@pytest.mark.parametrize("leaf", ["heads", "experts"])
def test_factors_and_whole_updates_are_added_and_cut(leaf):
    adapter, delta = two()[0]
    factors, scale = delta[leaf], float(adapter.scale_of(leaf))
    other = update(*two()[1], leaf)
    whole = Whole(jnp.asarray(other, jnp.float32), ROLES[leaf])
    want = as_matrices(0.5 * update(adapter, delta, leaf) / scale - 2 * other, leaf)
    found, error, lost = cut_sum({0: factors, 2: whole}, (0.5, 1.0, -2.0), 2)
    optimum = relative(cut(want, 2), want)
    assert error == pytest.approx(optimum, rel=1e-4) and lost == pytest.approx(optimum, rel=1e-4)
    assert tuple(found.A.shape), tuple(found.B.shape) == ROLES[leaf].shapes(BASE[leaf].shape, 2)
    all_of_it, error, lost = cut_sum({0: factors, 2: whole}, (0.5, 1.0, -2.0), 99)
    assert all_of_it.rank == min(want.shape[1:]) and error < 1e-5 and lost == 0.0


def test_the_error_of_the_rule_and_that_of_the_cut():
    adapter, delta = two()[0]
    rule = Rule(double, lambda path, entries: {"q": 2.0}[path])
    _, error, lost = cut_sum({0: delta["query"]}, (1.0,), 2, "q", rule)
    assert error == pytest.approx(1.0, rel=1e-5) and lost == pytest.approx(0.0, abs=1e-6)
    _, error, lost = cut_sum({0: delta["query"]}, (0.0,), 2, "q", Rule(zero))
    assert error == math.inf
    assert cut_sum({0: delta["query"]}, (0.0,), 2)[1:] == (0.0, 0.0)
