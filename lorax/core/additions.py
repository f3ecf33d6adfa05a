"""What may stand beside the parameters of a model? Arrays of one more Flax collection.

Some methods change no parameter: they give a model virtual tokens, keys and values, or a small
network after a product. A model that has room for such things reads them from the collection
`additions`, next to `params`, if it is there; who made them it does not know.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lorax.core.errors import LoraxError, LoraxTypeError

COLLECTION = "additions"


def with_additions(base: Any, additions: Mapping[str, Any]) -> Any:
    """`base` with the arrays of `additions` beside its parameters; `base` itself if there are none.

    Args:
      base: Flax variables, a mapping with the collection "params".
      additions: by path, whose first part is `COLLECTION`.

    Raises:
      LoraxTypeError: `base` is no mapping of collections.
      LoraxError: the base has such an array already.
    """
    if not additions:
        return base
    if not isinstance(base, Mapping) or "params" not in base:
        raise LoraxTypeError(
            f"base is a {type(base).__name__} without the collection 'params': expected the "
            f"variables of a Flax model, beside whose parameters '{COLLECTION}' can stand; pass "
            "{'params': ...} and model.apply"
        )
    tree = dict(base)
    for path, array in additions.items():
        *names, last = path.split("/")
        node = tree
        for name in names:
            node[name] = dict(node.get(name, {}))
            node = node[name]
        if last in node:
            raise LoraxError(
                f"the base has '{path}' already: expected one adapter that adds it; was the base "
                "merged before?"
            )
        node[last] = array
    return tree


def is_addition(path: str) -> bool:
    """Whether this is the path of an addition, and not of a parameter."""
    return path.startswith(f"{COLLECTION}/")


def check_read(unread: Iterable[str]) -> None:
    """Raises LoraxError for an addition among the leaves that a program never reads."""
    for path in filter(is_addition, unread):
        raise LoraxError(
            f"the program never reads '{path}': expected a model that reads the collection "
            f"'{COLLECTION}' at this place, as those of lorax.models do; adapt another model by "
            "LoRA or its kin"
        )
