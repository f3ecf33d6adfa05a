"""What came out? One table of all methods, from the `result` records of metrics.jsonl."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments._table import label, markdown

Record = Mapping[str, Any]

HEAD = (
    "method",
    "Python bits/byte",
    "English bits/byte",
    "trainable",
    "of base",
    "optimizer bytes",
    "adapter file bytes",
    "s/step",
)


def table(results: Sequence[Record]) -> str:
    """One row a method, the frozen base first."""
    base = results[0]
    return markdown([HEAD, *(_row(record, base) for record in results)])


def reading(results: Sequence[Record]) -> str:
    """What the table says, in two sentences for a newcomer; empty without both kinds of method."""
    base, full = results[0], next((r for r in results if r["run"] == "full"), None)
    adapted = [r for r in results[1:] if r["run"] != "full"]
    if full is None or not adapted:
        return ""
    best = min(adapted, key=lambda record: record["python"])
    gap = base["python"] - full["python"]
    if gap <= 0:
        return "Full fine-tuning did not improve on the base: train longer."
    share = (base["python"] - best["python"]) / gap
    less = full["optimizer_bytes"] / best["optimizer_bytes"]
    return (
        f"{label(best['run'])} gains {share:.0%} of what full fine-tuning gains on Python, with "
        f"{best['trainable'] / full['trainable']:.1%} of its trainable parameters and "
        f"{less:.1f} times less optimizer memory."
    )


def _row(record: Record, base: Record) -> tuple[str, ...]:
    if record is base:
        counts = ["0", "0 %", "0", "0", "-"]
        return (label("base"), _bits(base["python"]), _bits(base["english"]), *counts)
    numbers = [f"{record[key]:,}" for key in ("trainable", "optimizer_bytes", "adapter_bytes")]
    share = f"{100 * record['trainable'] / base['parameters']:.1f} %"
    return (
        label(record["run"]),
        _bits(record["python"], base["python"]),
        _bits(record["english"], base["english"]),
        numbers[0],
        share,
        *numbers[1:],
        f"{record['seconds_per_step']:.3f}",
    )


def _bits(bits: float, before: float | None = None) -> str:
    return f"{bits:.3f}" + ("" if before is None else f" ({bits - before:+.3f})")
