"""Figures of a sweep: drawn from rows alone, whatever the axes are, with what failed."""

import math
import re

import pytest

from configs._sweeps import best_of
from experiments._sweep.reduce import reduce
from experiments.figures import ranks

pytest.importorskip("matplotlib")

MARK = re.compile(r'<use [^>]*(x="[^"]*" y="[^"]*") style="([^"]*)"')
PANEL = re.compile(r'<rect x="[^"]*" y="([^"]*)" width="[^"]*" height="([^"]*)"')
CONFIG = {"data": {"task": "language"}}


def row(loss, **point):
    """A row of one unit; NaN failed."""
    failed = math.isnan(loss)
    numbers = {} if failed else {"validation/loss": loss, "test/loss": loss + 0.1}
    return {"unit": str(point), "point": point, "state": "failed" if failed else "done", **numbers}


def grid(ranks=(1, 4, 16), targets=("q,v", "all"), seeds=(0, 1)):
    """Rows whose best rate is 0.01, and lower at rank 1."""
    return [
        row(3 - 0.1 * math.log2(r) + abs(math.log2(lr / (0.005 if r == 1 else 0.01))) + s / 100,
            where=where, rank=r, lr=lr, seed=s)
        for where in targets for r in ranks for lr in (0.005, 0.01, 0.02) for s in seeds
    ]  # fmt: skip


def drawn(rows, *axes):
    """{name: (caption, svg)}."""
    found, pngs = ranks.figures(rows, reduce(rows, best_of(*(axes or ("lr",)))), CONFIG)
    assert [figure.name for figure in found] == list(pngs)
    assert all(png.startswith(b"\x89PNG") for png in pngs.values())
    return {figure.name: (figure.caption, figure.svg) for figure in found}


def test_ranks_of_two_targets():
    found = drawn(grid())
    assert list(found) == ["best_by_rank", "by_rate", "best_rate_by_rank"]
    caption, svg = found["best_by_rank"]
    assert "test loss (nats/token), each at its best rate; bars are standard errors" in caption
    assert "q,v" in svg and "rank r" in svg
    assert "r = 16" in found["by_rate"][1] and "learning rate" in found["by_rate"][1]
    assert "last one tried" in found["best_rate_by_rank"][0]  # rank 1 at the lowest
    assert "last one tried" not in drawn(grid(ranks=(4, 16)))["best_rate_by_rank"][0]


def test_the_series_have_what_was_chosen_by_validation():
    axis, series = ranks.arranged(reduce(grid(), best_of("lr")))
    assert axis == "rank" and [one.label for one in series] == ["q,v", "all"]
    for one in series:
        assert {x: group.best.chosen["lr"] for x, group in one.groups.items()} == {
            1: 0.005, 4: 0.01, 16: 0.01
        }  # fmt: skip


def test_pictures_are_the_same_bytes_again(tmp_path):
    rows = grid(ranks=(1, 4), targets=("q,v",))
    reduced = reduce(rows, best_of("lr"))
    first = [file.read_bytes() for file in ranks.draw(rows, reduced, tmp_path / "a", CONFIG)]
    files = ranks.draw(rows, reduced, tmp_path / "b", CONFIG)
    assert first == [file.read_bytes() for file in files]
    assert sorted(tmp_path.glob("b/*.png")) == sorted(files)


def test_another_axis_of_numbers_takes_the_place_of_rank():
    rows = [row(abs(x - 4) + lr, loraplus=x, lr=lr) for x in (1.0, 4.0) for lr in (1.0, 2.0)]
    found = drawn(rows)
    assert list(found) == ["best_by_loraplus", "by_rate", "best_rate_by_loraplus"]
    assert "standard errors" not in found["best_by_loraplus"][0]
    assert "loraplus = 4" in found["by_rate"][1]


def test_groups_without_a_common_axis_are_dots():
    ways = {"q": 8, "k": 8, "q,v": 4}
    rows = [row(1 + r / 9 + lr, where=w, rank=r, lr=lr) for w, r in ways.items() for lr in (1, 2)]
    found = drawn(rows)
    assert list(found) == ["best", "by_rate"]
    assert "q, rank 8" in found["best"][1] and "q,v, rank 4" in found["by_rate"][1]


def test_no_choice_draws_no_rates():
    rows = [row(1.0 / r, rank=r, seed=s) for r in (1, 2) for s in (0, 1)]
    found, _ = ranks.figures(rows, reduce(rows), CONFIG)
    assert [figure.name for figure in found] == ["best_by_rank"]


def test_failed_units_are_crosses_and_nothing_is_drawn_of_nothing():
    rows = [row(math.nan if (r, lr) == (4, 2) else lr, rank=r, lr=lr) for r in (1, 4)
            for lr in (1, 2)]  # fmt: skip
    assert "cross" in drawn(rows)["by_rate"][0]
    failed = [row(math.nan, rank=r, lr=lr) for r in (1, 4) for lr in (1, 2)]
    assert drawn(failed) == {}


def test_rates_beyond_all_reason_have_short_ticks_and_crosses_of_their_own():
    rates = (1e-5, 1e-2, 1e3, 1e38)
    rows = [row(math.nan if lr > 1 else 2 - r * lr, rank=r, lr=lr) for r in (1, 4) for lr in rates]
    svg = drawn(rows)["by_rate"][1]
    assert all(f">{tick}<" in svg for tick in ("1e-5", "0.01", "1,000", "1e38"))
    marks = [place for place, style in MARK.findall(svg) if "fill-opacity" not in style]
    assert len(marks) >= 8 and len(set(marks)) == len(marks)


@pytest.mark.parametrize("worst", (2.2, 2.24, 2.3, 2.5, 9.0))
def test_points_are_whole_or_beyond_the_panel(worst):
    rows = [row(loss, rank=1, lr=lr) for lr, loss in ((1, worst), (2, 2.2), (4, 2.0), (8, 2.1))]
    rows += [row(3 - lr / 9, rank=2, lr=lr) for lr in (1, 2, 4, 8)]
    rows += [row(worst + 0.5, rank=3, lr=lr) for lr in (1, 2, 4, 8)]
    svg = drawn(rows)["by_rate"][1]
    top, height = map(float, PANEL.findall(svg)[0])
    heights = [float(place.split('"')[3]) for place, _ in MARK.findall(svg)]
    assert all(abs(y - edge) > 4 for y in heights for edge in (top, top + height))


def test_the_frozen_base_is_shown_where_it_is_near():
    rows = [row(3.0 - r / 10, rank=r) | {"base/test/loss": 3.3} for r in (1, 4)]
    svg = ranks.figures(rows, reduce(rows), CONFIG)[0][0].svg
    assert "frozen base" in svg
    far = [one | {"base/test/loss": 30.0} for one in rows]
    assert "frozen base" not in ranks.figures(far, reduce(far), CONFIG)[0][0].svg


def test_rates_of_a_search_are_not_all_told():
    rates = [0.001 * 1.37**n for n in range(14)]
    rows = [row(abs(math.log2(lr / 0.01)), rank=r, lr=lr * (1 + r / 99)) for r in (1, 2)
            for lr in rates]  # fmt: skip
    svg = drawn(rows)["by_rate"][1]
    assert ">0.02<" in svg and ">0.00139<" not in svg
