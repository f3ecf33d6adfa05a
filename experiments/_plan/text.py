"""How does a plan read? Tables of bytes a device, one column a way of training."""

import dataclasses
from collections.abc import Mapping, Sequence

from experiments._plan.compiled import Compiled
from experiments._preflight import MEMORY, size
from experiments._table import markdown
from lorax.analysis.memory import MemoryPlan


def mesh_line(lengths: Mapping[str, int]) -> str:
    """The mesh and how many devices it has, in a line."""
    count = 1
    for length in lengths.values():
        count *= length
    shape = " × ".join(f"{axis}={length}" for axis, length in lengths.items())
    return f"{count} device{'s' * (count != 1)}: {shape}"


def plan_table(plans: Mapping[str, MemoryPlan]) -> str:
    """Bytes on each device at the height of a step, a column a plan.

    The base is what the step reads of it: nothing where everything is trained whole.
    """
    table = [("on each device", *plans)]
    for name, label in MEMORY.items():
        values = [getattr(_read(plan), name) for plan in plans.values()]
        if any(values):
            table.append((label, *(size(value) if value else "-" for value in values)))
    totals = [size(_read(plan).total) for plan in plans.values()]
    table.append(("in all, with the larger of the two", *totals))
    table.append(("each checkpoint, on disk", *(size(p.checkpoint) for p in plans.values())))
    return markdown(table)


def compiled_table(plan: MemoryPlan, found: Compiled, batch: int) -> str:
    """The plan beside what the compiler says of the real step.

    Args:
      plan: counted as XLA:CPU compiles.
      found: of the compiled step.
      batch: bytes of a batch on one device.
    """
    plan = _read(plan)
    stored = plan.base + plan.derived + plan.delta + plan.optimizer + batch
    total = plan.total + batch
    rows = (
        ("arguments", stored, found.arguments),
        ("outputs, less those that take an argument's place", 0, found.outputs - found.aliases),
        ("temporaries", total - stored, found.temporaries),
        ("in all", total, found.total),
    )
    table = [("on each device", "plan", "compiled", "plan is")]
    table += [(label, size(a), size(b), _difference(a, b)) for label, a, b in rows]
    return markdown(table)


def cpu_note(native: MemoryPlan, wide: MemoryPlan) -> str:
    """What of the compiled figures is particular to the CPU, in sentences."""
    told = [
        ("weights that a loop reads, copied wider before it", wide.copies),
        ("activations, converted before the backward pass reads them", wide.converted),
        ("weights of a layer in 32 bits, the largest twice", wide.gathered - native.gathered),
    ]
    named = "; ".join(f"{label}: {size(count)}" for label, count in told if count > 0)
    if not named:
        return "The plan is counted as XLA:CPU compiles, which changes nothing here."
    return (
        "XLA:CPU has no 16-bit arithmetic, lays gathered weights out anew, and the plan beside it "
        f"counts that too ({named}). Where products are 16-bit the same step takes "
        f"{size(_read(native).total)} a device, as in the table above."
    )


def claims_table(rows: Sequence[tuple[str, str, str, str]]) -> str:
    """What a paper claims beside what follows from the shapes, and below it each calculation.

    Args:
      rows: (what, claimed, derived, arithmetic), numbered here.
    """
    table = [("", "claimed", "derived")]
    table += [(f"{n}. {what}", said, found) for n, (what, said, found, _) in enumerate(rows, 1)]
    lines = [f"{n}. {arithmetic}" for n, (*_, arithmetic) in enumerate(rows, 1)]
    return markdown(table) + "\n\n" + "\n".join(lines)


def _read(plan: MemoryPlan) -> MemoryPlan:
    return dataclasses.replace(plan, base=plan.base - plan.unread, unread=0)


def _difference(planned: int, compiled: int) -> str:
    if not (planned and compiled):
        return "-"
    return f"{planned / compiled - 1:+.1%}"
