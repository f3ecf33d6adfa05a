"""How is a program evaluated on a frozen base and a delta? `adapt`.

The program is traced once with respect to the base, then its jaxpr is evaluated with implicit
leaves in place of the adapted ones: x W0 + s (x A) B, and A B is never formed.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, check_adapter, unprepared
from lorax.core.additions import is_addition, with_additions
from lorax.core.errors import LoraxError, check_choice
from lorax.core.evaluation import Evaluation
from lorax.core.implicit import Implicit, bare, dense, implicit, may_drop, rescaled
from lorax.core.leaf import LowRank, Rescaled, Shift
from lorax.core.packed import is_packed
from lorax.core.roles import roles
from lorax.core.trace import check_program, run_on, shapes_of

ENGINES = ("factored", "merged")
FALLBACKS = ("error", "warn", "allow")


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A program on (base, delta): what `adapt` returns."""

    fn: Callable[..., Any]
    adapter: Adapter
    engine: str
    on_fallback: str
    dropout_key: jax.Array | None

    def __post_init__(self) -> None:
        signature = _signature(self.fn)
        if signature is not None:
            object.__setattr__(self, "__signature__", signature)

    @property
    def __name__(self) -> str:
        """Named after the program, as profiles and error messages show it."""
        return f"adapted_{getattr(self.fn, '__name__', type(self.fn).__name__)}"

    def init(self, key: jax.Array, base: Base, *args: Any, **kwargs: Any) -> Delta:
        """A delta for this program: A and B of every adapted leaf, for which ΔW is exactly zero.

        Args:
          key: of the draw; each leaf's numbers depend on it and on the leaf's path only.
          base: the frozen parameters.
          *args, **kwargs: an example of the program's other arguments. Shapes suffice
            (`jax.ShapeDtypeStruct`): nothing is computed with them.

        Raises:
          LoraxError: an adapted leaf that the program never uses, or whose roles are ambiguous; an
            addition that it never reads.
          LoraxTypeError: `key` is no PRNG key.
        """
        paths.check_key(key)
        base, _ = unprepared(base)
        delta = self.adapter.init(key, base, roles(self.fn, base, *args, **kwargs))
        leaves = shapes_of(paths.flatten(base))
        added = lambda leaves: self.adapter.additions(paths.replace(base, leaves), delta)
        additions = jax.eval_shape(added, leaves)
        if additions:  # that the program reads them is found on the way
            roles(self.fn, with_additions(base, additions), *args, **kwargs)
        return delta

    def __call__(self, base: Base, delta: Delta, *args: Any, **kwargs: Any) -> Any:
        """What `fn(merge(base, delta), *args, **kwargs)` returns, without forming A B.

        Raises:
          LoraxError: the delta does not fit the base and the adapter.
        """
        if self.engine == "merged" and self.dropout_key is None:
            return self.fn(self.adapter.merge(base, delta), *args, **kwargs)
        leaves = self.adapter.leaves(base, delta)
        if self.engine == "merged":
            _refuse_dropout(leaves)
            return self.fn(self.adapter.merge(base, delta), *args, **kwargs)
        evaluation = Evaluation(self.on_fallback, self.dropout_key)
        params, _ = unprepared(base, self.adapter)
        params = with_additions(params, self.adapter.additions(base, delta))
        outputs = evaluate(evaluation, self.fn, params, leaves, args, kwargs)
        evaluation.warn()
        return outputs


def adapt(
    fn: Callable[..., Any],
    adapter: Adapter,
    *,
    engine: str = "factored",
    on_fallback: str = "warn",
    dropout_key: jax.Array | None = None,
) -> Adapted:
    """`fn` as a program on a frozen base and a delta.

    Args:
      fn: any JAX program whose first argument is a parameter tree: `model.apply`, a function of an
        `nnx.State` or of the arrays of an Equinox module, a plain function.
      adapter: what is adapted and how.
      engine: "factored", or "merged", which is `fn(adapter.merge(base, delta), ...)`, the
        definition that the factored engine is tested against.
      on_fallback: where an adapted leaf enters a primitive without a factored form it is merged
        there, exactly. "warn" says so, "allow" keeps quiet, "error" raises.
      dropout_key: turns on the adapter's dropout, whose masks depend on this key, the leaf's path
        and the layer; None (evaluation) turns it off.

    Returns:
      `adapted(base, delta, *args, **kwargs)`, with `adapted.init(key, base, *args, **kwargs)` for
      a first delta. Arguments after the delta are those of `fn`; Python values stay Python values.
      The base may be one of `lorax.quantize`: each matrix is formed for its products alone.

    Raises:
      LoraxTypeError, LoraxError: an argument is none of the above.
    """
    check_program(fn)
    check_adapter(adapter)
    if dropout_key is not None:
        paths.key_for(dropout_key, "")
    check_choice("engine", engine, ENGINES)
    check_choice("on_fallback", on_fallback, FALLBACKS)
    return Adapted(fn, adapter, engine, on_fallback, dropout_key)


def evaluate(
    evaluation: Evaluation,
    fn: Callable[..., Any],
    base: Base,
    leaves: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """`fn(base, *args, **kwargs)` with `leaves` in place of the base's own, on record in
    `evaluation`."""
    stored = paths.flatten(base)
    for path, leaf in leaves.items():
        if isinstance(leaf, Shift) and leaf.why:
            evaluation.whole(path, leaf.why)
    values = {path: _value(path, w, leaves.get(path)) for path, w in stored.items()}
    plain = not any(isinstance(value, Implicit) for value in values.values())
    if plain and not any(map(is_addition, stored)):
        return fn(paths.replace(base, values), *args, **kwargs)
    return run_on(evaluation, fn, base, stored, values, args, kwargs)


def _value(path: str, w: Any, leaf: Any) -> Any:
    """What stands in the place of the stored leaf `w`; `leaf` is what the adapter says of it."""
    if isinstance(leaf, LowRank):
        return implicit(path, w, leaf)
    if isinstance(leaf, Rescaled):
        return rescaled(path, w, leaf)
    if leaf is not None:
        return dense(path, w, leaf)
    return bare(path, w) if is_packed(w) else w


def _refuse_dropout(leaves: Mapping[str, Any]) -> None:
    for path, leaf in leaves.items():
        update = leaf.update if isinstance(leaf, Rescaled) else leaf
        if isinstance(update, LowRank) and may_drop(update.dropout):
            raise LoraxError(
                f"'{path}' has dropout {update.dropout} and engine='merged' has no input of A to "
                "mask: use engine='factored', or dropout_key=None"
            )


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    """(base, delta, ...) followed by the parameters of `fn` after its first."""
    try:
        own = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return None
    if not own or own[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return None
    kind = inspect.Parameter.POSITIONAL_ONLY
    first = [inspect.Parameter(name, kind) for name in ("base", "delta")]
    rest = [p for p in own[1:] if p.name not in ("base", "delta")]
    return inspect.Signature([*first, *rest])
