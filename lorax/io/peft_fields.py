"""Which values may a field of adapter_config.json have? One reader a type, each strict.

A reader takes a field's name and its parsed JSON and gives the value in one plain form; a wrong
one is a LoraxError that says what was expected.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from lorax.core.errors import LoraxError

Modules = str | tuple[str, ...] | None
Reader = Callable[[str, Any], Any]


def wrong(name: str, value: Any, expected: str) -> LoraxError:
    """The error for a field that has not the expected value."""
    return LoraxError(f"{name} is {short(value)}: expected {expected}")


def short(value: Any) -> str:
    """A value as a message quotes it, 60 characters at most."""
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "..."


def boolean(name: str, value: Any) -> bool:
    """True or false; null is false."""
    if value is not None and not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return bool(value)


def rank(name: str, value: Any) -> int:
    """An integer of at least 1."""
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise wrong(name, value, "a rank, an integer of at least 1")
    return value


def count(name: str, value: Any) -> int:
    """The same, of other things than ranks."""
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise wrong(name, value, "an integer of at least 1")
    return value


def size(name: str, value: Any) -> int | None:
    """An integer of at least 1, or null for what the model has."""
    return None if value is None else count(name, value)


def factor(name: str, value: Any) -> int:
    """A divisor, or -1 for one near the square root."""
    if type(value) is not int or not (value == -1 or 1 <= value < 1 << 31):
        raise wrong(name, value, "-1 or an integer of at least 1")
    return value


def positive(name: str, value: Any) -> float:
    """A positive finite number."""
    if type(value) not in (int, float) or not 0 < value <= 1e38:
        raise wrong(name, value, "a positive finite number")
    return value


def rate(name: str, value: Any) -> float:
    """A number in [0, 1); null is 0."""
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value < 1):
        raise wrong(name, value, "a rate in [0, 1)")
    return float(value)


def choice(*choices: str) -> Reader:
    """One of `choices`."""

    def read(name: str, value: Any) -> str:
        if value not in choices:
            raise wrong(name, value, " or ".join(map(repr, choices)))
        return value

    return read


def text(name: str, value: Any) -> str | None:
    """A string or null."""
    if value is not None and not isinstance(value, str):
        raise wrong(name, value, "a string or null")
    return value


def names(name: str, value: Any) -> tuple[str, ...]:
    """Names without repetition: PEFT adds the same ones again at each loading."""
    if value is None or value == "":
        return ()
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise wrong(name, value, "a list of module names")
    return tuple(dict.fromkeys(value))


def modules(name: str, value: Any) -> Modules:
    """Names, a regular expression, or null."""
    if isinstance(value, str):
        return expression(name, value)
    return None if value is None else names(name, value)


def expression(name: str, value: str) -> str:
    """A regular expression."""
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise wrong(name, value, f"a regular expression ({error})") from None
    return value


def expressions(name: str, value: Any) -> tuple[str, ...]:
    """Names that PEFT puts into a regular expression."""
    return tuple(expression(name, item) for item in names(name, value))


def layers(name: str, value: Any) -> tuple[int, ...] | None:
    """Layer numbers, or null for all."""
    if value is None or value == []:
        return None
    value = [value] if type(value) is int else value
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise wrong(name, value, "a layer number or a list of them")
    return tuple(value)


def pattern(read: Reader) -> Reader:
    """A table from expression to what `read` takes, in the order of the file."""

    def read_pattern(name: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise wrong(name, value, "a table from pattern to number")
        return {expression(name, key): read(f"{name}[{key!r}]", v) for key, v in value.items()}

    return read_pattern
