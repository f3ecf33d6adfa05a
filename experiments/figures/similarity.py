"""Which directions do two runs share? φ for every i and j, beside its start and chance.

The LoRA paper's figures 3, of two ranks, and 4, of two seeds, with what they lack: the similarity
of the two A's at initialisation, and what independent subspaces share by chance, without which a φ
of a small model means nothing.

Source: Hu et al., "LoRA", arXiv 2106.09685, sections 7.2 and H.1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._report.style import GRID, INK, MUTED, SERIES
from experiments.figures import curves, panels
from experiments.figures.training import STYLE, WIDTH, saved
from lorax.analysis.subspaces import chance

COLOURS = "cividis"
"""The same to people of every colour vision, and lighter for more when printed in grey."""


@dataclasses.dataclass(frozen=True)
class Shared:
    """φ of one kind of matrix in two runs.

    Attributes:
      label: of the kind, "query" say.
      dimension: of the space that the directions lie in.
      phi: (n, i, j) of n layers, or layers of several pairs of runs; NaN where there is none.
      start: (m, i, j) of the same at initialisation, or of m pairs of random matrices.
    """

    label: str
    dimension: int
    phi: np.ndarray
    start: np.ndarray

    @property
    def chance(self) -> np.ndarray:
        """max(i, j) / dimension, (i, j), at most 1."""
        i, j = (np.arange(1, size + 1) for size in self.phi.shape[1:])
        return chance(i[:, None], j, self.dimension)


def draw(
    name: str, found: Sequence[Shared], first: str, second: str, start: str = "at initialisation"
) -> tuple[bytes, str]:
    """(PNG, SVG): a row a kind, of three maps and of the line where i = j.

    Args:
      name: begins the ids in the SVG.
      found: at least one.
      first, second: what the two runs are, "r = 8" and "r = 64", or "seed 0" and "seed 1".
      start: what `Shared.start` is.

    Raises:
      LoraxError: matplotlib is missing.
    """
    curves.require()
    import matplotlib
    import matplotlib.figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(STYLE):
        apart = ConstrainedLayoutEngine(w_pad=0.09)  # that the numbers beside a map touch no other
        figure = matplotlib.figure.Figure((WIDTH, 0.9 + 1.75 * len(found)), layout=apart)
        widths = {"width_ratios": (1, 1, 1, 1.25)}
        grid = figure.subplots(len(found), 4, squeeze=False, gridspec_kw=widths)
        titles = ("trained", start, "chance")
        for cells, one in zip(grid, found, strict=True):
            for axes, title, phi in zip(
                cells, titles, (_mean(one.phi), _mean(one.start), one.chance), strict=False
            ):
                image = _map(axes, phi)
                axes.set_title(title if one is found[0] else "")
            cells[0].set_ylabel(f"{one.label}\ni of {first}", color=INK)
            _line(cells[3], one, start)
        for axes in grid[-1][:3]:
            axes.set_xlabel(f"j of {second}")
        grid[0][3].set_title("φ where i = j")
        grid[-1][3].set_xlabel("i = j")
        bar = figure.colorbar(image, ax=list(grid[:, :3].flat), location="bottom", aspect=45,
                              shrink=0.6, pad=0.1 / len(found))  # fmt: skip
        bar.set_label("subspace similarity φ(i, j)")
        bar.outline.set_visible(False)
        handles, labels = grid[0][3].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower right", frameon=False, labelcolor=INK,
                      fontsize=8, labelspacing=0.25, borderpad=0.1)  # fmt: skip
        return saved(figure, name)


def _map(axes: Any, phi: np.ndarray) -> Any:
    import matplotlib

    rows, columns = phi.shape
    image = axes.imshow(
        phi, vmin=0, vmax=1, cmap=matplotlib.colormaps[COLOURS].with_extremes(bad=GRID),
        aspect="auto", interpolation="nearest", extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
    )  # fmt: skip
    for axis, size in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(sorted({1, max(1, size // 2), size}))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _line(axes: Any, one: Shared, start: str) -> None:
    """φ where i = j: the mean, and the range over layers and pairs."""
    size = min(one.phi.shape[1:])
    x = np.arange(1, size + 1)
    styles = ((one.phi, "trained", SERIES[0], "-"), (one.start, start, SERIES[1], (0, (5, 1.5))))
    for phi, label, colour, dash in styles:
        values = phi[:, x - 1, x - 1]
        known = values[~np.isnan(values).all(axis=1)]
        if len(known) > 1:
            low, high = np.nanmin(known, axis=0), np.nanmax(known, axis=0)
            axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        mark = {"marker": "o", "ms": 3} if size <= 16 else {}
        axes.plot(x, _mean(phi)[x - 1, x - 1], color=colour, ls=dash, lw=1.6, label=label, **mark)
    expected = one.chance[x - 1, x - 1]
    mark = {"marker": "_", "ms": 12, "mew": 1.6} if size == 1 else {}  # one point is no line
    axes.plot(x, expected, color=MUTED, ls=(0, (1, 1.5)), lw=1.6, label="chance", **mark)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(sorted({1, max(1, size // 2), size}))
    axes.grid(color=GRID, lw=0.8)
    panels.bare(axes)


def _mean(phi: np.ndarray) -> np.ndarray:
    """Over the first axis, NaN where no layer has a number."""
    known = ~np.isnan(phi)
    count = known.sum(axis=0)
    total = np.where(known, phi, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
