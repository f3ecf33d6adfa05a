"""Rows of a sweep are reduced: means over seeds, the best choice on validation, edges, moves."""

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs._sweeps import best_of
from experiments._sweep.reduce import compared, grid_step, reduce, stat
from experiments._sweep.rows import (
    FAILED,
    left,
    numbers,
    read_rows,
    row,
    state,
    write_rows,
)
from lorax.core.errors import LoraxError
from tests.experiments.sweeps import leave, page, units_of

BY = "validation/loss"


def rows_of(values, **more):
    """Rows of {(rank, lr, seed): validation loss}; None is a unit that failed."""
    return [
        {
            "unit": f"{rank},{lr},{seed}",
            "point": {"rank": rank, "lr": lr, "seed": seed},
            "state": "failed" if value is None else "done",
            **({} if value is None else {BY: value, "test/loss": 10 - value, **more}),
        }
        for (rank, lr, seed), value in values.items()
    ]


def best_rates(reduced):
    """{rank: its best rate}."""
    return {g.point["rank"]: g.best and g.best.chosen["lr"] for g in reduced.groups}


@given(st.lists(st.floats(-1e6, 1e6), max_size=5), st.lists(st.just(math.nan), max_size=2))
def test_mean_and_standard_error(values, bad):
    found = stat([*values, *bad, None])
    if not values:
        assert found is None
        return
    assert found.n == len(values) and found.mean == pytest.approx(statistics.fmean(values))
    if len(values) == 1:
        assert found.error is None
    else:
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        error = math.sqrt(variance / len(values))
        assert found.error == pytest.approx(error, rel=1e-6, abs=1e-6)


def test_a_known_standard_error():
    found = stat([1.0, 2.0, 4.0])
    assert (found.mean, found.n) == (pytest.approx(7 / 3), 3)
    assert found.error == pytest.approx(math.sqrt(7 / 9))


@given(
    st.dictionaries(
        st.tuples(st.sampled_from([1, 4]), st.sampled_from([0.1, 0.2, 0.4]), st.integers(0, 2)),
        st.none() | st.floats(0, 10), min_size=1,
    )
)  # fmt: skip
def test_the_best_is_the_best_of_those_with_most_seeds(values):
    reduced = reduce(rows_of(values), best_of("lr"))
    assert sum(len(t.rows) for g in reduced.groups for t in g.tried) == len(values)
    for group in reduced.groups:
        scores = [t.score for t in group.tried if t.score]
        if not scores:
            assert group.best is None and not group.numbers
            continue
        most = max(score.n for score in scores)
        assert group.best.score.n == most
        assert group.best.score.mean == min(s.mean for s in scores if s.n == most)
        test = group.numbers["test/loss"]
        assert test.mean == pytest.approx(10 - group.best.score.mean) and test.n == most


def test_the_choice_is_made_on_validation_and_means_are_of_the_chosen_rate():
    values = {(4, 0.1, 0): 1.0, (4, 0.1, 1): 3.0, (4, 0.2, 0): 1.5, (4, 0.2, 1): 1.7}
    (group,) = reduce(rows_of(values, trainable=128), best_of("lr")).groups
    assert group.best.chosen == {"lr": 0.2} and group.point == {"rank": 4}
    assert group.numbers[BY].mean == pytest.approx(1.6)
    assert group.numbers[BY].error == pytest.approx(0.1)
    assert group.numbers["test/loss"].mean == pytest.approx(8.4)
    assert group.numbers["trainable"].mean == 128
    assert group.edge == {"lr": "highest"}


def test_a_rate_of_which_a_seed_failed_is_not_the_best():
    values = {(4, 0.1, 0): 2.0, (4, 0.1, 1): 2.0, (4, 0.2, 0): 1.0, (4, 0.2, 1): None}
    (group,) = reduce(rows_of(values), best_of("lr")).groups
    assert group.best.chosen == {"lr": 0.1}
    assert [tried.failed for tried in group.tried] == [0, 1]


def test_edges_are_of_what_was_tried_failed_or_not():
    at = lambda low, middle, high: {
        (1, 0.1, 0): low, (1, 0.2, 0): middle, (1, 0.4, 0): high
    }  # fmt: skip
    edge = lambda *losses: reduce(rows_of(at(*losses)), best_of("lr")).groups[0].edge
    assert edge(1.0, 2.0, 3.0) == {"lr": "lowest"}
    assert edge(2.0, 1.0, 3.0) == {}
    assert edge(3.0, 2.0, 1.0) == {"lr": "highest"}
    assert edge(3.0, 2.0, None) == {}
    assert reduce(rows_of({(1, 0.1, 0): 1.0}), best_of("lr")).groups[0].edge == {}


@pytest.mark.parametrize(
    "low, high, edge",
    [(0.01, 1.0, {}), (0.097, 1.0, {"lr": "lowest"}), (0.01, 0.104, {"lr": "highest"})],
)
def test_the_edge_of_a_search_is_that_of_its_range(low, high, edge):
    found = rows_of({(1, 0.1, 0): 1.0, (1, 0.1003, 0): 2.0})
    assert reduce(found, best_of("lr"), search=(low, high, 2)).groups[0].edge == edge


