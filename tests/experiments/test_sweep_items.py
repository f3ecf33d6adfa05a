"""Differences item by item: what the bootstrap holds, and what of units is written down."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs._sweeps import best_of
from experiments._sweep.items import Items, difference, read_items, write_items
from experiments._sweep.reduce import reduce
from tests.experiments.method_rows import rows


def groups(seeds=(0, 1, 2)):
    """{name: group} of made-up methods."""
    return {g.point["adapter"]: g for g in reduce(rows(seeds=seeds), best_of("lr")).groups}


def items(values, counts, number="loss"):
    """{unit: {"test": ...}} of {(method, seed): sums}."""
    return {
        f"adapter={name},lr=0.01,seed={seed}": {"test": Items(number, np.array(v, float), counts)}
        for (name, seed), v in values.items()
    }


def compared(values, counts, number="loss", seeds=(0, 1, 2)):
    found = groups(seeds)
    return difference(found["IA3"], found["LoRA"], items(values, counts, number), "test")


COUNTS = np.array([2.0, 4.0, 2.0])


def test_the_mean_is_over_items_by_their_counts_and_over_seeds():
    values = {("LoRA", 0): [2, 2, 2], ("LoRA", 1): [1, 1, 1], ("IA3", 0): [4, 2, 2],
              ("IA3", 1): [1, 7, 1]}  # fmt: skip
    found = compared(values, COUNTS)
    assert found.mean == pytest.approx((2 / 8 + 6 / 8) / 2)
    assert (found.seeds, found.items, found.name) == (2, 3, "test/loss")
    assert found.low <= found.mean <= found.high


def test_what_is_the_same_for_every_item_has_no_width():
    values = {(name, s): COUNTS * (3 + (name == "IA3")) for name in ("LoRA", "IA3")
              for s in (0, 1, 2)}  # fmt: skip
    found = compared(values, COUNTS)
    assert found.low == pytest.approx(1) and found.high == pytest.approx(1) and found.clear


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_the_interval_is_as_wide_as_that_of_a_normal_mean(seed):
    rng = np.random.default_rng(seed)
    ones = np.ones(200)
    values = {("LoRA", 0): rng.normal(size=200)}
    values["IA3", 0] = values["LoRA", 0] + rng.normal(size=200)
    found = compared(values, ones)
    error = np.std(values["IA3", 0] - values["LoRA", 0]) / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_seeds_are_drawn_too():
    values = {("LoRA", s): COUNTS * 0 for s in (0, 1, 2)}
    values |= {("IA3", s): COUNTS * (s - 1) for s in (0, 1, 2)}
    found = compared(values, COUNTS)
    assert found.mean == 0 and found.low < -0.5 and found.high > 0.5 and not found.clear


def test_other_items_other_numbers_and_no_common_seed_are_not_compared():
    one = {("LoRA", 0): [1, 1, 1], ("IA3", 0): [2, 2, 2]}
    assert compared(one, COUNTS) is not None
    assert compared({("LoRA", 0): [1, 1, 1], ("IA3", 1): [2, 2, 2]}, COUNTS) is None
    assert compared({**one, ("IA3", 0): [2, np.nan, 2]}, COUNTS) is None
    other = items(one, COUNTS)
    other["adapter=IA3,lr=0.01,seed=0"] = {"test": Items("loss", np.ones(3), COUNTS + 1)}
    assert difference(groups()["IA3"], groups()["LoRA"], other, "test") is None
    assert difference(groups()["IA3"], groups()["LoRA"], {}, "test") is None


def test_the_best_units_alone_are_written_and_read_again(tmp_path):
    for row in rows():
        place = tmp_path / "units" / row["unit"]
        place.mkdir(parents=True)
        record = {"run": "train", "kind": "items", "of": "test/items", "number": "loss"}
        record |= {"sums": [1.5, 2.0], "counts": [3.0, 4.0]}
        (place / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    write_items(tmp_path, reduce(rows(), best_of("lr")))
    text = (tmp_path / "items.jsonl").read_text()
    assert text.count("\n") == 12 and '"sums":[1.5,2],"counts":[3,4]' in text
    found = read_items(tmp_path)
    assert all(",lr=0.01," in unit for unit in found)
    assert found["adapter=IA3,lr=0.01,seed=1"]["test"].sums.tolist() == [1.5, 2.0]


def test_units_without_items_leave_no_file(tmp_path):
    write_items(tmp_path, reduce(rows(), best_of("lr")))
    assert not (tmp_path / "items.jsonl").exists() and read_items(tmp_path) == {}
