"""What is a weighted sum of adapters? One LoRA whose ΔW is Σ weight · ΔW, with its error told."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lorax.adapters.lora import LoRA
from lorax.adapters.low_rank import side_by_side, truncate
from lorax.adapters.parts import Gathered, Part, Update, gather, whole_paths
from lorax.adapters.whole_sums import Rule, cut_sum
from lorax.core.adapter import Adapter, Base, Chain, Delta
from lorax.core.leaf import Factors, Roles


@dataclasses.dataclass(frozen=True)
class Combined:
    """A sum of adapters as one adapter.

    Attributes:
      adapter: a LoRA with scale 1 at every leaf; a `Chain` of it and of what all parts shared.
      delta: its factors.
      error: by path, ‖ΔW - Σ weight · ΔW‖ / ‖Σ weight · ΔW‖ in the Frobenius norm: how far the
        result is from the plain sum, for whatever reason; 0.0 where the sum is exact (rounding,
        about 1e-7, is not counted).
      truncation: the part of it that cutting to a rank makes, over the same norm:
        ‖ΔW - that before the cut‖ / ‖Σ weight · ΔW‖.
    """

    adapter: Adapter
    delta: Delta
    error: dict[str, float]
    truncation: dict[str, float]


def combine(
    parts: Sequence[Part],
    *,
    rank: int | None = None,
    base: Base = None,
    leave_out: bool = False,
    roles: Mapping[str, Roles] | None = None,
) -> Combined:
    """Σ weight · ΔW of several adapters of one model, as one plain LoRA.

    Whole updates are added, never A's to A's and B's to B's, so there are no cross terms. Without
    `rank` the factors are laid side by side, which is exact and has the sum of their ranks; with it
    the sum is cut to its largest singular values, the best approximation of that rank (Eckart and
    Young, 1936), found from the factors without forming a ΔW. A weight of -1 negates.

    Members of a `Chain` that have no factors (a `Full` head, a prompt) stay as they are where they
    are the same in all parts. Any other update (`Full`, DoRA) is formed whole, if `base` and `rank`
    are given, and cut to the rank with the rest.

    Args:
      parts: (adapter, delta, weight); a leaf that one adapter leaves alone counts as zero there.
      rank: the most a leaf of the result may have; None keeps all.
      base: the frozen parameters, needed but for a LoRA that does not start from them.
      leave_out: go without members that have no factors.
      roles: of leaves with more than two axes that are formed whole, see `lorax.roles`.

    Raises:
      LoraxError: no parts, a weight that is not finite, leaves that disagree in shape or roles, a
        base that is needed, or a member without factors that differs between the parts.
      LoraxTypeError: a part is not (adapter, delta, number).
    """
    gathered = gather(parts, base, rank=rank, leave_out=leave_out, roles=roles)
    joined: dict[str, Factors] = {}
    error = dict.fromkeys(gathered.updates, 0.0)
    cut = dict(error)
    for path, updates in gathered.updates.items():
        factors = _beside(path, updates, gathered.weights)
        if factors is None:
            assert rank is not None  # or `gather` had refused
            joined[path], error[path], cut[path] = cut_sum(updates, gathered.weights, rank)
        elif rank is not None and factors.rank > rank:
            joined[path], lost = truncate(factors, rank)
            error[path] = cut[path] = float(lost)
        else:
            joined[path] = factors
    return combined(gathered, joined, error, cut, base)


def combine_whole(
    parts: Sequence[Part], rule: Rule, rank: int, base: Base, leave_out: bool, roles: Any
) -> Combined:
    """As `combine`, with every ΔW formed, and what `rule` makes of them cut to `rank`."""
    gathered = gather(parts, base, rank=rank, leave_out=leave_out, roles=roles)
    found = {
        path: cut_sum(updates, gathered.weights, rank, path, rule)
        for path, updates in gathered.updates.items()
    }
    joined = {path: factors for path, (factors, _, _) in found.items()}
    error = {path: far for path, (_, far, _) in found.items()}
    return combined(gathered, joined, error, {path: cut for path, (*_, cut) in found.items()}, base)


def combined(
    gathered: Gathered,
    joined: dict[str, Factors],
    error: dict[str, float],
    truncation: dict[str, float],
    base: Base = None,
) -> Combined:
    """Factors with scale 1 as an adapter, beside what all parts shared.

    What is shared counts fully, though the weights may say otherwise: the error tells that.
    """
    adapter: Adapter = plain_lora(joined)
    if not gathered.kept:
        return Combined(adapter, joined, error, truncation)
    total = math.fsum(gathered.weights)
    off = abs(1 - total) / abs(total) if total else math.inf
    for member, delta in gathered.kept:
        error |= dict.fromkeys(whole_paths(member, delta, base), off)
    truncation = dict.fromkeys(error, 0.0) | truncation
    members, deltas = zip(*gathered.kept, strict=True)
    return Combined(Chain(adapter, *members), (joined, *deltas), error, truncation)


def plain_lora(factors: Mapping[str, Factors]) -> LoRA:
    """The LoRA whose delta `factors` is, with scale 1 at every leaf."""
    where = {re.escape(p): {"rank": f.rank, "alpha": float(f.rank)} for p, f in factors.items()}
    most = max(one.rank for one in factors.values())
    return LoRA(rank=most, alpha=float(most), where=where)


def _beside(path: str, updates: Mapping[int, Update], weights: Sequence[float]) -> Factors | None:
    """The weighted sum as factors, or None if some update has none."""
    found = []
    for number, update in updates.items():
        if not isinstance(update, Factors):
            return None
        found.append(Factors(update.A, update.B * weights[number], update.roles))
    return side_by_side(path, found)