def test_how_far_the_best_rate_moves():
    best = {1: 0.1, 2: 0.1, 4: 0.2, 8: 0.4, 64: 0.2}
    values = {
        (rank, lr, 0): abs(math.log(lr / rate))
        for rank, rate in best.items()
        for lr in (0.05, 0.1, 0.2, 0.4, 0.8)
    }
    reduced = reduce(rows_of(values), best_of("lr"))
    assert best_rates(reduced) == best
    (moves,) = reduced.moves
    assert moves.rates == best and moves.point == {} and not moves.bound
    assert (moves.factor, moves.factor_from_4) == (pytest.approx(4), pytest.approx(2))
    assert grid_step(reduced.groups[0], "lr") == pytest.approx(2)
    bound = reduce(rows_of({k: v for k, v in values.items() if k[1] < 0.8}), best_of("lr"))
    assert bound.moves[0].bound
    assert reduce(rows_of(values)).moves == ()


def test_without_a_choice_seeds_are_averaged_over():
    values = {(4, 0.1, 0): 1.0, (4, 0.1, 1): 3.0, (4, 0.2, 0): 5.0}
    reduced = reduce(rows_of(values))
    assert [g.point for g in reduced.groups] == [{"rank": 4, "lr": 0.1}, {"rank": 4, "lr": 0.2}]
    assert [g.numbers[BY].n for g in reduced.groups] == [2, 1]
    assert reduced.axes == () and not any(g.edge for g in reduced.groups)


def test_several_axes_may_be_chosen_together():
    rows = rows_of({(1, 0.1, 0): 3.0, (1, 0.2, 0): 2.0, (4, 0.1, 0): 1.0, (4, 0.2, 0): 4.0})
    (group,) = reduce(rows, best_of("rank", "lr")).groups
    assert group.best.chosen == {"rank": 4, "lr": 0.1} and group.point == {}


def test_what_is_compared():
    rows = [{"unit": "a", "point": {}, "state": "done", "test/loss": 1.0, "validation/f1": 0.5,
             "validation/loss": 1.0}]  # fmt: skip
    best = {"best": "validation/f1", "mode": "max"}
    assert compared(rows, "", {}) == ("validation/loss", False)
    assert compared(rows, "", best) == ("validation/f1", True)
    assert compared(rows, "validation/f1", {}) == ("validation/f1", True)
    assert compared(rows, "", {"best": "validation/f1", "mode": "min"}) == ("validation/f1", False)
    assert compared([], "", {}) == ("", False)
    with pytest.raises(LoraxError, match="is not tested by it"):
        compared(rows, "test/loss", {})
    with pytest.raises(LoraxError, match=r"'validation/x', which no unit has: .*validation/loss"):
        compared(rows, "validation/x", {})


def test_rows_hold_the_setting_and_every_number_of_the_result(tmp_path):
    unit, bad, other = units_of(page(tmp_path))[:3]
    leave(tmp_path, unit)
    leave(tmp_path, bad, failed=True)
    found = row(tmp_path, unit)
    setting = {
        "unit": "rank=1,lr=0.001,seed=0", "point": {"rank": 1, "lr": 0.001, "seed": 0},
        "state": "done", "adapter": "LoRA", "rank": 1, "alpha": 16.0, "scaling": "standard",
        "initializer": "kaiming", "init_scale": 1.0, "dropout": 0.0, "targets": "all-linear",
        "where": ("all-linear",), "learning_rate": 1e-3, "steps": 2, "trainable": 100,
    }  # fmt: skip
    result = {
        "validation/loss": 2.0, "test/loss": 2.5, "base/test/loss": 9.0, "test/nan": None,
        "seconds_per_step": 0.01,
    }  # fmt: skip
    assert found == setting | result
    assert set(numbers([found])) == {*result, "trainable"}
    failed = row(tmp_path, bad)
    assert (failed["state"], failed["steps"]) == (FAILED, 1)
    assert failed["failed"] == "the loss of step 1 is no number"
    assert failed["scaling"] == "standard" and failed["trainable"] is None
    assert [state(tmp_path, u.name) for u in (unit, bad, other)] == ["done", "failed", "new"]
    assert left(tmp_path, [unit, bad, other]) == [other]
    write_rows(tmp_path, [found, failed])
    assert read_rows(tmp_path / "rows.jsonl") == json.loads(json.dumps([found, failed]))


def test_rows_of_labelled_targets_have_their_label(tmp_path):
    first, every = units_of(page(tmp_path), "where")
    assert row(tmp_path, first)["targets"] == "first"
    assert row(tmp_path, first)["where"] == (".*dense_0/kernel",)
    assert row(tmp_path, every)["targets"] == "all-linear"


def test_no_rows_are_one_line(tmp_path):
    with pytest.raises(LoraxError, match="expected rows.jsonl in the --workdir"):
        read_rows(tmp_path / "rows.jsonl")
