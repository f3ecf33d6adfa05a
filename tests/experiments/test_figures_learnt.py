"""The figure of what is learnt against rank: a panel a number, a line a series."""

import re

import pytest

from experiments._sweep.reduce import Stat
from experiments.figures.learnt import draw

pytest.importorskip("matplotlib")


def test_a_panel_a_number_and_a_line_a_series():
    line = {4.0: Stat(2.0, 0.1, 3), 1.0: Stat(1.0, None, 1)}
    numbers = {"effective rank": {"q,v": line, "all": line}, "factor": {"q,v": line, "all": line}}
    png, svg = draw("learnt", "rank", numbers)
    assert png.startswith(b"\x89PNG")
    for text in ("effective rank", "factor", "rank r", "q,v", "all"):
        assert text in svg, text
    assert draw("learnt", "rank", numbers) == (png, svg)


def test_one_seed_has_no_bar_and_zero_is_above_the_bottom():
    line = {1.0: Stat(0.0, None, 1), 2.0: Stat(1.0, None, 1)}
    _, svg = draw("learnt", "rank", {"factor": {"": line}})
    top, height = map(float, re.search(r'<rect x="[^"]*" y="(\S+)" .*height="(\S+)"', svg).groups())
    marks = [float(y) for y in re.findall(r'<use [^>]*y="([^"]*)"', svg)]
    assert len(marks) == 2, "a point each, and no caps"
    assert max(marks) < top + height - 3
    _, svg = draw("learnt", "rank", {"factor": {"": {1.0: Stat(1.0, 0.1, 2), 2.0: line[2.0]}}})
    assert len(re.findall(r'<use [^>]*y="', svg)) == 4, "caps of the one that has an error"
