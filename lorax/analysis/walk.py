"""What does each device of a mesh hold while a program runs, given how its arguments are cut?

The cuts of arguments follow the values through the program. A weight that is cut along what also
cuts the rows of a batch is gathered where it is used, and is whole there for a while.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from lorax.analysis.cuts import Cut, Value, cuts, form, item_bytes, value_of, ways
from lorax.core import _jax

LAYOUT = ("transpose", "reshape", "squeeze", "copy", "sharding_constraint", "stop_gradient")
"""Primitives whose result is the same numbers: a product reads them where they are."""

VIEWS = (*LAYOUT, "convert_element_type", "slice", "dynamic_slice", "split")
"""Primitives after which a weight is still that weight, or a piece of it."""

CHEAP = ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "iota", "reshape",
         "squeeze", "stop_gradient")  # fmt: skip
POINTWISE = (*CHEAP, "abs", "add", "add_any", "and", "clamp", "cos", "div", "eq", "erf", "exp",
             "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max",
             "min", "mul", "ne", "neg", "not", "or", "pow", "reduce_precision", "rsqrt", "select_n",
             "shift_right_logical", "sign", "sin", "sqrt", "square", "sub", "tanh")  # fmt: skip
"""Primitives that compilers compute number by number with what reads them, and do not store in
between: cheap ones as often as they are read, others where all that reads them is one loop."""

CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call")
"""Primitives whose program becomes part of the one around it."""

REMAT = ("remat2", "remat", "checkpoint")
"""Primitives of `jax.checkpoint`, by version."""


@dataclasses.dataclass
class Body:
    """What the devices hold while one part of a program is computed: a loop's body, say.

    Attributes:
      rematerialised: the most bytes alive at once in a part that `jax.checkpoint` computes again.
      gathered: bytes of each leaf that is gathered whole here, by its number.
    """

    rematerialised: int = 0
    gathered: dict[int, int] = dataclasses.field(default_factory=dict)


class Walk:
    """A walk through a program, with what it found there.

    Attributes:
      bodies: the whole program first, then every loop and every rematerialised part that XLA
        cannot merge with what is around it.
      widened: where floats of 16 bits are worked with in 32, bytes of the copies that are made of
        all slices before a loop which reads them one by one; by the number of a leaf, or a key.
    """

    def __init__(self, mesh: Mapping[str, int], rows: Sequence[str], wide: bool = False):
        """A walk.

        Args:
          mesh: the length of each of its axes.
          rows: axes that cut the rows of a batch; what else is cut along them is gathered.
          wide: whether floats of 16 bits take 32 while they are worked with.
        """
        self._mesh, self._rows, self._wide = mesh, frozenset(rows), wide
        self._loops = 0  # that are open
        self.bodies: list[Body] = []
        self.widened: dict[Any, int] = {}

    def bytes(self, value: Value, gathered: bool = False, stored: bool = False) -> int:
        """Bytes of a value on one device; without the cuts along rows where it is `gathered`."""
        if value.free or (value.kept and not stored and not gathered):
            return 0
        cut = self._gathered(value.cut) if gathered else value.cut
        pairs = zip(value.shape, cut, strict=True)
        count = math.prod(-(-length // ways(names, self._mesh)) for length, names in pairs)
        short = self._wide and not stored and value.dtype in (jnp.bfloat16, jnp.float16)
        return math.ceil(count * (4 if short else item_bytes(value.dtype)))

    def run(self, program: _jax.Program, values: Sequence[Value]) -> list[Value]:
        """The outputs of a whole program from its inputs."""
        self.bodies.append(Body())
        return self._run(program, values, self.bodies[-1])[0]

    def _run(
        self, program: _jax.Program, values: Sequence[Value], body: Body
    ) -> tuple[list[Value], int]:
        """Outputs, and the most bytes of results alive at once, each dropped after its last use."""
        known: dict[Any, Value] = dict(zip(program.inputs, values, strict=True))
        known.update((v, _constant(v.aval)) for v in getattr(program.jaxpr, "constvars", ()))
        read = lambda atom: known[atom] if not _jax.is_literal(atom) else _constant(atom.aval)
        uses, alive, most = _jax.last_uses(program.jaxpr), 0, 0
        fused = _fused(program, uses)
        ends: dict[int, int] = {}
        for number, eqn in enumerate(program.jaxpr.eqns):
            found, inside = self._eqn(eqn, [read(atom) for atom in eqn.invars], body)
            made = 0
            inside = 0 if eqn.outvars and eqn.outvars[0] in fused else inside
            for out, value in zip(eqn.outvars, found, strict=True):
                known[out] = value
                size, end = 0 if out in fused else self.bytes(value), uses.get(out, number)
                ends[end] = ends.get(end, 0) + size
                made += size
            most = max(most, alive + max(made, inside))
            alive += made
            alive -= ends.pop(number, 0)
        return [read(atom) for atom in program.outputs], most

    def _eqn(self, eqn: Any, values: list[Value], body: Body) -> tuple[list[Value], int]:
        """Results of an equation, and the bytes alive inside the programs within it."""
        name, inner = eqn.primitive.name, list(_jax.programs(eqn))
        if name == "scan":
            return self._scan(eqn, inner[0], values, body)
        if name == "while":
            return self._while(eqn, values, body)
        if name == "cond":
            runs = [self._run(branch, values[1:], body) for branch in inner]
            return runs[0][0], max(peak for _, peak in runs)
        if inner and len(inner[0].inputs) == len(values):
            apart = name in REMAT and eqn.params.get("prevent_cse", True)
            if apart:
                body = Body()
                self.bodies.append(body)
            found, peak = self._run(inner[0], values, body)
            if name in REMAT:
                body.rematerialised = max(body.rematerialised, peak)
            return found, peak
        view = name in VIEWS and values and values[0].leaf is not None
        if name == "gather":  # each device looks up what it has of the rows, and they are exchanged
            values = [_computed(values[0]), *values[1:]]
        elif not view:
            values = [self._whole(value, body) for value in values]
        results = zip(eqn.outvars, cuts(eqn, values, self._mesh), strict=True)
        leaf = values[0].leaf if view else None
        kept = bool(view) and values[0].kept and name in LAYOUT
        free = all(value.free for value in values)
        return [Value(*form(out.aval), cut, leaf, kept, free) for out, cut in results], 0

    def _whole(self, value: Value, body: Body) -> Value:
        """A weight as a computation wants it: gathered along the axes that cut rows.

        Codes are decoded where they lie, and XLA then gathers the matrix, in 16 bits.
        """
        cut = self._gathered(value.cut)
        if value.leaf is None or cut == value.cut:
            return value
        moved = value
        if jnp.issubdtype(value.dtype, jnp.integer):
            moved = dataclasses.replace(value, dtype=jnp.dtype(jnp.bfloat16))
        size = max(body.gathered.get(value.leaf, 0), self.bytes(moved, gathered=True))
        body.gathered[value.leaf] = size
        return dataclasses.replace(value, cut=cut)

    def _scan(
        self, eqn: Any, program: _jax.Program, values: list[Value], body: Body
    ) -> tuple[list[Value], int]:
        consts, carried = _jax.scan_split(eqn)
        if not self._loops:
            self.widened.update(
                ((id(eqn), i) if value.leaf is None else value.leaf, self._copy(value))
                for i, value in enumerate(values[consts + carried :])
            )
        slices = [
            dataclasses.replace(value, shape=value.shape[1:], cut=value.cut[1:])
            for value in values[consts + carried :]
        ]
        carry = [_computed(value) for value in values[consts : consts + carried]]
        same = [self._whole(value, body) for value in values[:consts]]
        return self._loop(program, same, carry, slices, eqn)

    def _copy(self, value: Value) -> int:
        if not self._wide:
            return 0
        whole = dataclasses.replace(value, kept=False)
        if item_bytes(value.dtype) < 1:  # codes of four bits are copied to eight
            return self.bytes(dataclasses.replace(whole, dtype=jnp.dtype("uint8")))
        size = self.bytes(whole)
        return size if size > self.bytes(whole, stored=True) else 0

    def _while(self, eqn: Any, values: list[Value], body: Body) -> tuple[list[Value], int]:
        _, before, program, consts = _jax.while_parts(eqn)
        carry = [_computed(value) for value in values[before + consts :]]
        same = [self._whole(value, body) for value in values[before : before + consts]]
        return self._loop(program, same, carry, [], eqn)

    def _loop(
        self,
        program: _jax.Program,
        consts: list[Value],
        carry: list[Value],
        slices: list[Value],
        eqn: Any,
    ) -> tuple[list[Value], int]:
        """Outputs of a loop; its carry may be cut otherwise after a turn than it was before.

        Its constants are whole: what every turn reads is gathered once, before the loop.
        """
        before = len(self.bodies)
        self._loops += 1
        for _ in range(2):
            del self.bodies[before:]
            self.bodies.append(Body())
            found, peak = self._run(program, [*consts, *carry, *slices], self.bodies[-1])
            carry = [_computed(value) for value in found[: len(carry)]]
        self._loops -= 1
        stacked = [
            Value(*form(out.aval), ((), *value.cut))
            for out, value in zip(eqn.outvars[len(carry) :], found[len(carry) :], strict=True)
        ]
        return [*carry, *stacked], peak

    def _gathered(self, cut: Cut) -> Cut:
        return tuple(tuple(name for name in names if name not in self._rows) for names in cut)


def _fused(program: _jax.Program, uses: dict[Any, int]) -> set[Any]:
    """Results that are never stored; `uses` then says when what they are computed from is read."""
    readers: dict[Any, list[Any]] = {}
    for eqn in program.jaxpr.eqns:
        for atom in eqn.invars:
            if not _jax.is_literal(atom):
                readers.setdefault(atom, []).append(eqn)
    outputs = {atom for atom in program.outputs if not _jax.is_literal(atom)}
    fused: set[Any] = set()
    for eqn in reversed(program.jaxpr.eqns):
        out = eqn.outvars[0] if len(eqn.outvars) == 1 else None
        if out in outputs or not readers.get(out) or not _is_pointwise(eqn):
            continue
        inward = [_is_pointwise(e) or e.primitive.name.startswith("reduce_") for e in readers[out]]
        at_once = len(inward) == 1 or all(e.outvars[0] in fused for e in readers[out])
        if all(inward) and (at_once or eqn.primitive.name in CHEAP):
            fused.add(out)
            for atom in eqn.invars:
                if not _jax.is_literal(atom):
                    uses[atom] = max(uses[atom], uses[out])
    return fused


def _is_pointwise(eqn: Any) -> bool:
    if eqn.primitive.name in CALLS:
        inner = [e for program in _jax.programs(eqn) for e in program.jaxpr.eqns]
        return all(map(_is_pointwise, inner))
    return eqn.primitive.name in POINTWISE


def _computed(value: Value) -> Value:
    return dataclasses.replace(value, leaf=None, kept=False, free=False)


def _constant(aval: Any) -> Value:
    return dataclasses.replace(value_of(aval), free=True)
