"""What does a user's mistake look like?

One line: what was expected, what came, the cure. Command-line verbs print the message alone.
"""


class LoraxError(ValueError):
    """A value that cannot work: the message says what was expected, what came and the cure."""


class LoraxTypeError(LoraxError, TypeError):
    """A value of the wrong type; also a ``TypeError``."""


class LoraxWarning(UserWarning):
    """Something legal that wastes parameters, time or memory."""
