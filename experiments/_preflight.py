"""What would a run do, and would it fit? Everything that can be told without touching anything.

Prints the resolved config, what is adapted, how many parameters that is, the memory that training
would take and how long it would go on, all from shapes: a GPT-3 takes seconds.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

import lorax
from experiments._table import markdown
from lorax.analysis.memory import MemoryPlan, memory_plan
from lorax.core.report import Row, report

HEADS = r"(.*/)?(classifier|lm_head)/.*"
"""Leaves that belong to a task or a vocabulary: papers count without them."""

MEMORY = {
    "base": "base, frozen, as it is stored",
    "derived": "computed from the base beforehand",
    "delta": "delta, which learns",
    "gradients": "gradients of the delta",
    "optimizer": "state of the optimizer",
    "activations": "activations, for the backward pass",
    "logits": "and, as that begins, logits",
    "head": "  with weights outside of layers, gathered",
    "recomputed": "or, later, one layer computed again",
    "gathered": "  with its weights, gathered",
}
"""Fields of a `MemoryPlan`, as they are told."""

GATHERED = ("head", "gathered")
"""Those of them that there are on a mesh alone."""


@dataclasses.dataclass(frozen=True)
class Preflight:
    """A run that has not begun. Shapes (`jax.ShapeDtypeStruct`) do wherever arrays are named.

    Attributes:
      config, overrides: resolved, and what of it the command line changed, by dotted name.
      fn: the bare program of (params, *args).
      args: an example of its other arguments.
      loss: `loss(delta, base, batch, key)`, as it is trained.
      adapter, base: what is adapted, and how.
      batch: of one device, one part where gradients are accumulated.
      tx: the optimizer.
      steps: updates in all; None where that is not known.
      examples: of one epoch; None where that is not known.
      logits: shape of those that exist at once; None for none.
      model: that `fn` is the program of.
    """

    config: Any
    overrides: Mapping[str, Any]
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    loss: Callable[..., Any]
    adapter: lorax.Adapter
    base: Any
    batch: Any
    tx: Any
    steps: int | None
    examples: int | None = None
    logits: Any = None
    model: Any = None


def show(plan: Preflight) -> None:
    """Prints the whole of `text`, part by part, as soon as each is known.

    Raises:
      LoraxError: the adapter does not fit the model, in the words of `lorax.report`.
    """
    for part in text(plan):
        print(part, end="\n\n", flush=True)


def text(plan: Preflight) -> Iterator[str]:
    """The parts of what is shown: config, coverage, parameters, memory, length."""
    yield "Config (* overridden)\n\n" + config_lines(plan.config, plan.overrides)
    found = report(plan.fn, plan.adapter, plan.base, *plan.args)
    yield "Adapted\n\n" + _coverage(found.rows)
    also = tuple(plan.config.get("also_train", ()))
    yield "Parameters\n\n" + _parameters(found.rows, (HEADS, *also))
    apply = lorax.adapt(plan.fn, plan.adapter, on_fallback="allow")
    first = lambda base: apply.init(jax.random.key(0), base, *plan.args)
    delta = jax.eval_shape(first, plan.base)
    memory, where = _on_mesh(plan) or (
        memory_plan(
            plan.loss, plan.adapter, plan.base, delta, plan.batch, plan.tx,
            logits=plan.logits, accumulate=plan.config.train.accumulate,
        ),
        "each device",
    )  # fmt: skip
    yield f"Memory on {where}, at the height of a step (estimate)\n\n{_memory(memory)}"
    yield "Length\n\n" + _length(plan)


def _on_mesh(plan: Preflight) -> tuple[MemoryPlan, str] | None:
    """The memory of each device of the config's mesh, and which that are; None without one."""
    from experiments._plan import shapes  # which builds on this file

    lengths = shapes.sizes(plan.config)
    if plan.model is None or math.prod(lengths.values()) == 1:
        return None
    shape = " × ".join(f"{axis}={length}" for axis, length in lengths.items())
    planned = shapes.planned(plan, shapes.abstract_mesh(lengths))
    return planned.memory(), f"each of {math.prod(lengths.values())} devices ({shape})"


