"""What is a unit of a sweep? A run: the page's config with a point of the sweep put into it."""

import collections
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs._sweeps import SHORT, BestOf, Labelled, Point
from experiments._cli import UsageError, nearest
from lorax.core.errors import LoraxError, LoraxTypeError

LONGEST = 200
"""Bytes of a unit's name: file systems end at 255, and files are written beside it first."""

WHOLE = "adapter"
"""The part of a config that a point may set as a whole, `{"adapter": label("DoRA", {...})}`: fields
of one method are none of another."""

_SHORT_OF = {full[0]: short for short, full in SHORT.items() if len(full) == 1}
_SAFE = r"[\w.,+=-]+"
_KINDS = {int: "an integer", float: "a number", bool: "a boolean", str: "a text", tuple: "a tuple"}


@dataclasses.dataclass(frozen=True)
class Unit:
    """One run of a sweep.

    Attributes:
      name: of its folder: short names of axes with their values, "rank=4,lr=0.01,seed=0".
      point: the axes as people see them, {"rank": 4, "lr": 0.01, "seed": 0}; of a labelled value,
        its label.
      overrides: the fields that it sets, {"adapter.rank": 4, ...}.
      config: of the run.
    """

    name: str
    point: Mapping[str, Any]
    overrides: Mapping[str, Any]
    config: ConfigDict


def make_units(
    config: Any, points: Sequence[Point], overrides: Mapping[str, Any] | None = None
) -> list[Unit]:
    """One unit a point, in their order.

    Args:
      config: of the page, with the overrides of the command line; it stays as it is.
      points: `{field: value}`, fields in full or as in `configs._sweeps.SHORT`.
      overrides: of the command line, to find one that no unit keeps.

    Raises:
      LoraxError: no point, an unknown field, a value of another type than the field has, two units
        that are the same run, a name that no folder can have.
    """
    if not points:
        raise LoraxError("the sweep is empty: expected at least one point")
    points = [_one_spelling(point) for point in points]
    names = _axis_names([*dict.fromkeys(field for point in points for field in point)])
    units = [_unit(config, point, names) for point in points]
    _check_different(units)
    _check_kept(units, overrides or {})
    return units


def axes_of(units: Sequence[Unit]) -> dict[str, list[Any]]:
    """{axis: its values in order of appearance}."""
    found: dict[str, list[Any]] = {}
    for unit in units:
        for name, value in unit.point.items():
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    return found


def is_seed(axis: str) -> bool:
    """Whether an axis is one of those that are averaged over."""
    return axis.partition(".")[0] == "seed"


def reduction_of(units: Sequence[Unit], given: BestOf | None, asked: str | None) -> BestOf | None:
    """What is chosen among the units; None for nothing.

    Args:
      units: of the sweep.
      given: of the page; of it counts what is an axis here. None means the rate, where it is one.
      asked: of --best_of, names with commas; None where it was not given.

    Raises:
      UsageError: --best_of names what is no axis of several values, or a seed.
    """
    several = [n for n, values in axes_of(units).items() if len(values) > 1 and not is_seed(n)]
    by = given.by if given else ""
    if asked is None:
        wanted = [_axis(name, several) for name in (given.axes if given else ("lr",))]
        chosen = tuple(name for name in wanted if name in several)
        return BestOf(chosen, by) if chosen else None
    chosen = tuple(_axis(name.strip(), several) for name in asked.split(",") if name.strip())
    for name in chosen:
        if name not in several:
            raise UsageError(
                f"--best_of={asked}: '{name}' is no axis to choose from{nearest(name, several)}: "
                f"expected some of {', '.join(several) or 'none'}"
            )
    return BestOf(chosen, by) if chosen else None


def _axis(name: str, axes: Sequence[str]) -> str:
    """What the axis `name`, in any spelling, is called among `axes`."""
    short = _SHORT_OF.get(name, name)
    return short if short in axes else short.rpartition(".")[2]


def _one_spelling(point: Point) -> Point:
    found: Point = {}
    for field, value in point.items():
        short = _SHORT_OF.get(field, field)
        if short in found:
            raise LoraxError(f"a point of the sweep sets {short} twice ({point}): set it once")
        found[short] = value
    return found


def _axis_names(fields: Sequence[str]) -> dict[str, str]:
    """{field: what its axis is called}: the last part of it where that names no other."""
    last = {f: f if is_seed(f) else f.rpartition(".")[2] for f in fields}
    count = collections.Counter(last.values())
    return {f: name if count[name] == 1 else f for f, name in last.items()}


