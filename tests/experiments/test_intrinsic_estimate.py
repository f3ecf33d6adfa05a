"""d90 of curves that are known, and of the authors' own arrays."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments._intrinsic.estimate import crossing, estimate, monotone
from experiments._intrinsic.search import Point
from tests.experiments.intrinsic_rows import rising, row, searched, study
from tests.shared_data import shared

PUBLISHED = "reference_numbers/intrinsic_dimension_main_plots.json.xz"


def rows_of(pairs, total=100_000):
    """Rows of [d, value]; d = 0 is direct training."""
    seen, rows = {}, []
    for d, value in pairs:
        seen[d] = seen.get(d, -1) + 1
        method, name = ("subspace", "fastfood") if d else ("direct", "")
        rows.append(row(Point(method, name, int(d) or None, None, seen[d], 1e-3), value, total))
    return rows


def authors(*names):
    """The [d, accuracy] of the authors' notebook."""
    data = json.loads(shared(PUBLISHED))
    return [pair for name in names for pair in data[name][0]["values"]]


@pytest.mark.parametrize(
    ("names", "baseline", "own", "global_"),
    [
        (("data_mnist_mlp_2_200_standard",), 1.0, 625, 850),
        (("direct_mnist_lenet", "subspace_mnist_lenet"), 1.0, 275, 290),
        (("mnist_direct_mlp_L2", "mnist_subspace_mlp_L2"), 1.0, 525, 750),
        (("mnist_direct_mlp_L3", "mnist_subspace_mlp_L3"), 1.0, 575, 775),
        (("direct_cifar_lenet5", "subspace_cifar_lenet5"), 0.5, 2900, 1000),
    ],
)
def test_the_published_rule_on_the_authors_arrays(names, baseline, own, global_):
    found = estimate(rows_of(authors(*names)), study(projection="fastfood", baseline=baseline))
    assert [one.kind for one in found] == ["own", "global"]
    assert [one.published for one in found] == [own, global_]
    assert found[1].threshold.value == pytest.approx(0.9 * baseline)
    for one in found:  # between two d's of a fine grid, unless neighbours had to be pooled
        assert one.interpolated == pytest.approx(one.published, rel=0.1)
        if one.low is not None:
            assert one.low <= one.interpolated <= one.high


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_pooling_gives_the_closest_curve_that_never_falls(pairs):
    values, weights = map(np.array, zip(*pairs, strict=True))
    found = np.array(monotone(values.tolist(), weights.tolist()))
    assert len(found) == len(values) and (np.diff(found) >= -1e-12).all()
    assert (found * weights).sum() == pytest.approx((values * weights).sum(), abs=1e-9)
    # conditions of the least-squares solution (sums from the left are never above those of values)
    lag = np.cumsum(weights * (values - found))
    assert (lag >= -1e-9).all() and (lag * np.diff(found, append=found[-1])) == pytest.approx(0)
    assert monotone(sorted(values.tolist()), weights.tolist()) == pytest.approx(sorted(values))


@given(st.floats(0.05, 0.95))
def test_the_crossing_is_linear_in_log_d(share):
    assert crossing([10, 1000], [0.0, 1.0], share) == pytest.approx(10 * 100**share)
    assert crossing([10, 1000], [share, 1.0], 0.04) == 0.0
    assert crossing([10, 1000], [0.0, share], 0.96) == math.inf


@settings(max_examples=20)
@given(st.floats(110, 900), st.sampled_from(["own", "global"]))
def test_a_curve_that_is_known_is_told_exactly(d90, kind):
    curve = lambda p: 1.0 if p.dim is None else 0.9 + 0.04 * math.log(p.dim / d90)
    rows = searched(curve, study())
    found = {one.kind: one for one in estimate(rows, study(baseline=1.0))}[kind]
    assert found.interpolated == pytest.approx(d90, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((d90, d90), rel=1e-6)
    assert found.published == min(row.dim for row in rows if row.dim and row.dim > d90)
    assert found.reasons == ()


def test_the_interval_holds_what_is_true_most_of_the_time():
    fields = study(grid=(100, 200, 400, 800, 1600), repeats=8, direct_repeats=8, resolution=2000)
    held = 0
    for seed in range(20):
        one = estimate(searched(rising(500), fields, noise=0.01, seed=seed), fields)[0]
        held += one.low <= 500 <= one.high
        assert one.low < one.interpolated < one.high
    assert held >= 16


def test_the_same_rows_have_the_same_interval_and_noise_in_direct_training_widens_ones_own():
    fields = study(baseline=1.0)
    values = [(d, 0.9 + 0.05 * math.log(d / 500) + e) for d in (250, 1000) for e in (-0.002, 0.002)]
    rows = rows_of([(0, 0.97), (0, 1.03), *values])
    fields["projection"] = "fastfood"
    own, other = estimate(rows, fields)
    assert estimate(rows, fields) == [own, other]
    assert own.high / own.low > 1.5 * other.high / other.low > 1


def test_what_cannot_be_told_is_said_with_the_reason():
    direct, fields = [(0, 1.0)], study(projection="fastfood")

    def told(*pairs):
        return estimate(rows_of([*direct, *pairs]), fields)[0]

    low = told((10, 0.5), (20, 0.6))
    assert (low.published, low.interpolated, low.low) == (None, None, None)
    assert low.reasons == ("no d up to 20 passes: there is no crossing to interpolate",)
    high = told((10, 0.95), (20, 0.96))
    assert high.published == 10 and "every d from 10 on passes" in high.reasons[0]
    one = told((10, 0.85), (1000, 0.95))
    assert one.interpolated == pytest.approx(100) and one.low is None
    assert one.reasons == ("one repeat a d: there is nothing to draw an interval from",)
    some = told((10, 0.85), (1000, 0.95), (1000, 0.96))
    assert some.low < some.high and some.reasons == (
        "one repeat at d = 10, which is taken as exact",
    )
    failed = told((10, math.nan), (20, math.nan))
    assert failed.interpolated is failed.published is None
    assert failed.reasons == ("d = 10, 20 left out of the curve, since a repeat failed",)


def test_an_interval_that_leaves_what_was_measured_is_open():
    rows = rows_of([(0, 1.0), (10, 0.85), (10, 0.86), (90, 0.88), (90, 0.93)])
    one = estimate(rows, study(projection="fastfood"))[0]
    assert 10 < one.low < one.interpolated < 90 and one.high == math.inf


def test_projections_stand_side_by_side_and_a_failed_level_is_left_out():
    fields = study(also=(("fastfood", (300, 750)),), grid=(100, 300, 1000))
    bad = lambda p: p.dim == 300 and p.projection == "sparse" and p.repeat == 2
    rows = searched(lambda p: math.nan if bad(p) else rising(280)(p), fields)
    sparse, fast = estimate(rows, fields)
    assert (sparse.projection, fast.projection) == ("sparse", "fastfood")
    assert sparse.published > 300
    assert sparse.reasons == ("d = 300 left out of the curve, since a repeat failed",)
    assert fast.published == 300 and fast.interpolated is None
