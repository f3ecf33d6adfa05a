"""How does a delta look module by module? Between our leaves and the tensors of torch modules.

Other people's adapters have a pair A (r, in) and B (out, r) for each module, and whole tensors in
torch's orientation; ours have A (in, r) and B (r, out) for each leaf, stacked where layers are
scanned. A leaf with two names (a tied embedding) has one update here, and as many there as names.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters.bitfit import BitFit
from lorax.adapters.full import Full
from lorax.adapters.ia3 import IA3
from lorax.adapters.lora import LoRA
from lorax.core.adapter import Adapter, Chain, Delta
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors, Learnt, Roles
from lorax.io.names import turn
from lorax.io.peft_kinds import packed
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
    def ours(self) -> dict[str, np.ndarray]:
        """The factors of our leaf."""
        return {"A": self.A.T, "B": self.B.T}

    @property
    def turned(self) -> "Pair":
        """The update of the same matrix, seen by a module that uses it the other way round."""
        return Pair(self.B.T, self.A.T, self.alpha)


class Update(NamedTuple):
    """What one module learns by another method than LoRA.

    Attributes:
      ours: the arrays of our leaf by name, as `Learnt` holds them, but for one layer.
      rank, alpha: as the method counts them; of no meaning where it does not.
      frozen: VeRA's A (in, r) and B (r, out) of this module, where they are to be written.
    """

    ours: dict[str, np.ndarray]
    rank: int
    alpha: float
    frozen: Factors | None = None

    @property
    def turned(self) -> "Update":
        """No such update serves a matrix that is used both ways."""
        raise LoraxError(
            f"two tied modules are adapted ({', '.join(self.ours)}), which only LoRA can be by one "
            "update: load the model with tied=False, which gives each its own matrix"
        )


@dataclasses.dataclass(frozen=True)
class Parts:
    """An adapter with its delta, module by module.

    Attributes:
      pairs: by module; a `Pair` each where `kind` is LoRA, else an `Update`.
      whole: trained tensors of modules that are trained whole, by name, in torch's orientation.
      biases: trained biases of other modules, by name.
      rank, alpha: what holds where nothing else is said; kept so that a file comes back as it was.
      scaling, dropout: of all pairs.
      kind: the class of adapter.
      fields: of this adapter that LoRA has not.
    """

    pairs: Mapping[str, Any]
    whole: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    biases: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rank: int = 8
    alpha: float = 16.0
    scaling: str = "standard"
    dropout: float = 0.0
    kind: Any = LoRA
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def assemble(table: Mapping[str, Tensor], parts: Parts) -> tuple[Adapter, Delta]:
    """Our adapter and delta of `parts`, every number bit for bit.

    An adapter of `parts.kind` for the pairs, a `Full` for the whole tensors and a `BitFit` for the
    biases; a `Chain` where there are several.

    Raises:
      LoraxError: the names of a tied leaf say different things, or the layers of a scanned one do.
    """
    pairs = _by_leaf(matrices(table), parts.pairs, lambda pair: pair.turned)
    members: list[tuple[Adapter, Delta]] = [_updates(table, pairs, parts)] if pairs else []
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


def _updates(
    table: Mapping[str, Tensor], leaves: Mapping[str, Found], parts: Parts
) -> tuple[Adapter, Delta]:
    learnt: dict[str, Learnt] = {}
    own = {}
    for path, found in leaves.items():
        tensors, pairs = zip(*found, strict=True)
        for tensor, pair in found:
            form, first = _form(pair), _form(pairs[0])
            if form != first:
                raise LoraxError(
                    f"'{tensor.module}' has rank, alpha and dtypes {_text(form)} but "
                    f"'{tensors[0].module}' has {_text(first)}, and the scanned layers share one "
                    f"leaf, '{path}': load the model with scan=False"
                )
        stack = () if tensors[0].layer is None else (0,)
        kind = "gather" if tensors[0].kind == "embedding" else "dot"
        roles = Roles(stack, (len(stack),), (len(stack) + 1,), kind)
        arrays = {
            name: _stacked([pair.ours[name] for pair in pairs], bool(stack))
            for name in pairs[0].ours
        }
        learnt[path] = Learnt(arrays, roles)
        own[path] = {"rank": pairs[0].rank, "alpha": float(pairs[0].alpha)}
    dtypes = {array.dtype.name for array in jax.tree.leaves(learnt)}
    return _adapter(table, parts, own, learnt, dtypes), packed(parts.kind, learnt)


def _adapter(
    table: Mapping[str, Tensor],
    parts: Parts,
    own: Mapping[str, Mapping[str, Any]],
    learnt: Mapping[str, Learnt],
    dtypes: set[str],
) -> Adapter:
    """The adapter of this kind with rank and alpha by path, in the fields that the kind has."""
    known = {field.name for field in dataclasses.fields(parts.kind)}
    default = {"rank": parts.rank, "alpha": float(parts.alpha)}
    default = {name: value for name, value in default.items() if name in known}
    overrides = {
        path: tuple((name, found[name]) for name in default if found[name] != default[name])
        for path, found in own.items()
    }
    where: Any = _patterns(table, overrides)
    where = {p: dict(o) for p, o in where.items()} if any(where.values()) else tuple(where)
    dtype = dtypes.pop() if len(dtypes) == 1 and dtypes != {"float32"} else None
    shared = {"scaling": parts.scaling, "dropout": parts.dropout, "dtype": dtype, **parts.fields}
    shared = {name: value for name, value in shared.items() if name in known}
    if parts.kind is IA3:
        own_side = lambda side: {path: () for path, leaf in learnt.items() if side in leaf.arrays}
        where, shared["feedforward"] = (
            tuple(_patterns(table, own_side(side))) for side in ("outputs", "inputs")
        )
    return parts.kind(**default, where=where, **shared)


def _form(pair: Any) -> tuple[Any, ...]:
    return (pair.rank, pair.alpha, *(array.dtype for array in pair.ours.values()))


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
