"""Are two methods different, item by item? A paired bootstrap over held-out items and seeds.

Two methods are measured on the same items, and trained with the same seeds: what is easy for one is
easy for the other, and only what is left of the difference is by chance. So items and seeds are
drawn again together, for both methods alike, and the difference is taken of each draw.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments._report.find import METRICS
from experiments._sweep.reduce import Group, Reduced
from experiments._sweep.rows import DONE, Row, folder
from experiments._sweep.units import is_seed
from lorax.train.metrics import read_metrics

ITEMS = "items.jsonl"

DRAWS, SHARE = 2000, 0.95
"""Of the bootstrap, and what its interval holds of them."""


class Items(NamedTuple):
    """One number of a held-out set, item by item: it is `sums.sum() / counts.sum()`.

    ``number`` is its name, "loss" or "accuracy"; ``sums`` (N,) and ``counts`` (N,) float64.
    """

    number: str
    sums: np.ndarray
    counts: np.ndarray


ByUnit = Mapping[str, Mapping[str, Items]]
"""{unit: {"test": items}}."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A number of one method less that of another.

    Attributes:
      name: of the number, "test/loss".
      mean: over the seeds that both have.
      low, high: of the interval that holds `SHARE` of the draws.
      seeds, items: how many were drawn from.
    """

    name: str
    mean: float
    low: float
    high: float
    seeds: int
    items: int

    @property
    def clear(self) -> bool:
        """Whether zero lies outside of the interval."""
        return self.low > 0 or self.high < 0


def write_items(workdir: pathlib.Path, reduced: Reduced) -> None:
    """items.jsonl: those of the best units of every group; no file where none has any."""
    lines = []
    for group in reduced.groups:
        for row in _best(group):
            file = folder(workdir, row["unit"]) / METRICS
            for record in read_metrics(file) if file.is_file() else []:
                if record.get("kind") == "items":
                    plain = {n: list(map(_plain, record[n])) for n in ("sums", "counts")}
                    of = record["of"].partition("/")[0]
                    line = {"unit": row["unit"], "of": of, "number": record["number"], **plain}
                    lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    if lines:
        partial = workdir / f".{ITEMS}.partial"
        partial.write_text("".join(lines), "utf-8")
        partial.replace(workdir / ITEMS)


def read_items(workdir: pathlib.Path) -> dict[str, dict[str, Items]]:
    """What `write_items` wrote; empty where there is no file.

    Raises:
      LoraxError: it is damaged.
    """
    found: dict[str, dict[str, Items]] = {}
    file = workdir / ITEMS
    for line in read_metrics(file) if file.is_file() else []:
        sums, counts = (np.asarray(line[name], np.float64) for name in ("sums", "counts"))
        found.setdefault(line["unit"], {})[line["of"]] = Items(line["number"], sums, counts)
    return found


def difference(group: Group, other: Group, items: ByUnit, of: str) -> Difference | None:
    """The number of `group` less that of `other`, both at their best choice.

    Args:
      group, other: of one sweep.
      items: of `read_items`.
      of: the held-out set, "test".

    Returns:
      None where the two share no seed with items of the same set, or one has a number that is not
      finite.
    """
    ours, theirs = (_by_seed(one, items, of) for one in (group, other))
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    if not pairs or any(not _alike(*pair) for pair in pairs):
        return None
    counts = pairs[0][0].counts
    apart = np.stack([ours.sums - theirs.sums for ours, theirs in pairs])  # (S, N)
    if not np.isfinite(apart).all():
        return None
    drawn = _draws(apart, counts)
    low, high = np.quantile(drawn, ((1 - SHARE) / 2, (1 + SHARE) / 2))
    mean = float(apart.sum(axis=1).mean() / counts.sum())
    name = f"{of}/{pairs[0][0].number}"
    return Difference(name, mean, float(low), float(high), len(pairs), len(counts))


def _draws(apart: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The difference in each draw of seeds and of items, (DRAWS,)."""
    rng = np.random.default_rng(0)
    seeds, items = apart.shape
    times_BS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    times_BN = rng.multinomial(items, np.full(items, 1 / items), DRAWS)
    sums_B = ((times_BN @ apart.T) * times_BS).sum(axis=1) / seeds
    return sums_B / (times_BN @ counts)


def _best(group: Group) -> list[Row]:
    return [row for row in group.best.rows if row["state"] == DONE] if group.best else []


def _by_seed(group: Group, items: ByUnit, of: str) -> dict[str, Items]:
    found = {}
    for row in _best(group):
        seed = json.dumps({n: v for n, v in row["point"].items() if is_seed(n)}, sort_keys=True)
        if of in items.get(row["unit"], {}):
            found[seed] = items[row["unit"]][of]
    return found


def _alike(one: Items, other: Items) -> bool:
    return one.number == other.number and np.array_equal(one.counts, other.counts)


def _plain(value: Any) -> Any:
    """1 for 1.0, which takes less room."""
    return int(value) if value is not None and value == int(value) else value
