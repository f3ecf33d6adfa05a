"""How did the methods learn and forget? Held-out curves of the quickstart."""

import pathlib
from typing import Any

from experiments._table import label
from lorax.core.errors import LoraxError
from lorax.train.metrics import read_metrics

COLOURS = {"lora_r1": "#a6cee3", "lora_r4": "#5a9bd4", "lora_r16": "#1f4e9e", "full": "#d95f02"}
OTHERS = ("#7570b3", "#1b9e77", "#e7298a", "#666666")


def require() -> None:
    """Raises LoraxError with the cure if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise LoraxError(
            "matplotlib is not installed: pip install 'lorax-flax[experiments]' (in a checkout, "
            "pip install -e '.[experiments]')"
        ) from None


def draw(metrics: pathlib.Path, file: pathlib.Path) -> None:
    """Two panels from one metrics.jsonl: the new text, learnt, and the old one, forgotten.

    Raises:
      LoraxError: the metrics cannot be read, or matplotlib is missing.
    """
    require()
    import matplotlib.figure

    records = read_metrics(metrics)
    evals = [r for r in records if r["kind"] == "eval"]
    names = list(dict.fromkeys(r["run"] for r in evals))
    figure = matplotlib.figure.Figure(figsize=(9.5, 4.2), layout="constrained")
    new, old = figure.subplots(1, 2)
    others = iter(OTHERS * len(names))
    for name in names:
        style: dict[str, Any] = {
            "color": COLOURS.get(name) or next(others),
            "marker": "o",
            "markersize": 4,
            "linewidth": 2,
            "clip_on": False,
        }
        curve = [r for r in evals if r["run"] == name]
        for axes, text in ((new, "python"), (old, "english")):
            axes.plot(
                [r["step"] for r in curve], [r[text] for r in curve], label=label(name), **style
            )
    base = next((r for r in records if r["run"] == "base" and r["kind"] == "result"), None)
    titles = ((new, "python", "New text: Python source"), (old, "english", "Old text: English"))
    for axes, text, title in titles:
        if base is not None:
            axes.axhline(base[text], color="0.4", linestyle=":", linewidth=1.5, label=label("base"))
        axes.set(
            title=title,
            xlabel="adaptation steps",
            ylabel="held-out bits per byte (lower is better)",
        )
        axes.set_xlim(left=0)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = new.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, metadata={"Software": None})
