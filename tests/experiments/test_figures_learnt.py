"""The figure of what is learnt against rank: a panel a number, a line a series."""

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