def _unit(config: Any, point: Point, names: Mapping[str, str]) -> Unit:
    copied = ConfigDict(config.to_dict())
    shown: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for field, given in point.items():
        value = given.value if isinstance(given, Labelled) else given
        for full in SHORT.get(field, (field,)):
            if full in overrides:
                raise LoraxError(f"a point of the sweep sets {full} twice ({point}): set it once")
            overrides[full] = _set(copied, full, value)
        value = overrides[SHORT.get(field, (field,))[0]]
        shown[names[field]] = given.label if isinstance(given, Labelled) else _shown(value)
    name = ",".join(f"{axis}={_text(axis, value)}" for axis, value in shown.items())
    if len(name.encode()) > LONGEST:
        raise LoraxError(
            f"the name of a unit has {len(name.encode())} bytes, the most is {LONGEST}: give long "
            f"values a short name, label('name', value) ({name[:60]}...)"
        )
    return Unit(name, shown, overrides, copied)


def _set(config: Any, field: str, value: Any) -> Any:
    """Puts a value into a config, as the type that is there; returns it."""
    node, parent, walked = config, config, "config"
    for part in field.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            known = [*SHORT, *_fields(config)]
            own = [name for name in known if name.rpartition(".")[2] == field]
            near = f"; did you mean '{own[0]}'?" if own else nearest(field, known)
            if walked == "config.adapter" and node.get("adapter", "LoRA") != "LoRA":
                near = f": the page's adapter is {node.adapter}, which has none"
            raise LoraxError(f"the sweep sets '{field}', but '{walked}' has no '{part}'{near}")
        node, parent, walked = node[part], node, f"{walked}.{part}"
    if field == WHOLE and isinstance(value, Mapping):
        setattr(config, field, ConfigDict(dict(value)))
        return config[field].to_dict()
    if isinstance(node, ConfigDict):
        raise LoraxError(
            f"the sweep sets '{field}', which is no field but has some: write "
            f"'{field}.{next(iter(node), '...')}'"
        )
    parent[part] = _fitting(field, value, node)
    return parent[part]


def _fitting(field: str, value: Any, now: Any) -> Any:
    """`value` as the type of `now`: 1 for 1.0, a tuple for a list."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()  # of numpy
    value = tuple(value) if isinstance(value, list) else value
    trial = ConfigDict({"value": now})
    try:
        if isinstance(value, bool) != isinstance(now, bool):
            raise TypeError
        trial.value = value
    except (TypeError, ValueError):
        kind = _KINDS.get(type(now), "a value")
        raise LoraxTypeError(
            f"the sweep sets {field} to {value!r}: expected {kind} such as {now!r}"
        ) from None
    return trial.value


def _fields(part: Any, prefix: str = "") -> list[str]:
    if not isinstance(part, ConfigDict):
        return [prefix[:-1]]
    return [name for field in part for name in _fields(part[field], f"{prefix}{field}.")]


def _shown(value: Any) -> Any:
    return "+".join(map(str, value)) if isinstance(value, tuple) else value


def _text(axis: str, value: Any) -> str:
    """How a value stands in a name: the shortest text that is this value again."""
    short = f"{value:g}" if isinstance(value, float) else ""
    text = short if short and float(short) == value else str(value)
    if not re.fullmatch(_SAFE, text):
        raise LoraxError(
            f"{axis} is {text!r}, which is no name for a folder: give it one of letters, digits "
            "and .,+=-_, label('name', value) of configs._sweeps"
        )
    return text


def _check_different(units: Sequence[Unit]) -> None:
    runs: dict[str, str] = {}
    names: set[str] = set()
    for unit in units:
        run = json.dumps(unit.config.to_dict(), sort_keys=True, default=str)
        if run in runs:
            first = runs[run]
            both = f"'{first}' twice" if first == unit.name else f"'{first}' and '{unit.name}'"
            raise LoraxError(f"duplicate units: {both} are the same run; leave one out")
        if unit.name in names:
            raise LoraxError(
                f"two values of a sweep have one name ('{unit.name}' twice): give each its own "
                "label('name', value)"
            )
        runs[run] = unit.name
        names.add(unit.name)


def _check_kept(units: Sequence[Unit], overrides: Mapping[str, Any]) -> None:
    """An override of the command line that the sweep puts another value over everywhere."""
    for field, value in overrides.items():
        whole = field.partition(".")[0]  # set with all of its fields
        if all(
            whole in unit.overrides or unit.overrides.get(field, value) != value for unit in units
        ):
            raise UsageError(
                f"--config.{field}={value} has no effect, as the sweep sets {field} in every unit "
                "to other values: leave it out, or choose another --sweep"
            )
