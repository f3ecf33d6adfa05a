"""Which figures does a report have? Training loss, evaluations, learning rate and gradient norm."""

import math

from experiments._report import tables
from experiments._report.page import Figure
from experiments._report.tables import Named
from experiments.figures import training
from experiments.figures.training import Line, Panel

PANELS = 12
"""Evaluations that are drawn."""


def figures(named: Named) -> tuple[list[Figure], dict[str, bytes]]:
    """(figures, {name: PNG}) of what there is to draw."""
    title = tables.titled(named, "loss", "training loss")
    loss = Panel(title, [Line(text, *run.losses()) for text, _, run in named], {}, smooth=True)
    rate = _panel(named, "learning_rate", "train", "learning rate")
    norm = _panel(named, "l2_grads", "train", "norm of the gradient", smooth=True)
    evaluated = [
        _panel(named, name, "eval", tables.titled(named, name))
        for name in tables.score_names(named)
    ]
    several = [p for p in evaluated if max((len(line.steps) for line in p.lines), default=0) > 1]
    plans = {
        "training_loss": ([loss], 1, 3.1, _loss_caption(loss)),
        "evaluation": (
            several[:PANELS],
            2 if len(several) in (2, 4) else min(3, len(several)),
            2.35,
            _evaluation_caption(several),
        ),
        "optimization": (
            [rate, norm],
            2,
            2.35,
            "Learning rate, and norm of the gradient before clipping.",
        ),
    }
    found, pngs = [], {}
    for name, (panels, columns, height, caption) in plans.items():
        panels = [panel for panel in panels if any(line.steps for line in panel.lines)]
        if panels:
            pngs[name], svg = training.draw(name, panels, columns=columns, height=height)
            found.append(Figure(name, svg, caption))
    return found, pngs


def _panel(named: Named, name: str, kind: str, title: str, *, smooth: bool = False) -> Panel:
    lines = [Line(text, *run.series(name, kind)) for text, _, run in named]
    levels = {
        text: value
        for text, values in tables.baselines(named, shared=True).items()
        if kind == "eval" and (value := values.get(name)) is not None
    }
    return Panel(title, lines, levels, smooth=smooth, markers=kind == "eval")


def _loss_caption(panel: Panel) -> str:
    smooth = any(len(line.values) >= training.SMOOTHED_FROM for line in panel.lines)
    if not smooth:
        return "Loss on the training data."
    return "Loss on the training data: the moving mean over a twentieth of the records" + (
        ", the records themselves pale." if len(panel.lines) <= training.RAW_UP_TO else "."
    )


def _evaluation_caption(panels: list[Panel]) -> str:
    more = len(panels) - PANELS
    said = "Evaluations on held-out data."
    if any(math.isfinite(v) for panel in panels for v in panel.baselines.values()):
        said += " Baselines are drawn where they lie near the curves; the table has them all."
    return said + (f" {more} more are in the table only." if more > 0 else "")
