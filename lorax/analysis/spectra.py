"""How large is a learned update, and in how many directions? The singular values of every ΔW."""

import dataclasses
from typing import Any

import jax
import numpy as np

from lorax.adapters.low_rank import plain, plain_leaves, singular_factors
from lorax.analysis.updates import TINY, lora_members
from lorax.core.adapter import Adapter, Delta, low_rank_leaves
from lorax.core.leaf import LowRank


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The singular values of one leaf's ΔW, scale included.

    Attributes:
      rank: r of the factors.
      scale: alpha / r or alpha / sqrt(r); divide `values` by it for those of A B alone.
      values: (n, k) in descending order; n stacked matrices (1 if none), k the smallest of rank,
        fan-in and fan-out.
    """

    rank: int
    scale: float
    values: np.ndarray

    @property
    def frobenius(self) -> np.ndarray:
        """‖ΔW‖ in the Frobenius norm, (n,)."""
        return np.sqrt(np.sum(self.values**2, axis=1))

    @property
    def stable_rank(self) -> np.ndarray:
        """‖ΔW‖² / σ₁², (n,): 1 for one direction, k for k equal ones; 0 where ΔW is zero.

        Source: Rudelson and Vershynin, "Sampling from large matrices", 2007.
        """
        return _ratio(np.sum(self.values**2, axis=1), self.values[:, 0] ** 2)

    @property
    def effective_rank(self) -> np.ndarray:
        """exp of the entropy of σ / Σσ, (n,); 0 where ΔW is zero.

        Source: Roy and Vetterli, "The effective rank", 2007.
        """
        share = _ratio(self.values, np.sum(self.values, axis=1, keepdims=True))
        entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=1)
        return np.where(self.values[:, 0] > 0, np.exp(entropy), 0.0)

    @property
    def numerical_rank(self) -> np.ndarray:
        """How many singular values exceed σ₁ · 1e-6, (n,): float32's rounding is below that."""
        return np.sum(self.values > TINY * self.values[:, :1], axis=1)


def spectra(adapter: Adapter, delta: Delta, base: Any = None) -> dict[str, Spectrum]:
    """The `Spectrum` of every leaf whose ΔW has factors; no ΔW is formed.

    Others (those of `Full`, `BitFit` and `DoRA` say) are passed over.

    Args:
      adapter, delta: as trained, or as imported.
      base: needed where the adapter starts from it (PiSSA, OLoRA), and for all but LoRA, whose
        factors are made of other numbers.

    Raises:
      LoraxError: no leaf has factors, or a base is needed.
    """
    found: dict[str, Spectrum] = {}
    for path, (rank, leaf) in _factors(adapter, delta, base).items():
        scale = float(leaf.scale)
        with jax.default_matmul_precision("highest"):
            values = abs(scale) * jax.jit(singular_factors)(leaf.factors)[1]
        found[path] = Spectrum(rank, scale, np.asarray(values, np.float64))
    return found


def _factors(adapter: Adapter, delta: Delta, base: Any) -> dict[str, tuple[int, LowRank]]:
    """By path the rank as it is said, and factors and scale of the whole ΔW."""
    leaves = {} if base is None else low_rank_leaves(adapter.leaves(base, delta))
    if leaves:
        return {
            path: (leaf.factors.rank, LowRank(plain(path, leaf), leaf.scale))
            for path, leaf in leaves.items()
        }
    return {
        path: (part[path].rank, leaf)
        for member, part in lora_members(adapter, delta)
        for path, leaf in plain_leaves(member, part, base).items()
    }


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)
