"""Where do VeRA's frozen matrices lie in PEFT's file? One A and one B, of which modules take parts.

`base_model.vera_A` (r, in) and `base_model.vera_B` (out, r) are as large as the largest module; one
of (in, out) takes the first `in` columns and `out` rows.
Source: github.com/huggingface/peft, version 0.21, tuners/vera/layer.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lorax.core.adapter import Adapter, Base, Chain, Delta, Prepared, unprepared
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors
from lorax.io.pairs import Update
from lorax.io.parts import base_leaves
from lorax.io.peft_file import AdapterFile
from lorax.io.peft_slots import SHARED

Pair = tuple[np.ndarray, np.ndarray]


def take_shared(file: AdapterFile, rank: int, sides: Sequence[tuple[int, int]]) -> Pair:
    """A (in, r) and B (r, out) of a file, for modules with these `sides`.

    Raises:
      LoraxError: the file has none (save_projection was off), or of other shapes.
    """
    for key in SHARED:
        if key not in file.keys:
            raise LoraxError(
                f"tensor '{key}' is missing: expected VeRA's frozen matrices in the file, which "
                "only torch could draw again; save the adapter with save_projection=True"
            )
    most_in, most_out = (max(own) for own in zip(*sides, strict=True))
    a, b = file.take(SHARED[0], (rank, most_in)), file.take(SHARED[1], (most_out, rank))
    return a.T, b.T


def prepared(model: Any, base: Base, adapter: Adapter, delta: Delta, shared: Pair) -> Prepared:
    """`base` with the parts of A and B that each leaf of a VeRA takes; it is first in a Chain."""
    stored = base_leaves(base, model)
    a, b = map(jnp.asarray, shared)
    chain = isinstance(adapter, Chain)
    frozen = {}
    for path, learnt in (delta[0] if chain else delta).items():
        fan_in, fan_out = stored[path].shape[-2:]
        frozen[path] = Factors(a[:fan_in], b[:, :fan_out], learnt.roles)
    derived: Any = frozen
    if isinstance(adapter, Chain):
        derived = (frozen, *(None for _ in adapter.members[1:]))
    return Prepared(unprepared(base)[0], derived, adapter)


def joined(updates: Mapping[str, Update]) -> tuple[dict[str, Update], dict[str, np.ndarray]]:
    """The updates for one A and one B, and these by key: the inverse of `prepared`.

    Where a module's A or B is a multiple of its part, as ours are of different sides, d takes it.

    Raises:
      LoraxError: two modules' matrices are not parts of one.
    """
    frozen = {
        module: (np.asarray(update.frozen.A), np.asarray(update.frozen.B))
        for module, update in updates.items()
        if update.frozen is not None
    }
    a = max((a for a, _ in frozen.values()), key=len)
    b = max((b for _, b in frozen.values()), key=lambda b: b.shape[1])
    found = {}
    for module, update in updates.items():
        own_a, own_b = frozen[module]
        times = _multiple(module, own_a, a) * _multiple(module, own_b, b)
        d = update.ours["d"]
        d = d if times == 1 else (d * times).astype(d.dtype)
        found[module] = update._replace(ours=update.ours | {"d": d})
    return found, dict(zip(SHARED, (a.T, b.T), strict=True))


def _multiple(module: str, own: np.ndarray, of: np.ndarray) -> float:
    """The number that makes the first rows and columns of `of` equal to `own`."""
    part = of[: own.shape[0], : own.shape[1]]
    if own.shape == part.shape and np.array_equal(own, part):
        return 1.0
    if own.shape == part.shape:
        wide = part.astype(np.float64)
        times = float((own * wide).sum() / max((wide * wide).sum(), 1e-30))
        if np.allclose(own, times * wide, rtol=1e-5, atol=1e-6 * np.abs(own).max()):
            return times
    raise LoraxError(
        f"the frozen matrices of '{module}' {own.shape} are no part of those of the largest module "
        f"{of.shape}: expected one A and one B for all, which is what PEFT can hold; merge it"
    )
