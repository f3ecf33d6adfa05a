"""Products without their product: truncation is the best there is, stacks are matrices."""

import numpy as np
import pytest

import lorax
from lorax.adapters.low_rank import (
    check_alike,
    matrices,
    plain,
    plain_leaves,
    side_by_side,
    sides,
    singular_factors,
    truncate,
)
from tests.adapters.sums import BASE, as_matrices, cut, relative, trained, two, update


@pytest.mark.parametrize("leaf", ["heads", "experts"])
def test_singular_values_and_cuts_are_those_of_the_product(leaf):
    adapter, delta = two()[1]
    whole = as_matrices(update(adapter, delta, leaf), leaf) / float(adapter.scale_of(leaf))
    u, values, vt = singular_factors(delta[leaf])
    np.testing.assert_allclose(values, np.linalg.svd(whole, compute_uv=False)[:, :3], rtol=1e-4)
    np.testing.assert_allclose((u * values[:, None]) @ vt, whole, atol=1e-4)
    short, lost = truncate(delta[leaf], 2)
    a, b = matrices(short)
    assert float(lost) == pytest.approx(relative(cut(whole, 2), whole), rel=1e-4)
    np.testing.assert_allclose(a @ b, cut(whole, 2), atol=1e-4)
    same, none = truncate(delta[leaf], 9)
    assert same.rank == 3 and float(none) == 0.0


def test_an_offset_becomes_plain_factors():
    adapter = lorax.LoRA(rank=2, where=("query",), initializer="pissa")
    delta = trained(adapter, 1)
    with pytest.raises(lorax.LoraxError, match="pass base="):
        plain_leaves(adapter, delta)
    leaf = plain_leaves(adapter, delta, BASE)["query"]
    a, b = matrices(leaf.factors)
    want = adapter.merge(BASE, delta)["query"] - BASE["query"]
    np.testing.assert_allclose(leaf.scale * (a @ b)[0], want, atol=1e-4)
    assert plain("query", leaf) is leaf.factors


def test_products_side_by_side_are_of_one_matrix():
    (_, delta), (_, other) = two()
    joined = side_by_side("heads", [delta["heads"], other["heads"]])
    assert joined.rank == 5 and sides(joined) == ((4,), (2, 3)) == sides(other["heads"])
    with pytest.raises(lorax.LoraxError, match="'x' has another shape"):
        check_alike("x", [delta["heads"], delta["query"]])
