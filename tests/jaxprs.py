"""What is in a jaxpr? Shared by tests that look at a program instead of its result."""

from collections.abc import Iterator
from typing import Any


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of the programs inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for item in _params(eqn):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def constants(closed: Any) -> Iterator[Any]:
    """Every array that a closed jaxpr or a program inside it holds."""
    yield from closed.consts
    for eqn in equations(closed.jaxpr):
        for item in _params(eqn):
            yield from getattr(item, "consts", ())


def _params(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        yield from value if isinstance(value, tuple | list) else (value,)
