"""Which units share a compiled program: those that differ in numbers, rank, seeds and order."""

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs._page import defaults
from configs._sweeps import axis, label, product
from experiments._sweep.program import FREE, TRACED, base_of, differing, program_of, programs
from experiments._sweep.units import make_units

VALUES = {
    "adapter.rank": (1, 3, 8),
    "adapter.alpha": (1.0, 16.0),
    "adapter.scaling": ("standard", "rslora"),
    "adapter.initializer": ("kaiming", "gaussian"),
    "adapter.init_scale": (1.0, 0.5),
    "adapter.dropout": (0.0, 0.1),
    "optimizer.learning_rate": (1e-4, 1e-2),
    "optimizer.weight_decay": (0.0, 0.1),
    "optimizer.b1": (0.9, 0.8),
    "optimizer.b2": (0.999, 0.95),
    "optimizer.eps": (1e-8, 1e-6),
    "optimizer.loraplus": (1.0, 16.0),
    "seed.init": (0, 1),
    "seed.data": (0, 1),
    "seed.dropout": (0, 1),
    "seed.sample": (0, 1),
}
"""Fields that units of a program may differ in."""

APART = {
    "adapter.where": [("all-linear",), (".*/query/kernel",)],
    "adapter.exclude": [(), (".*/key/kernel",)],
    "also_train": [(), ("head/.*",)],
    "adapter_from": ["", "runs/other/adapter"],
    "data.length": (128, 256),
    "data.limit": (0, 100),
    "data.packing": ("none", "pack"),
    "train.batch": (8, 16),
    "train.accumulate": (1, 2),
    "train.steps": (10, 20),
    "optimizer.schedule": ("constant", "cosine"),
    "optimizer.warmup": (0, 10),
    "optimizer.clip": (0.0, 1.0),
    "model.preset": ("BYTE_1M", "other"),
    "eval.every": (0, 5),
    "checkpoint.every": (5, 10),
    "seed.base": (0, 1),
}
"""Fields of which every value is a program of its own."""


def units(*axes, **fields):
    config = defaults()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return make_units(config, list(product(*axes)))


def names(groups):
    return [[unit.name for unit in group] for group in groups]


def test_the_fields_that_are_free_are_these():
    assert set(FREE) == set(VALUES)
    assert {f"optimizer.{name}" for name in TRACED} <= set(FREE)


@pytest.mark.parametrize("field", VALUES)
def test_units_that_differ_in_a_number_are_one_program(field):
    made = units(axis(field, VALUES[field]))
    assert names(programs(made)) == [[unit.name for unit in made]]


def test_all_of_these_at_once_are_one_program():
    point = lambda i: {field: values[i % len(values)] for field, values in VALUES.items()}
    made = make_units(defaults(), [point(0), point(1)])
    assert len(programs(made)) == 1
    assert differing(made) == TRACED
    assert differing(made[:1]) == ()


@pytest.mark.parametrize("field", APART)
def test_everything_else_is_another_program(field):
    values = [label(f"value{i}", value) for i, value in enumerate(APART[field])]
    made = units(axis(field, values), axis("rank", (1, 2)))
    assert [len(group) for group in programs(made)] == [2, 2]


@given(st.permutations(range(8)))
def test_programs_have_all_units_in_the_order_of_their_first(order):
    whole = eight()
    made = [whole[i] for i in order]
    groups = programs(made)
    firsts = [made.index(group[0]) for group in groups]
    assert firsts == sorted(firsts)
    assert sorted(itertools.chain(*names(groups))) == sorted(unit.name for unit in made)
    for group in groups:
        assert len({program_of(unit.config) for unit in group}) == 1
        assert [made.index(unit) for unit in group] == sorted(made.index(unit) for unit in group)


@functools.cache
def eight():
    return units(axis("train.batch", (8, 16)), axis("rank", (1, 2)), axis("lr", (1e-3, 1e-2)))


def test_units_of_another_adapter_share_a_program_if_they_have_the_same_one():
    methods = [label(f"r{r}", {"adapter": "Other", "rank": r, "alpha": 1.0}) for r in (2, 4)]
    made = units(axis("adapter", methods), axis("lr", (1e-3, 1e-2)), axis("seed", (0, 1)))
    assert [len(group) for group in programs(made)] == [4, 4]


def test_decompositions_have_something_beside_the_factors():
    made = units(axis("adapter.initializer", ("kaiming", "pissa", "olora", "gaussian")))
    assert names(programs(made)) == [
        ["initializer=kaiming", "initializer=gaussian"], ["initializer=pissa", "initializer=olora"],
    ]  # fmt: skip


def test_without_eps_a_padded_zero_would_be_no_number():
    made = units(axis("optimizer.eps", (0.0, 1e-8)), axis("rank", (1, 2)), axis("seed", (0, 1)))
    assert [len(group) for group in programs(made)] == [2, 2, 4]


def test_buckets_are_drawn_by_the_seed_of_the_data():
    seeds = axis("seed.data", (0, 1)), axis("seed.init", (0, 1))
    assert len(programs(units(*seeds, data__packing="bucket"))) == 2
    for packing in ("none", "pack"):
        assert len(programs(units(*seeds, data__packing=packing))) == 1


def test_units_whose_page_trains_another_base_are_other_programs():
    fields = {"pretrain__steps": 5, "model__dropout": 0.1}
    for field in ("adapter.rank", "optimizer.learning_rate", "seed.data", "seed.dropout"):
        assert len(programs(units(axis(field, VALUES[field]), **fields))) == 1
    for field in ("optimizer.b1", "optimizer.eps"):
        axes = axis(field, VALUES[field]), axis("rank", (1, 2))
        assert [len(group) for group in programs(units(*axes, **fields))] == [2, 2]
        loaded = units(*axes, **fields, model__source="weights")  # trains none
        assert [len(group) for group in programs(loaded)] == [4]


def test_the_base_of_a_config_is_named_by_what_makes_it():
    config = defaults()
    assert base_of(config) == ""
    config.pretrain.steps = 5
    name = base_of(config)
    assert name and base_of(units(axis("rank", (3,)), pretrain__steps=5)[0].config) == name
    config.seed.update({"init": 7, "data": 7, "dropout": 7})  # those of what is trained on it
    assert base_of(config) == name
    config.seed.base = 7
    assert base_of(config) not in ("", name)


def test_an_adapter_without_a_rank_is_a_program_too():
    config = defaults()
    config.adapter = {"adapter": "BitFit", "where": (".*bias",), "exclude": ()}
    made = make_units(config, axis("lr", (1e-3, 1e-2)))
    assert len(programs(made)) == 1 and differing(made) == ("learning_rate",)
    assert program_of(made[0].config) != program_of(defaults())
