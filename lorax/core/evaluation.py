"""What happens to each leaf while a program runs? One walk over a jaxpr with implicit values.

The same walk evaluates a program on W0, A and B, and, with bare leaves under abstract values,
finds out how a program uses its leaves.
"""

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from lorax.core import _jax, paths
from lorax.core.errors import LoraxError, LoraxWarning
from lorax.core.implicit import Implicit, Label, merged
from lorax.core.packed import Packed
from lorax.core.rules import RULES

Values = list[Any]
_NAMED = 4  # leaves in a warning


@dataclasses.dataclass(frozen=True)
class Use:
    """One place where a program uses a leaf.

    Attributes:
      path: of the leaf.
      primitive: name of the JAX primitive, "output" where the program returns the leaf.
      stack, inputs, outputs: stored axes in each role; all empty where there is no product.
      batched: those of `stack` that this product enumerates.
      dropped: stored axes that indexing removed before this use.
      merged: whether the leaf's value was formed here.
      note: anything to know beyond that.
    """

    path: str
    primitive: str
    stack: frozenset[int] = frozenset()
    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    batched: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    merged: bool = False
    note: str = ""

    @property
    def is_product(self) -> bool:
        """Whether the leaf met an operand here that it was multiplied with."""
        return bool(self.inputs or self.outputs)


