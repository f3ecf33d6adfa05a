"""Where does a transformer's tree keep its table of embeddings, and its attention, layer by layer?

Found by name among the variables of a model such as those of `lorax.models`: layers one by one
(`layer_0`, `layer_1`, ...) or stacked as a scan has them, with a leading axis.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

from lorax.core import paths
from lorax.core.adapter import unprepared
from lorax.core.additions import COLLECTION
from lorax.core.errors import LoraxError, LoraxTypeError

TABLE = r"(.*/)?embed/embedding"
ATTENTION = r".*/attention"

_PARAMS = "params/"
_OUT = "/out/kernel"


@dataclasses.dataclass(frozen=True)
class Attention:
    """One attention of a model, or a stack of them.

    Attributes:
      path: of the module, "params/layer_0/attention".
      layers: how many are stacked; None for one alone.
      width: of the stream that it adds to.
      kv_width: of a token's keys, all heads together, and of its values.
    """

    path: str
    layers: int | None
    width: int
    kv_width: int

    @property
    def count(self) -> int:
        """How many layers it is."""
        return 1 if self.layers is None else self.layers


def leaves_of(base: Any, wanted_by: str) -> dict[str, Any]:
    """The leaves of `base` by path, a mapping with the collection "params".

    Raises:
      LoraxTypeError: it is something else, beside whose parameters nothing can stand.
    """
    base, _ = unprepared(base)
    if not isinstance(base, Mapping) or "params" not in base:
        raise LoraxTypeError(
            f"base is a {type(base).__name__} without the collection 'params': {wanted_by} expects "
            "the variables of a Flax model, as model.init returns them; are base and delta swapped?"
        )
    return paths.flatten(base)


def beside(path: str, name: str) -> str:
    """The path of the addition `name` of the module at `path`, "additions/layer_0/mlp/down/up"."""
    return f"{COLLECTION}/{path.removeprefix(_PARAMS)}/{name}"


def table_of(pattern: str, stored: Mapping[str, Any]) -> Any:
    """The table of embeddings (vocabulary, width): the one leaf that `pattern` matches.

    Raises:
      LoraxError: no leaf or several, or one without two axes.
    """
    found = [path for path in stored if paths.matches(pattern, path)]
    if not found:
        raise LoraxError(
            f"no leaf is a table of embeddings, table={pattern!r}: expected the variables of a "
            "model of tokens, as those of lorax.models are; name its table in table="
        )
    if len(found) > 1:
        raise LoraxError(
            f"table={pattern!r} matches {', '.join(map(repr, found[:3]))}: expected the one table "
            "of embeddings; write its whole path"
        )
    table = stored[found[0]]
    if len(table.shape) != 2:
        raise LoraxError(
            f"'{found[0]}' has shape {tuple(table.shape)}: expected a table of embeddings "
            "(vocabulary, width); name it in table="
        )
    return table


def attentions(pattern: str, stored: Mapping[str, Any]) -> list[Attention]:
    """Every attention that `pattern` matches, in the order of the layers (2 before 10).

    An attention is a module with `out/kernel`; where it has no `key/kernel`, its keys are as wide
    as what `out` takes.

    Raises:
      LoraxError: none matches, or they differ in width.
    """
    modules = [path.removesuffix(_OUT) for path in stored if path.endswith(_OUT)]
    chosen = [path for path in modules if paths.matches(pattern, path)]
    if not chosen:
        near = paths.nearest(pattern, modules) or ["none"]
        raise LoraxError(
            f"attention={pattern!r} matches no module with 'out/kernel': expected the attention of "
            f"every layer; modules that have it: {', '.join(near)}"
        )
    found = [_attention(path, stored) for path in sorted(chosen, key=_numbered)]
    first = found[0]
    for other in found:
        if (other.width, other.kv_width) != (first.width, first.kv_width):
            raise LoraxError(
                f"'{other.path}' has widths {other.width} and {other.kv_width} but "
                f"'{first.path}' has {first.width} and {first.kv_width}: expected equal layers; "
                "narrow attention="
            )
    return found


def of_all_layers(found: list[Attention]) -> list[tuple[Attention, int | slice]]:
    """Each attention with where it is in an array that has every layer on its first axis.

    An index for one alone, a slice for a stack, so that what is taken has the axes it has.
    """
    first = itertools.accumulate((attention.count for attention in found), initial=0)
    return [
        (own, at if own.layers is None else slice(at, at + own.layers))
        for own, at in zip(found, first, strict=False)  # the last of them is the number of layers
    ]


def _attention(path: str, stored: Mapping[str, Any]) -> Attention:
    shape = tuple(stored[path + _OUT].shape)
    if len(shape) not in (2, 3):
        raise LoraxError(
            f"'{path}{_OUT}' has shape {shape}: expected (in, out), or (layers, in, out) of a "
            "scan; narrow attention="
        )
    key = stored.get(f"{path}/key/kernel")
    kv_width = shape[-2] if key is None else key.shape[-1]
    return Attention(path, shape[0] if len(shape) == 3 else None, shape[-1], kv_width)


def _numbered(path: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
