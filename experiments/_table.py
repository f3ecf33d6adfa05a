"""How does a table look? Markdown that also reads well as it is."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table, its first row the head; the first column is text, the others are numbers."""
    widths = [max(2, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *_right(row[1:], widths[1:])]) + " |"
        for row in rows
    ]
    rule = (
        "| " + "-" * widths[0] + " | " + " | ".join("-" * (w - 1) + ":" for w in widths[1:]) + " |"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def label(name: str) -> str:
    """A method's name for people: `lora_r4` is "LoRA r = 4"."""
    if name.startswith("lora_r") and name[6:].isdigit():
        return f"LoRA r = {name[6:]}"
    return {"base": "frozen base", "full": "full fine-tuning"}.get(name, name)


def _right(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