def config_lines(config: Any, overrides: Mapping[str, Any]) -> str:
    """One line a field, `name = value`; a star marks what the command line changed."""
    fields = list(_fields(config, ""))
    width = max(len(name) for name, _ in fields)
    return "\n".join(
        f"{'*' if name in overrides else ' '} {name.ljust(width)} = {value!r}"
        for name, value in fields
    )


def _fields(part: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(part, "items"):
        yield name, part
        return
    for field, value in part.items():
        yield from _fields(value, f"{name}.{field}" if name else field)


def _coverage(rows: Sequence[Row]) -> str:
    """The adapted leaves, one line a kind; what is frozen in a sentence."""
    head = ("leaf", "number", "shape", "rank", "trainable", "uses", "how")
    table = [head]
    for kind, members in _kinds(row for row in rows if row.how != "frozen").items():
        first = members[0]
        why = f" ({first.why})" if first.why else ""
        trainable = sum(row.trainable for row in members)
        table.append(
            (kind, str(len(members)), " × ".join(map(str, first.shape)),
             "-" if first.rank is None else str(first.rank), f"{trainable:,}", str(first.uses),
             first.how + why)
        )  # fmt: skip
    frozen = _kinds(row for row in rows if row.how == "frozen")
    leaves = [row for members in frozen.values() for row in members]
    size = sum(math.prod(row.shape) for row in leaves)
    if not leaves:
        return markdown(table) + "\n\nNothing is frozen."
    return (
        f"{markdown(table)}\n\nFrozen: {len(leaves)} leaves of {len(frozen)} kinds, {size:,} "
        f"parameters: {', '.join(kind.removeprefix('params/') for kind in frozen)}"
    )


def _kinds(rows: Any) -> dict[str, list[Row]]:
    """Rows by path with the number of the layer left out; other shapes or ranks are other kinds."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        kind = re.sub(r"layer_\d+", "layer_*", row.path)
        found.setdefault((kind, row.shape, row.rank, row.how, row.why), []).append(row)
    return {
        key[0] if len(members) > 1 else members[0].path: members for key, members in found.items()
    }


def _parameters(rows: Sequence[Row], heads: Sequence[str]) -> str:
    def counts(rows: Sequence[Row]) -> tuple[int, int]:
        return sum(row.trainable for row in rows), sum(math.prod(row.shape) for row in rows)

    plain = [row for row in rows if not any(re.fullmatch(head, row.path) for head in heads)]
    table = [("", "trainable", "total", "percent")]
    for label, group in (("all", rows), ("without heads", plain)):
        trainable, total = counts(group)
        percent = 100 * trainable / max(total, 1)
        table.append((label, f"{trainable:,}", f"{total:,}", f"{percent:.4f}"))
    return markdown(table)


def _memory(plan: MemoryPlan) -> str:
    table = [("part", "size")]
    shown = {name: label for name, label in MEMORY.items() if plan.gathered or name not in GATHERED}
    table += [(label, size(getattr(plan, name))) for name, label in shown.items()]
    table += [("in all, with the larger of the two", size(plan.total))]
    table += [("each checkpoint, on disk", size(plan.checkpoint))]
    return markdown(table)


def size(count: int) -> str:
    """Bytes in the unit that suits them, 1.5 GiB say."""
    number, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and len(units) > 1:
        number, units = number / 1024, units[1:]
    return f"{number:,.0f} B" if units[0] == "B" else f"{number:,.1f} {units[0]}"


def _length(plan: Preflight) -> str:
    config, inputs = plan.config, plan.batch.inputs
    table = [("", ""), ("updates", "not known" if plan.steps is None else f"{plan.steps:,}")]
    table += [("examples of an update", f"{config.train.batch:,}")]
    if jax.numpy.issubdtype(inputs.dtype, jax.numpy.integer):
        tokens = config.train.batch * config.data.length
        table += [("tokens of an update, at most", f"{tokens:,}")]
        if plan.steps is not None:
            table += [("tokens in all, at most", f"{tokens * plan.steps:,}")]
    if plan.examples is not None and plan.steps is not None:
        epochs = plan.steps * config.train.batch / max(plan.examples, 1)
        table += [("examples of an epoch", f"{plan.examples:,}"), ("epochs", f"{epochs:.2f}")]
    return markdown(table)
