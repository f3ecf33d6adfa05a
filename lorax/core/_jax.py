"""What differs between JAX versions? The only file that knows.

Public API throughout. Equations that no adapted leaf enters are evaluated as a small jaxpr, so
that no primitive is ever bound by hand; inner programs are found by type, and the operands of
scan and while are told apart by their shapes, because parameter names change between versions.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

Equation = core.JaxprEqn

# a jaxpr wants to know what it was traced from; pieces of another one have no names of their own
_PIECE = core.DebugInfo("lorax", "piece of an adapted program", None, None)


@dataclasses.dataclass(frozen=True)
class Program:
    """A jaxpr and the values of its constants."""

    jaxpr: Any
    consts: tuple[Any, ...]

    @property
    def inputs(self) -> Sequence[Any]:
        """The input variables."""
        return self.jaxpr.invars

    @property
    def outputs(self) -> Sequence[Any]:
        """The output variables or literals."""
        return self.jaxpr.outvars


def trace(fn: Callable[..., Any], arguments: Any) -> tuple[Program, Any]:
    """The program of `fn(arguments)` with respect to the arrays in `arguments`, and the tree of
    its output. Whatever else `fn` uses is a constant of the program, traced or not."""
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(arguments)
    return _program(closed), jax.tree.structure(shapes)


def _program(jaxpr: Any) -> Program:
    return Program(getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ())))


def is_traced(value: Any) -> bool:
    """True for a value that is not known while tracing."""
    return isinstance(value, jax.core.Tracer)


def is_literal(atom: Any) -> bool:
    """True for a constant that stands in an equation."""
    return isinstance(atom, core.Literal)


def last_uses(jaxpr: Any) -> dict[Any, int]:
    """For each variable, the number of the last equation that reads it; outputs are read last."""
    uses: dict[Any, int] = {}
    for number, eqn in enumerate(jaxpr.eqns):
        uses.update((atom, number) for atom in eqn.invars if not is_literal(atom))
    uses.update((atom, len(jaxpr.eqns)) for atom in jaxpr.outvars if not is_literal(atom))
    return uses


def run(eqns: Sequence[Equation], outputs: Sequence[Any], read: Callable[[Any], Any]) -> list[Any]:
    """Evaluates consecutive equations on plain values; returns the values of `outputs`."""
    defined: set[Any] = set()
    inputs: dict[Any, None] = {}
    for eqn in eqns:
        inputs.update((a, None) for a in eqn.invars if not is_literal(a) and a not in defined)
        defined.update(eqn.outvars)
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    piece = core.Jaxpr((), list(inputs), list(outputs), list(eqns), effects, _PIECE)
    return jax.core.eval_jaxpr(piece, (), *(read(atom) for atom in inputs))


def run_one(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluates one equation on plain values, one for each operand; None for dropped outputs."""
    pairs = zip(eqn.invars, values, strict=True)
    known: dict[Any, Any] = {atom: value for atom, value in pairs if not is_literal(atom)}
    kept = [atom for atom in eqn.outvars if not isinstance(atom, core.DropVar)]
    piece = core.Jaxpr((), list(known), kept, [eqn], eqn.effects, _PIECE)
    found = iter(jax.core.eval_jaxpr(piece, (), *known.values()))
    return [None if isinstance(atom, core.DropVar) else next(found) for atom in eqn.outvars]


def inner(eqn: Equation) -> Program:
    """The first program among the parameters of an equation."""
    return next(programs(eqn))


def programs(eqn: Equation) -> Iterator[Program]:
    """Every program among the parameters, tuples of programs included, in their order."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield _program(item)


def scan_split(eqn: Equation) -> tuple[int, int]:
    """How many leading operands of a scan are constants, and how many carries follow them."""
    body = inner(eqn)
    inputs, outputs = (
        zip(outer, inside, strict=True)
        for outer, inside in ((eqn.invars, body.inputs), (eqn.outvars, body.outputs))
    )
    sliced = sum(_ndim(whole) != _ndim(one) for whole, one in inputs)
    carried = sum(_ndim(whole) == _ndim(one) for whole, one in outputs)
    return len(eqn.invars) - sliced - carried, carried


def _ndim(atom: Any) -> int:
    return atom.aval.ndim


def out_dtype(eqn: Equation) -> Any:
    """The dtype of an equation's first output."""
    aval: Any = eqn.outvars[0].aval
    return aval.dtype


def while_parts(eqn: Equation) -> tuple[Program, int, Program, int]:
    """Condition and body of a while, each with the number of constants it takes first."""
    carried = len(eqn.outvars)
    condition, body = _program(eqn.params["cond_jaxpr"]), _program(eqn.params["body_jaxpr"])
    return condition, len(condition.inputs) - carried, body, len(body.inputs) - carried


def shardings(eqn: Equation, name: str) -> tuple[Any, ...]:
    """The parameter `name` of a jit equation with None in place of everything unspecified."""
    values = eqn.params.get(name, ())
    return tuple(v if isinstance(v, jax.sharding.Sharding) else None for v in values)
