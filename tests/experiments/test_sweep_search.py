"""The search for a rate: it finds the best one, asks the same again, and survives failures."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments._sweep import search as searching
from experiments._sweep.search import rounded, search
from experiments._sweep.units import Unit
from lorax.core.errors import LoraxError

LOW, HIGH = 1e-4, 1e-1


def unit(**point):
    """One of a sweep."""
    return Unit(",".join(f"{k}={v:g}" for k, v in point.items()), point, {}, None)


def at(point, rate):
    """The point with a rate."""
    return unit(**point.point, lr=rate)


class Sweep:
    """Units whose loss is least at a rate that the rank decides; large rates become NaN."""

    def __init__(self, nan=1.0, stop_after=None, sign=1.0):
        self.values, self.rounds, self.nan = {}, [], nan
        self.stop_after, self.sign = stop_after, sign

    def run(self, units):
        """Remembers what each comes to."""
        if len(self.rounds) == self.stop_after:
            raise KeyboardInterrupt
        self.rounds.append([unit.name for unit in units])
        for unit in units:
            rate, rank = unit.point["lr"], unit.point["rank"]
            loss = math.log10(rate / best(rank)) ** 2 + 0.01 * unit.point.get("seed", 0)
            self.values[unit.name] = math.nan if rate > self.nan else self.sign * loss

    def search(self, points, trials=16, **named):
        """The search of these points."""
        named = {"low": LOW, "high": HIGH} | named
        value = lambda unit: self.values.get(unit.name)
        return search(points, at, self.run, value, trials=trials, **named)


def best(rank):
    """The rate at which the loss of a rank is least."""
    return {1: 5e-4, 8: 2e-2}[rank]


@pytest.fixture(autouse=True)
def installed():
    pytest.importorskip("optuna")


@pytest.mark.parametrize("mode, sign", [("min", 1.0), ("max", -1.0)])
def test_every_rank_finds_a_rate_of_its_own(mode, sign):
    sweep = Sweep(nan=5e-2, sign=sign)
    units = sweep.search([unit(rank=1), unit(rank=8)], mode=mode)
    for rank in (1, 8):
        tried = [u for u in units if u.point["rank"] == rank]
        values = {u.point["lr"]: sweep.values[u.name] for u in tried}
        found = min((sign * v, rate) for rate, v in values.items() if not math.isnan(v))[1]
        assert abs(math.log10(found / best(rank))) < 0.15
        asked = [u.point["lr"] for u in tried]
        assert all(LOW <= rate <= HIGH for rate in asked) and len(asked) <= 16
        near = [abs(math.log10(rate / best(rank))) for rate in asked]
        assert sum(near[8:]) / len(near[8:]) < sum(near[:4]) / 4  # it has learnt where to look


def test_rounds_hold_all_points_and_seeds_share_their_rates():
    sweep = Sweep()
    points = [unit(rank=rank, seed=seed) for rank in (1, 8) for seed in (0, 1, 2)]
    units = sweep.search(points, trials=10, width=4)
    assert len(sweep.rounds) == 3 and len(sweep.rounds[0]) == 4 * 6
    assert [u.name for u in units] == [name for names in sweep.rounds for name in names]
    rates = {(u.point["rank"], u.point["seed"]): [] for u in units}
    for u in units:
        rates[u.point["rank"], u.point["seed"]].append(u.point["lr"])
    for rank in (1, 8):
        assert rates[rank, 0] == rates[rank, 1] == rates[rank, 2] and len(rates[rank, 0]) <= 10
    first = rates[1, 0][:4]
    assert first == rates[8, 0][:4] == [rounded(1e-4 * 1e3 ** (k / 8)) for k in (1, 3, 5, 7)]


def test_it_goes_on_where_it_was_interrupted_and_further_when_asked():
    points = [unit(rank=1), unit(rank=8)]
    whole = [u.name for u in Sweep().search(points)]
    broken = Sweep(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        broken.search(points)
    begun = [name for names in broken.rounds for name in names]
    assert [u.name for u in Sweep().search(points)] == whole and whole[: len(begun)] == begun
    assert [u.name for u in Sweep().search(points, trials=20)][: len(whole)] == whole
    assert [u.name for u in Sweep().search(points, seed=1)] != whole


def test_all_units_may_fail():
    units = Sweep(nan=0.0).search([unit(rank=1)], trials=9)
    assert 4 < len({u.name for u in units}) <= 9


def test_a_search_that_is_none(monkeypatch):
    with pytest.raises(LoraxError, match="from 0.1 to 0.001: expected two positive numbers"):
        Sweep().search([unit(rank=1)], low=0.1, high=0.001)
    with pytest.raises(LoraxError, match="trials is 0: expected 1 or more"):
        Sweep().search([unit(rank=1)], trials=0)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[search\]'"):
        searching.check(LOW, HIGH, 1)


@given(st.floats(1e-9, 1e3))
def test_rates_have_three_digits(rate):
    assert rounded(rounded(rate)) == rounded(rate) == pytest.approx(rate, rel=5.1e-3)
    assert len(f"{rounded(rate):g}") <= 8
