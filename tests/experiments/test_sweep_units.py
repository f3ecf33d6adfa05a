"""Points of a page become units: names, fields, configs; what cannot be is one line."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs._page import defaults
from configs._sweeps import BestOf, axis, best_of, label, product
from experiments._cli import UsageError, parse
from experiments._page_file import load_config
from experiments._sweep.points import read_sweep, smaller
from experiments._sweep.units import axes_of, is_seed, make_units, reduction_of
from lorax.core.errors import LoraxError
from tests.experiments.sweeps import PAGE, page, units_of

QV = ".*/(query|value)/kernel"


def refused(points, overrides=None):
    with pytest.raises((LoraxError, UsageError)) as caught:
        make_units(defaults(), points, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_unit_is_the_page_with_a_point_put_into_it():
    config = defaults()
    point = {"adapter.rank": 4, "lr": 1, "seed": 7, "adapter.where": label("q,v", (QV,))}
    (unit,) = make_units(config, [point])
    assert unit.name == "rank=4,lr=1,seed=7,where=q,v"
    assert unit.point == {"rank": 4, "lr": 1.0, "seed": 7, "where": "q,v"}
    assert unit.overrides == {
        "adapter.rank": 4, "optimizer.learning_rate": 1.0, "adapter.where": (QV,),
        "seed.init": 7, "seed.data": 7, "seed.dropout": 7,
    }  # fmt: skip
    seeds = dict.fromkeys(("init", "data", "dropout"), 7)
    assert unit.config.seed.to_dict() == config.seed.to_dict() | seeds
    assert unit.config.adapter.where == (QV,)
    assert isinstance(unit.overrides["optimizer.learning_rate"], float)
    assert config.to_dict() == defaults().to_dict()


def test_a_point_may_set_the_whole_adapter():
    chain = {"adapter": "Chain", "members": ({"adapter": "LoRA", "rank": 2}, {"adapter": "Full"})}
    methods = [label("Full", {"adapter": "Full"}), label("both", chain)]
    units = make_units(defaults(), axis("adapter", methods))
    assert [unit.name for unit in units] == ["adapter=Full", "adapter=both"]
    assert [unit.config.adapter.to_dict() for unit in units] == [{"adapter": "Full"}, chain]
    assert units[0].overrides == {"adapter": {"adapter": "Full"}}
    assert json.dumps(dict(units[1].overrides))
    assert "--config.adapter.rank=4 has no effect" in refused(
        axis("adapter", methods), {"adapter.rank": 4}
    )
    assert "no field but has some" in refused([{"model": {"family": "gpt2"}}])


@given(st.lists(st.floats(1e-8, 1e3), min_size=2, max_size=4, unique=True))
def test_units_of_different_rates_have_different_names(rates):
    units = make_units(defaults(), axis("lr", rates))
    assert len({unit.name for unit in units}) == len(rates)
    assert [float(unit.name.partition("=")[2]) for unit in units] == rates


def test_short_names_are_those_that_no_other_axis_has():
    fields = {"adapter.dropout": 0.1, "model.dropout": 0.1, "data.length": 8, "seed.dropout": 5}
    (unit,) = make_units(defaults(), [fields])
    assert list(unit.point) == ["adapter.dropout", "model.dropout", "length", "seed.dropout"]
    assert [name for name in unit.point if is_seed(name)] == ["seed.dropout"]


def test_values_of_numpy_and_lists_are_those_of_the_field():
    point = {"rank": np.int64(3), "lr": np.float32(0.5), "adapter.exclude": ["a", "b"]}
    (unit,) = make_units(defaults(), [point])
    assert unit.name == "rank=3,lr=0.5,exclude=a+b"
    assert unit.overrides["adapter.exclude"] == ("a", "b")
    assert json.dumps(dict(unit.overrides))


@pytest.mark.parametrize(
    "points, words",
    [
        ([], ["empty"]),
        ([{"adapter.rnk": 1}], ["'adapter.rnk'", "no 'rnk'", "did you mean 'adapter.rank'?"]),
        ([{"scaling": "rslora"}], ["'scaling'", "did you mean 'adapter.scaling'?"]),
        ([{"adapter": 1}], ["no field but has some", "adapter.adapter"]),
        ([{"adapter.rank.deep": 1}], ["no 'deep'"]),
        ([{"rank": "four"}], ["adapter.rank to 'four'", "an integer such as 8"]),
        ([{"rank": 2.5}], ["an integer"]),
        ([{"rank": True}], ["an integer"]),
        ([{"tensorboard": 1}], ["a boolean"]),
        ([{"rank": 1}, {"rank": 2}, {"adapter.rank": 1}], ["duplicate units: 'rank=1' twice"]),
        ([{"rank": 8}, {"alpha": 16}], ["'rank=8' and 'alpha=16' are the same run"]),
        ([{"rank": 1, "adapter.rank": 2}], ["sets rank twice"]),
        ([{"seed": 1, "seed.init": 2}], ["sets seed.init twice"]),
        ([{"adapter.where": (QV,)}], ["no name for a folder", "label("]),
        ([{"model.source": "a/b"}], ["no name for a folder"]),
        ([{"data.train": "x" * 201}], ["bytes", "label("]),
        (
            [{"adapter.where": label("a", ("a",))}, {"adapter.where": label("a", ("b",))}],
            ["one name", "'where=a' twice"],
        ),
    ],
)
def test_what_makes_no_units(points, words):
    message = refused(points)
    assert all(word in message for word in words), message


def test_a_rank_of_an_adapter_without_one():
    config = load_config("configs/mnist_mlp.py:full")
    with pytest.raises(LoraxError, match="the page's adapter is Full, which has none$"):
        make_units(config, axis("rank", (1, 2)))


def test_an_override_that_no_unit_keeps_is_told():
    points = axis("rank", (1, 2))
    assert "--config.adapter.rank=4 has no effect" in refused(points, {"adapter.rank": 4})
    assert len(make_units(defaults(), points, {"adapter.rank": 2, "train.batch": 8})) == 2


def test_a_product_has_every_point_and_each_field_once():
    points = list(product(axis("rank", (1, 2)), axis("lr", (0.1, 0.2, 0.3)), [{"seed": 0}]))
    assert len(points) == 6 and points[1] == {"rank": 1, "lr": 0.2, "seed": 0}
    with pytest.raises(LoraxError, match="set 'rank'"):
        list(product(axis("rank", (1,)), axis("rank", (2,))))
    with pytest.raises(LoraxError, match="'rank'.* no values"):
        axis("rank", ())


def test_sweeps_of_a_page_and_built_in_ones(tmp_path):
    name = page(tmp_path)
    assert len(units_of(name)) == 12
    assert axes_of(units_of(f"{name}:large"))["rank"] == [1, 4]
    assert [unit.name for unit in units_of(name, "where")] == ["where=first", "where=all-linear"]
    both = units_of(name, "where, lr", "--config.optimizer.learning_rate=0.2")
    assert axes_of(both) == {"where": ["first", "all-linear"], "lr": [0.05, 0.1, 0.2, 0.4, 0.8]}
    assert len(units_of(name, "rank,alpha,initializer")) == 5 * 5 * 2
    assert len(units_of(name, "seed,scaling")) == 3 * 2


@pytest.mark.parametrize(
    "text, chosen, words",
    [
        ("", "rnk", ["there is no sweep 'rnk'", "did you mean 'rank'?", "where"]),
        ("del sweep", "", ["has no sweep()", "--sweep=rank,lr"]),
        ("def sweep(): return []", "", ["is empty"]),
        ("def sweep(): pass", "", ["sweep() of '", "yields no points: expected yield {"]),
        ("", "rank,seed,rank", ["--sweep=rank,seed,rank names 'rank' twice"]),
        ("def sweep(): yield 3", "", ["sweep() yields 3"]),
        ("def sweep(): yield {}", "", ["sweep() yields {}"]),
        ("def sweep():\n    yield {1: 2}[0]", "", ["page.py:17 fails: KeyError"]),
        ("reduction = 'lr'", "", ["reduction is 'lr'", "best_of('lr')"]),
    ],
)
def test_pages_whose_sweep_is_none(tmp_path, text, chosen, words):
    name = page(tmp_path, PAGE + text)
    config = parse([f"--config={name}", "--workdir=x"], name).config
    with pytest.raises((LoraxError, UsageError)) as caught:
        read_sweep(name, config, chosen)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_smoke_keeps_two_values_of_an_axis_and_four_units():
    points = list(product(*(axis(f, (0, 1, 2)) for f in ("where", "rank", "lr", "seed"))))
    kept = smaller(points)
    assert [(p["where"], p["rank"], p["lr"]) for p in kept] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)
    ]  # fmt: skip
    assert {p["seed"] for p in kept} == {0}
    assert smaller(axis("seed", range(9))) == axis("seed", (0, 1))


def test_what_is_chosen():
    grid = list(product(axis("rank", (1, 2)), axis("lr", (0.1, 0.2)), axis("seed", (0, 1))))
    units, single = make_units(defaults(), grid), make_units(defaults(), axis("rank", (1, 2)))
    assert reduction_of(units, None, None) == BestOf(("lr",))
    assert reduction_of(single, best_of("lr"), None) is None
    assert reduction_of(units, best_of("lr", "rank", by="validation/x"), None) == BestOf(
        ("lr", "rank"), "validation/x"
    )
    assert reduction_of(units, best_of("lr"), "") is None
    assert reduction_of(units, None, "optimizer.learning_rate") == BestOf(("lr",))
    assert reduction_of(units, None, "adapter.rank,lr") == BestOf(("rank", "lr"))
    for asked, word in (("alpha", "'alpha' is no axis"), ("seed", "'seed' is no axis")):
        with pytest.raises(UsageError, match=word):
            reduction_of(units, None, asked)
