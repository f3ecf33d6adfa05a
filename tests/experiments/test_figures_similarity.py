"""The figures of φ: maps and lines of every kind, whatever the shapes, and what is not a number."""

import re

import numpy as np
import pytest

from experiments.figures.similarity import Shared, draw
from lorax.analysis.subspaces import phi

pytest.importorskip("matplotlib")


def shared(label, i, j, dimension=12, layers=3):
    """φ of random subspaces."""
    rng = np.random.default_rng(0)
    basis = lambda size: np.linalg.qr(rng.normal(size=(layers, dimension, size)))[0]
    both = [phi(basis(i), basis(j)) for _ in range(2)]
    return Shared(label, dimension, *both)


@pytest.mark.parametrize("i, j, layers", [(2, 6, 3), (6, 6, 1), (1, 1, 1)])
def test_a_row_a_kind_with_its_chance(i, j, layers):
    found = [shared("query", i, j, layers=layers), shared("value", i, j, layers=layers)]
    png, svg = draw("ranks", found, "r = 2", "r = 6")
    assert png.startswith(b"\x89PNG")
    for text in ("trained", "at initialisation", "chance", "query", "value", "r = 2", "r = 6"):
        assert text in svg, text
    assert 'id="ranks-' in svg
    dash = re.search(r'<path id="ranks-\w+" d="M 6 0 \nL -6 -?0 ', svg)
    assert bool(dash) == (i == j == 1), "chance of one point is a dash, for it is no line"
    assert draw("ranks", found, "r = 2", "r = 6") == (png, svg)


def test_chance_is_that_of_the_dimension():
    one = shared("query", 2, 3)
    np.testing.assert_allclose(one.chance, [[1 / 12, 2 / 12, 3 / 12], [2 / 12, 2 / 12, 3 / 12]])


def test_what_has_no_direction_is_left_out():
    one = shared("query", 2, 3)
    nothing = np.full_like(one.phi, np.nan)
    _, svg = draw("seeds", [Shared("query", 12, nothing, one.start)], "seed 0", "seed 1", "random")
    assert "random" in svg and "seed 1" in svg