class Evaluation:
    """One evaluation of one program, and the record of what it did. Lives for a single call.

    Args:
      on_fallback: "error", "warn" or "allow" where a leaf has to be merged.
      dropout_key: for the masks on the inputs of A, or None for no dropout.
    """

    def __init__(self, on_fallback: str = "allow", dropout_key: jax.Array | None = None):
        self.uses: dict[tuple[Any, ...], Use] = {}
        self.on_fallback = on_fallback
        self.dropout_key = dropout_key
        self._calls: list[int] = []  # the equations that enclose the present one
        self._iterations: list[jax.Array] = []  # of the scans that enclose it
        self._labels = itertools.count(1_000)

    @property
    def drops(self) -> bool:
        """Whether dropout is on."""
        return self.dropout_key is not None

    def fresh_label(self) -> Label:
        """A label that no axis has yet."""
        return next(self._labels)

    def evaluate(self, program: _jax.Program, values: Sequence[Any]) -> Values:
        """The program's outputs, implicit where a leaf comes out of it whole.

        Runs of equations that no implicit value enters are evaluated together.
        """
        env: dict[Any, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
        env.update(zip(program.inputs, values, strict=True))
        last = _jax.last_uses(program.jaxpr)
        waiting: list[_jax.Equation] = []

        def read(atom: Any) -> Any:
            return atom.val if _jax.is_literal(atom) else env[atom]

        def flush(now: int) -> None:
            if waiting:
                made = [v for eqn in waiting for v in eqn.outvars if last.get(v, -1) >= now]
                env.update(zip(made, _jax.run(waiting, made, read), strict=True))
                waiting.clear()

        for number, eqn in enumerate(program.jaxpr.eqns):
            if not any(_is_implicit(env, atom) for atom in eqn.invars):
                waiting.append(eqn)
                continue
            flush(number)
            outputs = self._apply(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outputs, strict=True))
        flush(len(program.jaxpr.eqns))
        return [read(atom) for atom in program.outputs]

    def concrete(self, program: _jax.Program, values: Sequence[Any]) -> Values:
        """As `evaluate`, with every output a plain array."""
        outputs = self.evaluate(program, values)
        return [self._merge(v, "output") if isinstance(v, Implicit) else v for v in outputs]

    def _apply(self, eqn: _jax.Equation, values: Values) -> Values:
        self._calls.append(id(eqn))
        try:
            rule = RULES.get(eqn.primitive.name)
            outputs = rule(self, eqn, values) if rule else None
            if outputs is None:
                for i in range(len(values)):
                    values = self.merge_operand(eqn, values, i)
                outputs = _jax.run_one(eqn, values)
            return outputs
        finally:
            self._calls.pop()

    def merge_operand(self, eqn: _jax.Equation, values: Values, i: int) -> Values:
        """`values` with operand `i` merged if it is implicit, and the merge on record."""
        if isinstance(values[i], Implicit):
            value = self._merge(values[i], eqn.primitive.name)
            values = [*values[:i], value, *values[i + 1 :]]
        return values

    def _merge(self, leaf: Implicit, primitive: str) -> jax.Array:
        if leaf.adapted and self.on_fallback == "error":
            raise LoraxError(
                f"'{leaf.path}' enters '{primitive}', which has no factored form, and "
                "on_fallback='error': leave the leaf out of where=, or allow the merge with "
                "on_fallback='warn'"
            )
        self.refuse_dropout(leaf, primitive)
        known = self._find(leaf.path)
        seen = known or Use(leaf.path, primitive)
        note = "formed from its codes" if isinstance(leaf.w, Packed) else seen.note
        is_adapted = leaf.adapted or seen.merged
        self._put(dataclasses.replace(seen, primitive=primitive, merged=is_adapted, note=note))
        return merged(leaf)

    def refuse_dropout(self, leaf: Implicit, at: Any) -> None:
        """Raises LoraxError if this leaf has dropout on: a merged weight has no input to mask."""
        if self.drops and leaf.drops and leaf.terms:
            name = at if isinstance(at, str) else at.primitive.name
            raise LoraxError(
                f"'{leaf.path}' is merged at '{name}' and has dropout {leaf.dropout}: dropout "
                "needs the factored form; leave the leaf out of where=, or set dropout=0"
            )

    def record(
        self,
        leaf: Implicit,
        eqn: _jax.Equation,
        *,
        stack: Iterable[int],
        inputs: Iterable[int],
        outputs: Iterable[int],
    ) -> None:
        """Notes a product of `leaf`, given the axes of its present view in each role."""

        def stored(axes: Iterable[int]) -> frozenset[int]:
            return frozenset().union(*(leaf.origins[axis] for axis in axes))

        self._put(
            Use(
                leaf.path,
                eqn.primitive.name,
                leaf.stack | stored(stack),
                stored(inputs),
                stored(outputs),
                stored(stack),
                leaf.dropped,
            )
        )

    def note(self, leaf: Implicit, eqn: _jax.Equation, text: str) -> None:
        """Notes something about the way `leaf` is evaluated at `eqn`."""
        self._put(Use(leaf.path, eqn.primitive.name, note=text))

    def _find(self, path: str) -> Use | None:
        return self.uses.get((path, *self._calls))

    def _put(self, use: Use) -> None:
        # keyed by the chain of equations, so that a body traced twice counts once and one
        # cached body called twice counts twice
        self.uses[(use.path, *self._calls)] = use

    @contextlib.contextmanager
    def iteration(self, number: Any) -> Iterator[None]:
        """Inside, dropout masks also depend on `number`, the count of the enclosing scan."""
        if number is not None:
            self._iterations.append(number)
        try:
            yield
        finally:
            if number is not None:
                self._iterations.pop()

    def seen(
        self, x: jax.Array, axes: Sequence[Label], contracted: Sequence[Label], leaf: Implicit
    ) -> jax.Array:
        """`x`, of which a product of `leaf` is about to contract some axes; for those who watch."""
        return x

    def whole(self, path: str, why: str) -> None:
        """Notes that the ΔW of a leaf was formed because of `why`, or refuses it.

        Raises:
          LoraxError: fallbacks are errors.
        """
        if self.on_fallback == "error":
            raise LoraxError(
                f"'{path}' has no factored form ({why}) and on_fallback='error': leave the leaf "
                "out of where=, or allow the merge with on_fallback='warn'"
            )
        self._put(Use(path, why, merged=True))

    def drop(self, x: jax.Array, leaf: Implicit, eqn: Any, shape: Any = None) -> jax.Array:
        """`x`, the input of A, with dropout applied if it is on.

        The mask depends on the key, the leaf's path, which of its uses this is, and the layer of
        every enclosing scan. A lookup has no features to mask: `shape` then names the tokens.
        """
        if self.dropout_key is None or not leaf.drops:
            return x
        places = [place for place in self.uses if place[0] == leaf.path]
        key = paths.key_for(self.dropout_key, leaf.path)
        key = jax.random.fold_in(key, places.index((leaf.path, *self._calls)))
        for number in self._iterations:
            key = jax.random.fold_in(key, number)
        keep = jax.random.bernoulli(key, 1.0 - leaf.dropout, x.shape if shape is None else shape)
        keep = keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim))
        return jax.numpy.where(keep, x / (1.0 - leaf.dropout), 0).astype(x.dtype)

    def warn(self) -> None:
        """One warning that names merged leaves, if `on_fallback` is "warn" and there are any."""
        merges = sorted({f"'{u.path}' ({u.primitive})" for u in self.uses.values() if u.merged})
        if merges and self.on_fallback == "warn":
            more = f" and {len(merges) - _NAMED} more" if len(merges) > _NAMED else ""
            warnings.warn(
                f"lorax merged {len(merges)} adapted leaves that cannot be used factored: "
                f"{', '.join(merges[:_NAMED])}{more}. The result is exact but slower; see "
                "lorax.report, or pass on_fallback='allow'",
                LoraxWarning,
                stacklevel=3,
            )


def by_path(uses: Mapping[tuple[Any, ...], Use]) -> dict[str, list[Use]]:
    """The uses of each leaf, in program order."""
    grouped: dict[str, list[Use]] = {}
    for use in uses.values():
        grouped.setdefault(use.path, []).append(use)
    return grouped


def _is_implicit(env: Mapping[Any, Any], atom: Any) -> bool:
    return not _jax.is_literal(atom) and isinstance(env.get(atom), Implicit)
