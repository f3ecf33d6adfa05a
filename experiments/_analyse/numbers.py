"""What is measured of each adapter, and of each comparison? Numbers by leaf, and by kind of matrix.

A kind is what layers have alike: the query of all layers, say.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._analyse.study import Comparison, Learnt, has_factors
from experiments.figures.similarity import Shared
from lorax.analysis.amplification import amplification
from lorax.analysis.intruders import intruders
from lorax.analysis.magnitude import magnitude_direction
from lorax.analysis.spectra import spectra
from lorax.analysis.subspaces import directions, phi
from lorax.core.errors import LoraxError
from lorax.core.roles import roles

Leaf = dict[str, Any]

DIRECTIONS, EPSILON = 10, 0.5
"""Of intruder dimensions: the singular vectors that are looked at, and the cosine."""

DRAWS = 16
"""Pairs of random matrices beside each pair that was trained."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One adapter.

    Attributes:
      learnt: what was measured.
      leaves: by path, numbers and lists of them, one an stacked matrix.
    """

    learnt: Learnt
    leaves: Mapping[str, Leaf]


@dataclasses.dataclass(frozen=True)
class Compared:
    """One comparison of A's, or of B's.

    Attributes:
      comparison: what was compared.
      factor: "A" or "B".
      drawn: whether `Shared.start` is that of random matrices.
      kinds: by kind, φ of all layers and pairs.
    """

    comparison: Comparison
    factor: str
    drawn: bool
    kinds: Sequence[Shared]


def kind(path: str) -> str:
    """`query` of params/layer_0/attention/query/kernel."""
    *_, last = ["", *(part for part in path.split("/") if part not in ("kernel", "embedding"))]
    return last or path


def measure(one: Learnt, model: Any = None) -> Measured:
    """Amplification, spectrum, intruder dimensions, magnitude and direction of every leaf.

    Args:
      one: an adapter; of one without factors only the last two are there.
      model: a language model, for the roles of leaves that are trained whole.

    Raises:
      LoraxError: nothing of it is a matrix.
    """
    found: dict[str, Leaf] = {}
    add = lambda path, **numbers: found.setdefault(path, {"kind": kind(path)}).update(numbers)
    args = (one.adapter, one.base, one.delta)
    if has_factors(one):
        for path, a in amplification(*args).items():
            add(
                path, rank=a.rank, shape=list(a.shape), weight=a.weight, update=a.update,
                from_update=a.from_update, from_weight=a.from_weight, from_random=a.from_random,
                expected_from_random=a.expected_from_random, factor=a.factor,
            )  # fmt: skip
        for path, s in spectra(one.adapter, one.delta, one.base).items():
            add(
                path, values=s.values, stable_rank=s.stable_rank, effective_rank=s.effective_rank,
                numerical_rank=s.numerical_rank,
            )  # fmt: skip
    known = _roles(one, model)
    for path, i in intruders(*args, k=DIRECTIONS, epsilon=EPSILON, roles=known).items():
        add(path, intruders=i.count, likeness=i.likeness)
    for path, m in magnitude_direction(*args, roles=known).items():
        change, turn = m.mean_change, m.mean_turn
        add(
            path, magnitude=m.magnitude.mean(axis=1), magnitude_change=change, direction_change=turn
        )
    return Measured(one, found)


class Comparer:
    """Compares, and takes the directions of each adapter apart once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, bool], dict[str, np.ndarray]] = {}
        self._learnt: list[Learnt] = []

    def compare(self, comparison: Comparison, factor: str = "A") -> Compared:
        """φ of every pair and layer, by kind, beside initialisation or random matrices.

        Raises:
          LoraxError: the two adapters of a pair have no leaf in common.
        """
        everyone = [one for pair in comparison.pairs for one in pair]
        begun = factor == "A" and all(one.start is not None for one in everyone)
        rng = np.random.default_rng(0)
        found: dict[tuple[Any, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
        for pair in comparison.pairs:
            trained = _phis(*(self._directions(one, factor) for one in pair))
            if not trained:
                raise LoraxError(
                    f"{pair[0].label} and {pair[1].label} have no leaf in common: expected two "
                    "adapters of one model with a target in common"
                )
            starts = _phis(*(self._directions(one, factor, True) for one in pair)) if begun else {}
            for path, (values, size) in trained.items():
                start = starts[path][0] if begun else _random(rng, values.shape, size)
                place = (kind(path), size, *values.shape[1:])
                found.setdefault(place, []).append((values, start))
        kinds = [
            Shared(place[0], place[1], *(np.concatenate(x) for x in zip(*both, strict=True)))
            for place, both in found.items()
        ]
        return Compared(comparison, factor, not begun, kinds)

    def _directions(self, one: Learnt, factor: str, start: bool = False) -> dict[str, np.ndarray]:
        place = (id(one), factor, start)
        if place not in self._known:
            self._learnt.append(one)  # so that its id stays its own
            delta = one.start if start else one.delta
            self._known[place] = directions(one.adapter, delta, factor=factor, base=one.base)
        return self._known[place]


def _phis(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, int]]:
    """{path: (φ, dimension)} of what both have."""
    both = [path for path in first if path in second]
    return {path: (phi(first[path], second[path]), first[path].shape[1]) for path in both}


def _random(rng: np.random.Generator, shape: Sequence[int], dimension: int) -> np.ndarray:
    """φ of Gaussian matrices with as many directions, `DRAWS` times as many of them."""
    n, i, j = shape
    draw = lambda size: np.linalg.qr(rng.normal(size=(DRAWS * n, dimension, size)))[0]
    return phi(draw(i), draw(j))


def _roles(one: Learnt, model: Any) -> Mapping[str, Any] | None:
    if has_factors(one) or model is None:
        return None
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return roles(model.apply, one.base, tokens)


def by_kind(found: Measured, name: str, among: str = "") -> dict[str, float]:
    """{kind: the mean of a number over its layers}, finite ones alone; "" is all kinds together.

    Args:
      found: of an adapter.
      name: of the number.
      among: another number: layers where it is not finite are left out.
    """
    values: dict[str, list[float]] = {}
    for leaf in found.leaves.values():
        if name in leaf:
            numbers = np.asarray(leaf[name], np.float64)
            known = np.isfinite(numbers) & np.isfinite(leaf[among or name])
            for place in (leaf["kind"], ""):
                values.setdefault(place, []).extend(numbers[known])
    return {place: float(np.mean(x)) for place, x in values.items() if x}


def plain(value: Any) -> Any:
    """As JSON has it: lists, and None where a number is not finite."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
