"""How does a delta look module by module? Between our leaves and the tensors of torch modules.

Other people's adapters have a pair A (r, in) and B (out, r) for each module, and whole tensors in
torch's orientation; ours have A (in, r) and B (r, out) for each leaf, stacked where layers are
scanned. A leaf with two names (a tied embedding) has one update here, and as many there as names.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lorax.adapters.bitfit import BitFit
from lorax.adapters.full import Full
from lorax.adapters.lora import LoRA
from lorax.core.adapter import Adapter, Chain, Delta
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors, Roles
from lorax.io.names import turn
from lorax.io.peft_names import Tensor, matrices


class Pair(NamedTuple):
    """The update of one module: scale · (B A), scale = alpha / r or alpha / sqrt(r).

    Attributes:
      A: (r, in).
      B: (out, r); of a lookup `in` is the number of rows and `out` the width.
      alpha: numerator of the scale.
    """

    A: np.ndarray
    B: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return self.A.shape[0]

    @property
    def turned(self) -> "Pair":
        """The update of the same matrix, seen by a module that uses it the other way round."""
        return Pair(self.B.T, self.A.T, self.alpha)


@dataclasses.dataclass(frozen=True)
class Parts:
    """An adapter with its delta, module by module.

    Attributes:
      pairs: by module.
      whole: trained tensors of modules that are trained whole, by name, in torch's orientation.
      biases: trained biases of other modules, by name.
      rank, alpha: what holds where nothing else is said; kept so that a file comes back as it was.
      scaling, dropout: of all pairs.
    """

    pairs: Mapping[str, Pair]
    whole: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    biases: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rank: int = 8
    alpha: float = 16.0
    scaling: str = "standard"
    dropout: float = 0.0


def assemble(table: Mapping[str, Tensor], parts: Parts) -> tuple[Adapter, Delta]:
    """Our adapter and delta of `parts`, every number bit for bit.

    A `LoRA` for the pairs, a `Full` for the whole tensors and a `BitFit` for the biases; a `Chain`
    where there are several.

    Raises:
      LoraxError: the names of a tied leaf say different things, or the layers of a scanned one do.
    """
    pairs = _by_leaf(matrices(table), parts.pairs, lambda pair: pair.turned)
    members: list[tuple[Adapter, Delta]] = [_low_rank(table, pairs, parts)] if pairs else []
    for kind, tensors in ((Full, parts.whole), (BitFit, parts.biases)):
        leaves = _by_leaf(table, tensors, lambda array: array)
        delta = {
            path: _stacked(
                [turn(t.kind, value) for t, value in found], found[0][0].layer is not None
            )
            for path, found in leaves.items()
        }
        if delta:
            members.append((kind(where=tuple(_patterns(table, dict.fromkeys(delta)))), delta))
    if len(members) == 1:
        return members[0]
    return Chain(*(adapter for adapter, _ in members)), tuple(delta for _, delta in members)


Found = list[tuple[Tensor, Any]]


def _by_leaf(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], turned: Callable[[Any], Any]
) -> dict[str, Found]:
    """`values` by path, in the order of the table, one a layer where the leaf is scanned."""
    names: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(tensor.path, []).append(name)
    found = {}
    for path, own in names.items():
        given = [name for name in own if name in values]
        if not given:
            continue
        if len(given) < len(own):
            lacking = next(name for name in own if name not in values)
            raise _incomplete(tensors[given[0]], given[0], lacking)
        copies = [name for name in own if tensors[name].tied]
        for name in copies:
            if not _same(turned(values[name]), values[own[0]]):
                raise LoraxError(
                    f"'{own[0]}' and '{name}' share one matrix but get different updates, which "
                    "no single delta is: load the model with tied=False, which gives each its own"
                )
        found[path] = [(tensors[name], values[name]) for name in own if name not in copies]
    return found


def _incomplete(tensor: Tensor, given: str, lacking: str) -> LoraxError:
    if tensor.layer is None:
        return LoraxError(
            f"'{given}' is changed but '{lacking}' is not, and the two are tied to one matrix, "
            f"'{tensor.path}': load the model with tied=False, which gives each its own"
        )
    return LoraxError(
        f"'{given}' is changed but '{lacking}' is not, and the scanned layers share one leaf, "
        f"'{tensor.path}': load the model with scan=False, which gives each layer its own"
    )


def _same(one: Any, other: Any) -> bool:
    """Bit for bit; arrays, or pairs of them."""
    if isinstance(one, Pair):
        return one.alpha == other.alpha and _same(one.A, other.A) and _same(one.B, other.B)
    return (one.dtype, one.shape) == (other.dtype, other.shape) and (
        one.tobytes() == other.tobytes()
    )


def _low_rank(
    table: Mapping[str, Tensor], leaves: Mapping[str, Found], parts: Parts
) -> tuple[Adapter, Delta]:
    delta, own = {}, {}
    for path, found in leaves.items():
        tensors, pairs = zip(*found, strict=True)
        for tensor, pair in found:
            form = (pair.rank, pair.alpha, pair.A.dtype, pair.B.dtype)
            first = (pairs[0].rank, pairs[0].alpha, pairs[0].A.dtype, pairs[0].B.dtype)
            if form != first:
                raise LoraxError(
                    f"'{tensor.module}' has rank, alpha and dtypes {_text(form)} but "
                    f"'{tensors[0].module}' has {_text(first)}, and the scanned layers share one "
                    f"leaf, '{path}': load the model with scan=False"
                )
        stack = () if tensors[0].layer is None else (0,)
        kind = "gather" if tensors[0].kind == "embedding" else "dot"
        roles = Roles(stack, (len(stack),), (len(stack) + 1,), kind)
        a, b = (_stacked([pair[side].T for pair in pairs], bool(stack)) for side in (0, 1))
        delta[path] = Factors(a, b, roles)
        own[path] = {"rank": pairs[0].rank, "alpha": float(pairs[0].alpha)}
    default: dict[str, Any] = {"rank": parts.rank, "alpha": float(parts.alpha)}
    overrides = {
        path: tuple((name, value) for name, value in found.items() if value != default[name])
        for path, found in own.items()
    }
    where: Any = _patterns(table, overrides)
    where = {p: dict(o) for p, o in where.items()} if any(where.values()) else tuple(where)
    dtypes = {leaf.A.dtype.name for leaf in delta.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 and dtypes != {"float32"} else None
    adapter = LoRA(
        **default, where=where, scaling=parts.scaling, dropout=parts.dropout, dtype=dtype
    )
    return adapter, delta


def _text(form: Sequence[Any]) -> str:
    return ", ".join(map(str, form))


def _stacked(arrays: Sequence[np.ndarray], stack: bool) -> Any:
    return jnp.asarray(np.stack(arrays) if stack else np.ascontiguousarray(arrays[0]))


def _patterns(table: Mapping[str, Tensor], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Expressions that select just the paths of `leaves`, each with the value it has there.

    One expression for all layers where every layer's leaf is there with the same value.
    """
    layers: dict[str, list[str]] = {}
    for path in dict.fromkeys(tensor.path for tensor in table.values()):
        layers.setdefault(_every_layer(path), []).append(path)
    found: dict[str, Any] = {}
    for expression, same in layers.items():
        chosen = [path for path in same if path in leaves]
        if len(chosen) == len(same) and all(leaves[p] == leaves[chosen[0]] for p in chosen):
            found[expression] = leaves[chosen[0]]
        else:
            found |= {re.escape(path): leaves[path] for path in chosen}
    return found


def _every_layer(path: str) -> str:
    return re.sub(r"/layer_\d+/", r"/layer_\\d+/", re.escape(path))
