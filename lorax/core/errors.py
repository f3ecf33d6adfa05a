"""What does a user's mistake look like?

One line: what was expected, what came, the cure. Command-line verbs print the message alone.
"""

from typing import Any


class LoraxError(ValueError):
    """A value that cannot work: the message says what was expected, what came and the cure."""


class LoraxTypeError(LoraxError, TypeError):
    """A value of the wrong type; also a ``TypeError``."""


class LoraxWarning(UserWarning):
    """Something legal that wastes parameters, time or memory."""


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises LoraxError unless `value`, that of the argument `name`, is one of `choices`."""
    if value not in choices:
        raise LoraxError(f"{name} is {value!r}: expected one of {', '.join(map(repr, choices))}")
