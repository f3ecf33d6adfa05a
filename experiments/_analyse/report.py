"""How is an analysis told? All numbers in analysis.json, report.md, report.html and plots/."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._analyse.numbers import (
    DIRECTIONS,
    EPSILON,
    Compared,
    Measured,
    by_kind,
    plain,
)
from experiments._analyse.study import Study
from experiments._report import sections, words
from experiments._report.page import Block, Figure, Fold, Table, Text, escape
from experiments._report.tables import Rows
from experiments._report.words import ABSENT
from experiments._report.write import put_report
from experiments._sweep.reduce import Stat, stat
from experiments.figures import learnt, similarity
from experiments.figures.similarity import Shared

JSON = "analysis.json"

SHARE = 8
"""Of the dimension: subspaces that are larger share much by chance."""

SIMILARITY = (
    "φ(i, j) is the share of the first i directions of the one that lies in the first j of the "
    "other: 1 where one span contains the other. Mean over layers, ± standard error over pairs; k "
    f"is the smaller rank, at most 1 / {SHARE} of the dimension. Chance is "
    "max(i, j) / dimension, what independent subspaces share; *start* is φ of the A's at "
    "initialisation (*random*: of Gaussian matrices, where that is not known). What is not clearly "
    "above both was not learnt. B begins at zero, so beside it stand random matrices."
)
AMPLIFICATION = (
    "‖Uᵀ W V‖ with the first r singular vectors of ΔW, of W itself, and of a random matrix, whose "
    "expectation is ‖W‖ r / √(in · out); the factor is ‖ΔW‖ over the first of them. Frobenius "
    "norms; means over layers, ± standard error over seeds. At full rank U and V span everything, "
    "and the factor is ‖ΔW‖ / ‖W‖. Layers whose ΔW has fewer directions than r are left out."
)
EVERY = (
    "Means over all adapted matrices, ± standard error over seeds. Stable rank is ‖ΔW‖² / σ₁², "
    "effective rank the exponential of the entropy of σ / Σσ. Intruders are, of the first "
    f"{DIRECTIONS} singular vectors of each tuned matrix, those whose cosine with every one of W "
    f"is below {EPSILON}. ΔM is the mean of |‖w + d‖ − ‖w‖| over columns, ΔD that of 1 − cos."
)
SOURCES = (
    "Sources: Hu et al., arXiv 2106.09685, sections 7.2 and 7.3; Shuttleworth et al., arXiv "
    "2410.21228; Liu et al., arXiv 2402.09353."
)

ALONE = "One seed of each: nothing is said of how much comes by chance."
BY_VALUE = "Means over all adapted matrices"

TABLE_7 = {
    "weight": "‖W‖", "update": "‖ΔW‖", "from_update": "‖UᵀWV‖ of ΔW", "from_weight": "of W",
    "from_random": "of random", "expected_from_random": "expected", "factor": "factor",
}  # fmt: skip
OTHERS = {
    "stable_rank": "stable rank", "effective_rank": "effective rank",
    "numerical_rank": "directions", "intruders": "intruders a matrix",
    "magnitude": "‖w‖", "magnitude_change": "ΔM", "direction_change": "ΔD",
}  # fmt: skip


def write(
    out: pathlib.Path, study: Study, measured: Sequence[Measured], compared: Sequence[Compared]
) -> pathlib.Path:
    """Writes analysis.json, report.md, report.html and plots/*.png; the path of report.md.

    Args:
      out: a folder, made if it is missing.
      study: what was analysed.
      measured: of every adapter.
      compared: of every comparison, A's and B's.

    Raises:
      LoraxError: the folder cannot be written, or matplotlib is missing.
    """
    figures, pngs = _figures(compared)
    if drawn := _by_value(study, measured):
        pngs["learnt"] = drawn[0]
        bars = "" if _alone(measured) else "; bars are standard errors over seeds"
        figures.append(Figure("learnt", drawn[1], f"{BY_VALUE}{bars}."))
    blocks = _blocks(study, measured, compared, figures)
    record = json.dumps(_record(study, measured, compared), allow_nan=False).encode()
    return put_report(out, study.title, blocks, pngs, "choose another --workdir", {JSON: record})


def _blocks(
    study: Study,
    measured: Sequence[Measured],
    compared: Sequence[Compared],
    figures: Sequence[Figure],
) -> list[Block]:
    about = [*study.notes, f"{len(measured)} adapters. {SOURCES}"]
    rest = _similarities(compared, shown=False)
    blocks: list[Block] = [Text(f"# {escape(study.title)}"), Text(escape(" ".join(about)))]
    blocks += sections.items("Warnings", [ALONE] if _alone(measured) else [])
    if compared:
        blocks += [Text("## Subspace similarity"), Text(SIMILARITY)]
        blocks += [Table(_similarities(compared, shown=True))]
        blocks += [figure for figure in figures if figure.name != "learnt"]
        blocks += [Fold("Other matrices", [Table(rest)])] if len(rest) > 1 else []
    labels = {one.label for c in study.comparisons for pair in c.pairs for one in pair}
    shown = [m for m in measured if m.learnt.label in labels or not study.comparisons]
    if rows := _by_kind(shown, TABLE_7, among="from_update"):
        blocks += [Text("## Amplification"), Text(AMPLIFICATION), Table(rows)]
    both = {"update": "‖ΔW‖", "factor": "factor", **OTHERS}
    blocks += [Text("## Every adapter"), Text(EVERY), Table(_together(measured, both))]
    blocks += [figure for figure in figures if figure.name == "learnt"]
    if rows := _by_kind(measured, both):
        blocks.append(Fold("By kind of matrix", [Table(rows)]))
    return blocks


def _figures(compared: Sequence[Compared]) -> tuple[list[Figure], dict[str, bytes]]:
    """Of every comparison of A's, for query and value, else the first two kinds."""
    found, pngs = [], {}
    for one in (c for c in compared if c.factor == "A"):
        kinds = _drawn(one)
        name = re.sub(r"\W+", "_", f"similarity {one.comparison.name}").strip("_")
        start = "random matrices" if one.drawn else "at initialisation"
        first, second = one.comparison.first, one.comparison.second
        pngs[name], svg = similarity.draw(name, kinds, first, second, start)
        pairs = len(one.comparison.pairs)
        caption = (
            f"φ of A for {escape(one.comparison.title)}: mean over "
            f"{kinds[0].phi.shape[0] // pairs} layers"
            f"{f' and {pairs} pairs' if pairs > 1 else ''}; bands are the range over them."
        )
        found.append(Figure(name, svg, caption))
    return found, pngs


def _by_value(study: Study, measured: Sequence[Measured]) -> tuple[bytes, str] | None:
    """What is learnt against rank; None where that is no axis."""
    names = {"effective_rank": "effective rank of ΔW", "factor": "amplification factor",
             "intruders": f"intruders, of {DIRECTIONS} a matrix",
             "direction_change": "change of direction ΔD"}  # fmt: skip
    numbers: dict[str, dict[str, dict[float, Stat]]] = {}
    for members in _labelled(measured).values():
        one = members[0].learnt
        for name, title in names.items():
            if found := stat(by_kind(member, name).get("") for member in members):
                lines = numbers.setdefault(title, {})
                lines.setdefault(one.series, {})[one.value] = found
    if not study.axis or not numbers:
        return None
    return learnt.draw("learnt", study.axis, numbers)


def _similarities(compared: Sequence[Compared], shown: bool) -> Rows:
    """One row a comparison, factor and kind: of those in figures, or of the others."""
    head = ["", "factor", "matrix", "φ(1, 1)", "start", "chance", "k", "φ(k, k)", "start", "chance"]
    rows = [head]
    for one in compared:
        drawn = [id(kind) for kind in _drawn(one)]
        for kind in one.kinds:
            if (id(kind) in drawn) != shown:
                continue
            k = max(1, min(*kind.phi.shape[1:], kind.dimension // SHARE))
            row = [escape(one.comparison.title), one.factor, escape(kind.label)]
            row += [*_phi(one, kind, 1), str(k), *_phi(one, kind, k)]
            rows.append(row)
    return rows


def _phi(one: Compared, kind: Shared, k: int) -> list[str]:
    """φ(k, k), ± standard error over pairs; start; chance."""
    pairs = np.split(kind.phi[:, k - 1, k - 1], len(one.comparison.pairs))
    found = stat(_mean(pair) for pair in pairs)
    start = _number(_mean(kind.start[:, k - 1, k - 1])) + (" (random)" if one.drawn else "")
    said = words.mean(found.mean, found.error or None) if found else ABSENT
    return [said, start, _number(float(kind.chance[k - 1, k - 1]))]


def _drawn(one: Compared) -> list[Shared]:
    """Query and value, else the first two kinds."""
    return [k for k in one.kinds if k.label in ("query", "value")] or list(one.kinds[:2])


def _by_kind(measured: Sequence[Measured], names: dict[str, str], among: str = "") -> Rows:
    """One row a label and kind of matrix."""
    rows: Rows = []
    for label, members in _labelled(measured).items():
        kinds = dict.fromkeys(leaf["kind"] for m in members for leaf in m.leaves.values())
        for kind in kinds:
            cells = [_stat(members, name, kind, among) for name in names]
            if any(cell != ABSENT for cell in cells):
                rows.append([escape(label), escape(kind), str(len(members)), *cells])
    return [["", "matrix", "n", *names.values()], *rows] if rows else []


def _together(measured: Sequence[Measured], names: dict[str, str]) -> Rows:
    """One row a label."""
    rows = [["", "n", *names.values()]]
    for label, members in _labelled(measured).items():
        cells = [_stat(members, name, "") for name in names]
        rows.append([escape(label), str(len(members)), *cells])
    return rows


def _labelled(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for one in measured:
        found.setdefault(one.learnt.label, []).append(one)
    return found


def _alone(measured: Sequence[Measured]) -> bool:
    """Whether there is no second seed of anything."""
    return all(len(members) == 1 for members in _labelled(measured).values())


def _stat(members: Sequence[Measured], name: str, kind: str, among: str = "") -> str:
    found = stat(by_kind(one, name, among).get(kind) for one in members)
    return ABSENT if found is None else words.mean(found.mean, found.error or None)


def _number(value: float) -> str:
    return ABSENT if np.isnan(value) else f"{value:.3f}"


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _record(
    study: Study, measured: Sequence[Measured], compared: Sequence[Compared]
) -> dict[str, Any]:
    """All numbers."""
    adapters = [
        {"label": m.learnt.label, "run": m.learnt.run, "leaves": dict(m.leaves)} for m in measured
    ]
    similarities = [
        {
            "comparison": one.comparison.title,
            "first": one.comparison.first,
            "second": one.comparison.second,
            "pairs": [[a.run, b.run] for a, b in one.comparison.pairs],
            "factor": one.factor,
            "kind": kind.label,
            "dimension": kind.dimension,
            "start": "random" if one.drawn else "initialisation",
            "phi": np.round(kind.phi.mean(axis=0), 5),
            "phi_start": np.round(kind.start.mean(axis=0), 5),
            "chance": kind.chance,
        }
        for one in compared
        for kind in one.kinds
    ]
    found = {"title": study.title, "notes": list(study.notes), "adapters": adapters}
    return plain({**found, "similarity": similarities})
