"""Which leaves does an adapter of matrices change, and what is the matrix of each?"""

from collections.abc import Mapping
from typing import Any

from lorax.core import paths
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Learnt, Roles
from lorax.core.where import ALL_LINEAR, check_used


def targets(
    where: Any,
    exclude: tuple[str, ...],
    stored: Mapping[str, Any],
    roles: Mapping[str, Roles] | None,
) -> list[str]:
    """The paths that `where` selects and `exclude` does not, in the order of the base.

    Args:
      where: as `lorax.core.where.check_where` returns it.
      exclude: patterns.
      stored: the leaves of the base.
      roles: how the program uses each; needed for "all-linear".

    Raises:
      LoraxError: a pattern without a match, no leaf at all, one that the program never uses, or
        roles are needed.
    """
    if where != ALL_LINEAR:
        patterns = [w if isinstance(w, str) else w[0] for w in where]
        found = list(paths.select(patterns, stored))
    elif roles is None:
        raise LoraxError(
            "where='all-linear' needs to know how the program uses each leaf: call "
            "adapted.init(key, base, *example), or pass roles=lorax.roles(fn, base, *example)"
        )
    else:
        found = [path for path in stored if path in roles and _is_linear(roles[path])]
    left_out = paths.excluded(exclude, stored)
    chosen = [path for path in found if path not in left_out]
    if not chosen:
        left = f" and exclude={exclude!r} leaves none" if exclude else ""
        raise LoraxError(
            f"no leaf is adapted: where={where!r} selects {len(found)} of {len(stored)} "
            f"leaves{left}; widen where= (all-linear takes dots alone, no convolution and no "
            "lookup: name those by pattern)"
        )
    for path in chosen:
        check_used(path, roles)
    return chosen


def matrix_roles(
    path: str, leaf: Any, roles: Mapping[str, Roles] | None, wanted_by: str = "LoRA"
) -> Roles:
    """The roles that make a matrix, or a stack of them, of the leaf at `path`.

    Raises:
      LoraxError: a vector; more than two axes and nothing that tells them apart; or two uses
        that disagree.
    """
    known = (roles or {}).get(path)
    ndim = len(leaf.shape)
    if ndim < 2:
        raise LoraxError(
            f"'{path}' has shape {tuple(leaf.shape)}: {wanted_by} needs an input and an output "
            "axis; adapt vectors with BitFit or Full"
        )
    if known is None or (known.kind == "other" and ndim == 2):
        if ndim == 2:
            return Roles((), (0,), (1,))
        raise LoraxError(
            f"'{path}' has {ndim} axes and nothing says which are input and output: use "
            "adapted.init(key, base, *example), or pass roles={...: lorax.Roles(stack, inputs, "
            "outputs)}"
        )
    if known.kind in ("ambiguous", "other"):
        why = known.why or "no product contracts or looks up any of its axes"
        raise LoraxError(
            f"roles of '{path}' are ambiguous ({why}): say which with adapter.init(key, base, "
            f"roles={{..., '{path}': lorax.Roles(stack, inputs, outputs)}}), give an example input "
            "that reaches a single use, or exclude the leaf"
        )
    known.check(path, leaf.shape)
    return known


def check_learnt(
    path: str, value: Any, shapes: Mapping[str, tuple[int, ...]], wanted_by: str
) -> None:
    """Raises LoraxTypeError or LoraxError unless `value` is a `Learnt` of these shapes."""
    names = ", ".join(shapes)
    is_one = isinstance(value, Learnt) and all(map(paths.is_array, value.arrays.values()))
    if not is_one or set(value.arrays) != set(shapes):
        raise LoraxTypeError(
            f"delta at '{path}' is a {type(value).__name__}: expected a Learnt of {names}, as "
            f"{wanted_by}.init returns it; was it saved by another kind of adapter?"
        )
    for name, shape in shapes.items():
        found = tuple(value[name].shape)
        if found != tuple(shape):
            raise LoraxError(
                f"delta at '{path}' has {name} {found} but this {wanted_by} needs {tuple(shape)}: "
                "it was saved with another config or for another model; load its adapter.json"
            )


def _is_linear(roles: Roles) -> bool:
    # an ambiguous leaf counts, so that init refuses it instead of leaving it frozen in silence
    is_matrix = bool(roles.inputs) and bool(roles.outputs)
    return roles.kind == "ambiguous" or (roles.kind == "dot" and is_matrix)
