"""Made-up rows of a study: a curve in place of training."""

import math
import random

from experiments._intrinsic.rows import Row
from experiments._intrinsic.search import next_points

METRIC = "validation/accuracy"


def study(**fields):
    """The fields of `config.study`."""
    return {
        "grid": (100, 300, 500, 750, 1000), "repeats": 3, "most_repeats": 5,
        "projection": "sparse", "also": (), "also_repeats": 1, "metric": METRIC, "when": "last",
        "mode": "max", "share": 0.9, "relative": "value", "baseline": 0.0, "target": "own",
        "resolution": 25, "rates": (1e-3,), "direct_rates": (1e-3,), "direct_repeats": 3,
        "ranks": (), "lora_rates": (1e-3,), "lora_where": ("all-linear",),
        "vary": ("projection",), "l2": 0.0, "published": (), **fields,
    }  # fmt: skip


def row(point, value, total=100_000, start=0.1):
    """The row of a point whose metric is `value`; NaN: it failed."""
    failed = math.isnan(value)
    trained = point.dim or 1000 * (point.rank or 0) or total
    numbers = {} if failed else {METRIC: value, "test/accuracy": value - 0.01}
    return Row(
        point.name, point.method, point.projection, trained, total, point.dim, point.rank,
        point.repeat, {"base": 0, "projection": point.repeat, "data": 0}, point.lr, 2, numbers,
        {"epoch": 2, **numbers}, {METRIC: start, "test/accuracy": start},
        [None] if failed else [value / 2, value], 30.0, 3,
        "the loss of step 7 is no number" if failed else "",
    )  # fmt: skip


def searched(curve, fields, total=100_000, noise=0.0, seed=0, start=0.1):
    """All rows of a search in which training is `curve(point)`, plus normal noise."""
    rows, draw = [], random.Random(seed)
    while points := next_points(rows, fields, total):
        names = {one.name for one in rows}
        assert len({p.name for p in points} - names) == len(points)  # each once, none again
        rows += [row(p, curve(p) + noise * draw.gauss(0, 1), total, start) for p in points]
        assert len(rows) < 1000
    return rows


def rising(crossing, baseline=1.0, share=0.9):
    """An accuracy that rises with log d, and passes `share` of `baseline` just above `crossing`."""

    def curve(point):
        if point.method == "direct":
            return baseline
        x = math.log(point.dim or 1000 * point.rank) - math.log(crossing)
        return baseline * share + baseline * (1 - share) * math.tanh(x)

    return curve
