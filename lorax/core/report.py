"""What was adapted, and what fell back? A table with one row a base leaf."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from lorax.core import paths
from lorax.core.adapter import Adapter, Base, check_adapter, unprepared
from lorax.core.additions import with_additions
from lorax.core.engine import evaluate
from lorax.core.evaluation import Evaluation, Use, by_path
from lorax.core.leaf import LowRank, Rescaled, Roles, Shift
from lorax.core.roles import from_uses, watch
from lorax.core.trace import check_program, shapes_of, shapes_only


@dataclasses.dataclass(frozen=True)
class Row:
    """One leaf of the base.

    Attributes:
      path, shape, dtype: of the leaf.
      roles: of its axes.
      rank: of its update; None unless it is low-rank.
      trainable: numbers of the delta that belong to it.
      uses: products it takes part in (the body of a scan counts once), or places it enters.
      how: "frozen", "factored", "merged" (formed before use somewhere), "trained" (in place),
        "shared" (moved by numbers that belong to no leaf alone) or "added" (beside the base).
      why: what merged it, or a note.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    roles: Roles
    rank: int | None
    trainable: int
    uses: int
    how: str
    why: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The rows in the order of the base, and their sums; prints as a table.

    Attributes:
      rows: one a base leaf.
      trainable: numbers in the delta.
      total: numbers in the base.
    """

    rows: tuple[Row, ...]
    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trainable numbers as a share of the base's."""
        return self.trainable / max(self.total, 1)

    @property
    def merged(self) -> tuple[Row, ...]:
        """The adapted leaves that no primitive could use factored, at least once."""
        return tuple(row for row in self.rows if row.how == "merged")

    def __str__(self) -> str:
        head = ("path", "shape", "roles", "rank", "trainable", "uses", "how", "why")
        body = [
            (
                row.path,
                "×".join(map(str, row.shape)) or "scalar",
                _roles(row.roles),
                "" if row.rank is None else str(row.rank),
                f"{row.trainable:,}" if row.trainable else "",
                str(row.uses),
                row.how,
                row.why,
            )
            for row in self.rows
        ]
        adapted = sum(row.how != "frozen" for row in self.rows)
        return _table([head, *body]) + (
            f"\n{adapted} of {len(self.rows)} leaves adapted, {len(self.merged)} of them merged; "
            f"trainable {self.trainable:,} of {self.total:,} parameters ({100 * self.share:.4g} %)"
        )


def report(
    fn: Callable[..., Any], adapter: Adapter, base: Base, *args: Any, **kwargs: Any
) -> Report:
    """Which leaves `adapter` adapts in `fn`, how each is evaluated, and why any is merged.

    Args:
      fn, adapter: as for `lorax.adapt`.
      base: the frozen parameters, or their shapes.
      *args, **kwargs: an example of the other arguments; shapes suffice.

    Returns:
      A `Report`. Everything is traced abstractly: nothing is computed or allocated.

    Raises:
      LoraxError: as `adapted.init`.
    """
    check_program(fn)
    check_adapter(adapter)
    base, _ = unprepared(base)
    stored = paths.flatten(base)
    seen = by_path(watch(fn, base, args, kwargs).uses)
    roles = from_uses(base, seen)
    evaluation = Evaluation()
    abstract, put_back = shapes_only((args, dict(kwargs)))
    kept: dict[str, Any] = {}

    def program(leaves: Any, rest: Any) -> Any:
        full = paths.replace(base, leaves)
        delta = adapter.init(jax.random.key(0), full, roles)
        additions = adapter.additions(full, delta)
        kept.update(delta=delta, leaves=adapter.leaves(full, delta), additions=additions)
        full, (args, kwargs) = with_additions(full, additions), put_back(rest)
        return jax.tree.leaves(evaluate(evaluation, fn, full, kept["leaves"], args, kwargs))

    jax.eval_shape(program, shapes_of(stored), abstract)
    uses, sizes = by_path(evaluation.uses), _sizes(kept["delta"], stored)
    rows = [
        _row(p, leaf, roles[p], kept["leaves"].get(p), sizes.get(p, 0) * (p in kept["leaves"]),
             seen.get(p, []), uses.get(p, []))
        for p, leaf in stored.items()
    ]  # fmt: skip
    if kept["additions"]:
        added = shapes_of(kept["additions"])
        seen = by_path(watch(fn, with_additions(base, added), args, kwargs).uses)
        # a prompt is what learns; the prefix that a network makes is not
        own = _size(added) == sum(sizes.values()) or _size(added) == _size(kept["delta"])
        rows += [
            _added(path, leaf, leaf.size * own, seen.get(path, [])) for path, leaf in added.items()
        ]
    total = sum(math.prod(leaf.shape) for leaf in stored.values())
    return Report(tuple(rows), _size(kept["delta"]), total)


def _row(
    path: str,
    leaf: Any,
    roles: Roles,
    adapted: Any,
    trainable: int,
    seen: Sequence[Use],
    uses: Sequence[Use],
) -> Row:
    merges = [use.primitive for use in uses if use.merged]
    notes = [use.note for use in uses if use.note]
    rank, how = None, "frozen"
    if isinstance(adapted, LowRank | Rescaled):
        update = adapted.update if isinstance(adapted, Rescaled) else adapted
        rank = None if update is None else update.factors.rank
        how = "merged" if merges else "factored"
    elif isinstance(adapted, Shift):
        how = "merged" if adapted.why else "shared"
    elif adapted is not None:
        how = "trained" if trainable else "shared"
    why = ", ".join(dict.fromkeys([*merges, *notes])) or roles.why
    count = sum(use.is_product for use in seen) or len(seen)
    return Row(path, tuple(leaf.shape), str(leaf.dtype), roles, rank, trainable, count, how, why)


def _added(path: str, leaf: Any, trainable: int, seen: Sequence[Use]) -> Row:
    shape = tuple(leaf.shape)
    roles = Roles((), (), tuple(range(len(shape))), "other")
    return Row(path, shape, str(leaf.dtype), roles, None, trainable, len(seen), "added", "")


def _sizes(delta: Any, stored: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of the delta that stand under the path of a leaf, wherever in it that is."""
    found: dict[str, int] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(delta)[0]:
        names = (paths.path_of((key,)) for key in keys)
        path = next((name for name in names if name in stored), None)
        if path is not None:
            found[path] = found.get(path, 0) + leaf.size
    return found


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _roles(roles: Roles) -> str:
    if roles.kind in ("other", "unused", "ambiguous"):
        return roles.kind
    groups = (("stack", roles.stack), ("in", roles.inputs), ("out", roles.outputs))
    text = " ".join(f"{name}={','.join(map(str, axes))}" for name, axes in groups if axes)
    return text if roles.kind == "dot" else f"{roles.kind} {text}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
