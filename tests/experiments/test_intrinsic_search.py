"""A search for d90: which units it asks for, where it ends, and what it says when there is none."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from experiments._intrinsic import rows as files
from experiments._intrinsic.search import FOUND, OPEN, UNREACHED, Point, next_points, verdict
from experiments._intrinsic.threshold import target, thresholds
from lorax.core.errors import LoraxError
from tests.experiments.intrinsic_rows import METRIC, rising, row, searched, study


def dims(rows, projection="sparse"):
    return sorted({one.dim for one in rows if one.projection == projection})


def found(rows, fields, total=100_000):
    said = verdict(rows, fields, total)
    return said.state, said.dim, said.below


def test_direct_training_and_the_grid_come_first_with_all_that_stands_beside():
    fields = study(also=(("fastfood", (300, 750)),), ranks=(1, 4), repeats=2, rates=(0.1, 0.2))
    names = [point.name for point in next_points([], fields, 100_000)]
    assert names[:3] == [f"direct,lr=0.001,repeat={i}" for i in range(3)]
    assert names[3:5] == ["sparse,d=100,lr=0.1,repeat=0", "sparse,d=100,lr=0.1,repeat=1"]
    assert names[-1] == "lora,r=4,lr=0.001,repeat=1"
    assert "fastfood,d=750,lr=0.2,repeat=0" in names
    assert len(names) == len(set(names)) == 3 + 5 * 2 * 2 + 2 * 2 + 2 * 2
    assert next_points([], ConfigDict(fields), 100_000) == next_points([], fields, 100_000)


@settings(max_examples=60)
@given(
    crossing=st.floats(1.5, 5000), resolution=st.integers(1, 100),
    grid=st.lists(st.integers(1, 3000), min_size=1, max_size=6, unique=True).map(sorted),
)  # fmt: skip
def test_without_noise_the_crossing_is_found_to_the_resolution(crossing, resolution, grid):
    fields = study(grid=tuple(grid), resolution=resolution, repeats=1, most_repeats=1)
    rows = searched(rising(crossing), fields)
    state, d, below = found(rows, fields)
    assert state == FOUND and below <= crossing < d
    assert d - below <= max(resolution, 1)
    # the published rule, over all that was measured
    assert d == min(x for x in dims(rows) if x > crossing)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_answered_by_repeats_near_the_threshold_alone(seed):
    fields = study(repeats=3, most_repeats=6)
    rows = searched(rising(640), fields, noise=0.002, seed=seed)
    state, d, below = found(rows, fields)
    assert state == FOUND and abs(d - 640) <= 50 and d - below <= 25
    count = {x: sum(one.dim == x for one in rows) for x in dims(rows)}
    assert {count[100], count[1000]} == {3} and max(count.values()) <= 6


def test_two_ends_within_one_standard_error_are_measured_again():
    fields = study(grid=(100, 120), resolution=25, most_repeats=4, direct_repeats=1)
    values = {100: (0.88, 0.90, 0.91), 120: (0.89, 0.90, 0.95)}
    rows = [row(p, values[p.dim][p.repeat] if p.dim else 1.0) for p in next_points([], fields, 999)]
    again = next_points(rows, fields, 999)
    assert [p.name for p in again] == [f"sparse,d={d},lr=0.001,repeat=3" for d in (100, 120)]
    assert verdict(rows, fields, 999).state == OPEN
    rows += [row(p, 0.8 if p.dim == 100 else 0.99) for p in again]
    assert next_points(rows, fields, 999) == []
    assert found(rows, fields, 999) == (FOUND, 120, 100)


def test_below_the_grid_d_is_halved_and_above_it_doubled():
    fields = study(grid=(64,), resolution=1)
    assert found(searched(rising(7.5), fields), fields) == (FOUND, 8, 7)
    assert dims(searched(rising(7.5), fields))[:3] == [4, 6, 7]
    assert found(searched(rising(0.5), fields), fields) == (FOUND, 1, None)
    rows = searched(rising(130), study(grid=(64,), resolution=300))
    assert dims(rows) == [64, 128, 256]


def test_a_threshold_that_no_d_reaches_up_to_all_numbers():
    fields = study(grid=(10,))
    curve = lambda point: 1.0 if point.dim is None else point.dim / 1000
    rows = searched(curve, fields, total=70)
    assert dims(rows) == [10, 20, 40, 70]
    said = verdict(rows, fields, 70)
    assert said.state == UNREACHED and said.dim is None
    assert said.line == (
        "the threshold 0.9 is never reached: the best value seen is 0.07, at d=70; "
        "direct training has 1"
    )


def test_a_threshold_that_the_baseline_never_reaches_is_not_sought_beyond_the_grid():
    fields = study(baseline=1.0, target="global")
    rows = searched(lambda point: 0.6 if point.dim is None else 0.61, fields)
    assert dims(rows) == [100, 300, 500, 750, 1000]
    said = verdict(rows, fields, 100_000)
    assert said.state == UNREACHED
    assert said.line == (
        "the threshold 0.9 is never reached: the best value seen is 0.61, at d=100; "
        "direct training has 0.6"
    )
    # but a subspace that generalises better than all numbers do is found
    assert found(*(searched(lambda p: 0.6 if p.dim is None else 0.95, fields), fields))[0] == FOUND


def test_a_failed_unit_does_not_pass_and_is_not_trained_again():
    fields = study(grid=(100, 200), resolution=100)
    curve = lambda p: math.nan if p.dim == 100 and p.repeat == 1 else 0.99
    rows = searched(curve, fields)
    assert found(rows, fields) == (FOUND, 200, 100)
    assert sum(one.dim == 100 for one in rows) == 3
    nothing = searched(lambda p: math.nan, fields)
    assert "no finite value" in verdict(nothing, fields, 100_000).line
    assert verdict(nothing, fields, 100_000).state == UNREACHED


def test_the_best_mean_rate_counts_and_one_that_failed_does_not():
    fields = study(grid=(100,), rates=(0.1, 0.2, 0.4), resolution=50)
    values = {0.1: 0.5, 0.2: 0.95, 0.4: 0.99}

    def curve(p):
        if p.dim is None:
            return 1.0
        bad = p.lr == 0.4 and p.repeat == 0
        return math.nan if bad else values[p.lr] if p.dim >= 100 else 0.2

    rows = searched(curve, fields)
    assert found(rows, fields) == (FOUND, 100, 50)


def test_thresholds():
    start = lambda **fields: study(grid=(100,), relative="gain", **fields)
    rows = [row(Point("direct", "", None, None, i, lr), v, start=0.5)
            for i, lr, v in ((0, 0.1, 0.8), (0, 0.2, 0.9), (1, 0.2, 0.7))]  # fmt: skip
    assert thresholds(rows, study())["own"].value == pytest.approx(0.9 * 0.8)
    both = thresholds(rows, start(baseline=1.0))
    assert both["own"].value == pytest.approx(0.5 + 0.9 * 0.3)
    assert both["global"].value == pytest.approx(0.95)
    assert target(rows, start(baseline=1.0, target="global")) == both["global"]
    assert target([], study()) is None


def test_a_loss_falls():
    fields = study(mode="min", relative="gain", resolution=1)
    curve = lambda p: 2.0 if p.dim is None else 2 + 1 / (1 + (p.dim / 90) ** 2)
    rows = searched(curve, fields, start=3.0)  # threshold 2.1: d = 270
    assert found(rows, fields) == (FOUND, 271, 270)
    with pytest.raises(LoraxError, match="relative='gain'"):
        next_points([], study(mode="min"), 1000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": (100, 5000)}, "d=5000 of the study: expected 1 to D=1000"),
        ({"also": (("fastfood", (0,)),)}, "d=0 of the study: expected 1 to D=1000"),
        ({"target": "global"}, "study.baseline is 0"),
        ({"target": "both"}, "study.target is 'both'"),
        ({"relative": "sum"}, "study.relative is 'sum'"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(fields, message):
    with pytest.raises(LoraxError, match=message) as error:
        next_points([], study(**fields), 1000)
    assert "\n" not in str(error.value)


def test_rows_come_back_from_their_file(tmp_path):
    fields = study(ranks=(2,), grid=(10, 500))
    rows = searched(lambda p: math.nan if p.rank else rising(90)(p), fields)
    rows = [dataclasses.replace(rows[0], curve=[0.5, math.nan]), *rows[1:]]
    files.write(tmp_path / "rows.jsonl", rows)
    again = files.read(tmp_path / "rows.jsonl")
    assert again[1:] == rows[1:] and list(again[0].curve) == [0.5, None]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(LoraxError, match="no rows at"):
        files.read(tmp_path / "elsewhere.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("lr"), "without lr"),
        (lambda r: r.update(colour=1), "with unknown colour"),
        (lambda r: r.update(method="magic"), "method of a row is 'magic'"),
    ],
)
def test_a_row_of_another_version_is_refused(change, message):
    record = row(Point("subspace", "sparse", 5, None, 0, 0.1), 0.5).to_dict()
    change(record)
    with pytest.raises(LoraxError, match=message):
        files.Row.from_dict(record)


def test_what_counts_is_of_the_last_or_the_best_epoch():
    one = row(Point("subspace", "sparse", 5, None, 0, 0.1), 0.5)
    one = dataclasses.replace(one, best={"epoch": 1, METRIC: 0.7})
    assert files.value(one, study()) == 0.5
    assert files.value(one, study(when="best")) == 0.7
    assert files.value(one, study(), "test/accuracy") == pytest.approx(0.49)
    assert files.value(one, study(), "test/loss") is None


def test_a_search_ends_where_every_unit_of_the_largest_d_failed():
    fields = study(grid=(100, 300))
    rows = searched(lambda point: 0.98 if point.method == "direct" else math.nan, fields)
    assert {row.dim for row in rows if row.dim} == {100, 300}  # no d is doubled for a rate's sake
    ended = verdict(rows, fields, 100_000)
    assert ended.state == "unreached"
    assert "every unit of d=300 failed" in ended.line and "study.rates" in ended.line
