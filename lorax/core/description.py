"""How is an adapter read back from its description? By the name of its kind, and its fields."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

from lorax.core.adapter import Adapter, Chain, describe
from lorax.core.errors import LoraxError
from lorax.core.paths import nearest


def from_dict(description: Mapping[str, Any]) -> Adapter:
    """The adapter that `Adapter.to_dict` described.

    Raises:
      LoraxError: the kind is unknown (is its module imported?) or a field does not fit.
    """
    if not isinstance(description, Mapping):
        raise LoraxError(
            f"adapter description is {describe(description)}: expected a mapping with an "
            "'adapter' field, as to_dict() returns it"
        )
    fields = dict(description)
    kind = fields.pop("adapter", None)
    known = {cls.__name__: cls for cls in _subclasses(Adapter) if not inspect.isabstract(cls)}
    if kind == "Chain":
        members = fields.get("members")
        if not isinstance(members, list | tuple):
            raise LoraxError(
                f"members of a Chain are {describe(members)}: expected a list of descriptions, "
                "as to_dict() returns it"
            )
        return Chain(*map(from_dict, members))
    if not isinstance(kind, str) or kind not in known:
        raise LoraxError(
            f"adapter kind {kind!r} is unknown: expected one of {', '.join(sorted(known))}; "
            "import the module that defines it"
        )
    try:
        return known[kind](**fields)
    except TypeError as error:
        names = [field.name for field in dataclasses.fields(known[kind])]
        strange = [name for name in fields if name not in names]
        if not strange:
            raise LoraxError(f"cannot build {kind} from its description: {error}") from None
        near = nearest(strange[0], names, 1)
        raise LoraxError(
            f"{kind} has no field '{strange[0]}'{f'; did you mean {near[0]!r}?' if near else ''}: "
            f"expected some of {', '.join(names)}; correct it, or install the version that wrote it"
        ) from None


def from_json(text: str) -> Adapter:
    """The adapter that `Adapter.to_json` wrote."""
    try:
        description = json.loads(text)
    except json.JSONDecodeError as error:
        raise LoraxError(
            f"adapter description is not JSON ({error}): write it with to_json()"
        ) from None
    return from_dict(description)


def _subclasses(cls: type) -> set[type]:
    found: set[type] = set()
    children: list[type] = cls.__subclasses__()
    for child in children:
        found |= {child, *_subclasses(child)}
    return found
