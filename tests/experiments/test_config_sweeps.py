"""Pages of sweeps: which units they come to, that every unit can be run, and equal budgets."""

import math

import jax
import jax.numpy as jnp
import pytest

import lorax
from configs import rank_sweep, scaling_rules, stories260k_ranks, weight_types
from configs._page import check
from configs._sweeps import BestOf
from experiments._page_file import load_config
from experiments._sweep.points import read_sweep
from experiments._sweep.units import axes_of, make_units
from experiments._train.method import make_adapter, make_optimizer
from experiments._train.model import make_subject

COUNTS = {
    ("rank_sweep", ""): 3 * 5 * 5 * 3,
    ("rank_sweep", "e2e"): 2 * 11 * 5 * 3,
    ("rank_sweep", "rte,bitfit"): 5 * 3,
    ("weight_types", "rte"): 7 * 5 * 3,
    ("weight_types", "full"): 5 * 3,
    ("scaling_rules", ""): 2 * 4 * 7,
    ("scaling_rules", "full"): 5,
    ("loraplus", ""): 6 * 7 * 3,
    ("loraplus", "sst2"): 6 * 7 * 3,
    ("loraplus", "full"): 5 * 3,
    ("stories260k_ranks", ""): 180,
    ("stories260k_ranks", "full"): 5 * 3,
}
PAGES = sorted({page for page, _ in COUNTS})


def units(page, words="", sweep=""):
    """The units of a page, and its reduction."""
    name = f"configs/{page}.py:{words}"
    config = load_config(name)
    found = read_sweep(name, config, sweep)
    return make_units(config, found.points), found.reduction


@pytest.mark.parametrize("page, words", COUNTS)
def test_units_are_different_runs_that_can_be(page, words):
    found, reduction = units(page, words)
    assert len(found) == COUNTS[page, words]
    assert reduction == BestOf(("lr",))
    for unit in found:
        check(unit.config)
        make_adapter(unit.config)
        make_optimizer(unit.config.optimizer, 1000)


@pytest.mark.parametrize("page", PAGES)
def test_smoke_has_a_few_units_of_two_steps(page):
    found, _ = units(page, "smoke")
    assert 2 <= len(found) <= 4
    assert all(unit.config.train.steps == 2 for unit in found)
    assert len(axes_of(found)) >= 2


def test_the_real_run():
    found, _ = units("stories260k_ranks")
    axes = axes_of(found)
    assert axes["rank"] == [1, 2, 4, 8, 16, 64]
    assert axes["where"] == ["q,v", "all-linear"] and axes["seed"] == [0, 1, 2]
    assert len(axes["lr"]) == 5
    steps = [b / a for a, b in zip(axes["lr"], axes["lr"][1:], strict=False)]
    assert steps == pytest.approx([2.0] * 4)
    assert {unit.config.train.batch * unit.config.data.length for unit in found} == {2 * 128}
    assert all(unit.config.seed.init == unit.config.seed.data for unit in found)


def test_named_sweeps_of_the_paper():
    found, _ = units("rank_sweep", "rte", "where,rank")
    points = [(unit.point["where"], unit.point["rank"]) for unit in found]
    targets, ranks = ("q", "q,v", "q,k,v,o"), (1, 2, 4, 8, 64)
    assert points == [(target, rank) for target in targets for rank in ranks]


def learnt(unit):
    """Numbers that the adapter of a unit trains, without a head; nothing is computed."""
    config = unit.config
    config.model.source = ""
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    subject, adapter = make_subject(config, None, tokens, 3), make_adapter(config)
    apply = lorax.adapt(subject.model.apply, adapter)
    delta = jax.eval_shape(lambda base: apply.init(jax.random.key(0), base, tokens), subject.base)
    return sum(leaf.size for leaf in jax.tree.leaves(delta[0]))


def test_every_way_of_table_5_spends_the_same():
    found, _ = units("weight_types", "mnli")
    first = {unit.point["where"]: unit for unit in found}
    assert list(first) == list(weight_types.BUDGET)
    assert {learnt(unit) for unit in first.values()} == {147_456}


def test_table_18_has_every_power_of_two():
    found, _ = units("rank_sweep", "e2e")
    assert axes_of(found)["rank"] == [2**n for n in range(11)]
    assert axes_of(found)["where"] == ["qkv", "qkv,o"]


def test_the_highest_rank_is_the_width():
    assert max(scaling_rules.RANKS) == scaling_rules.get_config().model.fields.dim == 256


@pytest.mark.parametrize("page", [rank_sweep, weight_types, stories260k_ranks])
def test_rates_double(page):
    rates = sorted({point.get("lr") for point in page.sweep("full")})
    assert all(math.isclose(b, 2 * a, rel_tol=1e-3) for a, b in zip(rates, rates[1:], strict=False))
