"""How does what is learnt change with the rank? Numbers of ΔW, a panel each, a line a series."""

from collections.abc import Mapping

from experiments._sweep.reduce import Stat
from experiments.figures import curves, panels
from experiments.figures.training import STYLE, saved

Lines = Mapping[str, Mapping[float, Stat]]
"""{series: {rank: number}}."""


def draw(name: str, axis: str, numbers: Mapping[str, Lines]) -> tuple[bytes, str]:
    """(PNG, SVG): one panel a number.

    Args:
      name: begins the ids in the SVG.
      axis: "rank", or what takes its place.
      numbers: {title of a panel: its lines}; the same series in all, at least one point.

    Raises:
      LoraxError: matplotlib is missing.
    """
    curves.require()
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, grid = panels.grid(len(numbers), 2.4)
        for axes, (title, lines) in zip(grid, numbers.items(), strict=True):
            for number, (label, found) in enumerate(lines.items()):
                panels.bars(axes, dict(sorted(found.items())), label, number)
            values = sorted({x for found in lines.values() for x in found})
            panels.dress(axes, title, panels.named(axis), values)
            axes.set_ylim(bottom=-0.04 * axes.get_ylim()[1])  # points at zero are whole
        panels.legend(figure)
        return saved(figure, name)
