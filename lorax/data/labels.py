"""Which class, or which value, is a label? Names and numbers to integers, or to floats."""

import math
from collections.abc import Iterable, Iterator, Sequence

from lorax.data.rows import BadRows, Record


def classes(
    records: Iterable[Record], labels: Sequence[str], bad: BadRows
) -> tuple[list[Record], tuple[str, ...]]:
    """The records with labels as integers, and the names of the classes in order.

    Args:
      records: their `label` is text: a name, or a whole number; white space around it is no part.
      labels: the names of classes; a number counts them from 0, unless names are numbers. Empty:
        the distinct labels that there are, numbers by size, names by alphabet. Read held-out rows
        with the names that came of the training rows.
      bad: told of a label that is none of these; and, where `labels` is empty and the first label
        is a number, of one that is not.
    """
    found = list(records)
    if not labels:
        found, labels = _distinct(found, bad)
    numbers = {name: number for number, name in enumerate(labels)}
    if not any(map(_is_number, labels)):
        numbers |= {str(number): number for number in range(len(labels))}
    return list(_numbered(found, numbers, labels, bad)), tuple(labels)


def values(
    records: Iterable[Record], bad: BadRows, low: float = -math.inf, high: float = math.inf
) -> Iterator[Record]:
    """The records with labels as floats; `bad` is told of what is none from `low` to `high`."""
    span = f" from {low:g} to {high:g}" if math.isfinite(low + high) else ""
    for record in records:
        try:
            value = float(record["label"])
        except ValueError:
            value = math.nan
        # infinity is within the widest span, but no value
        if math.isfinite(value) and low <= value <= high:
            yield {**record, "label": value}
        else:
            bad.met(record["where"], f"label {record['label'].strip()!r} is no number{span}")


def _numbered(
    records: Iterable[Record], numbers: dict[str, int], labels: Sequence[str], bad: BadRows
) -> Iterator[Record]:
    for record in records:
        label = record["label"].strip()
        if label in numbers:
            yield {**record, "label": numbers[label]}
        else:
            more = f", ... ({len(labels)} classes)" if len(labels) > 9 else ""
            expected = ", ".join(labels[:9]) + more
            bad.met(record["where"], f"label {label!r} is unknown: expected one of {expected}")


def _distinct(records: list[Record], bad: BadRows) -> tuple[list[Record], list[str]]:
    """What is left of the records, and their labels in order."""
    if not (records and _is_number(records[0]["label"])):
        return records, sorted({record["label"].strip() for record in records})
    kept = []
    for record in records:
        if _is_number(record["label"]):
            kept.append(record)
        else:
            label = record["label"].strip()
            bad.met(record["where"], f"label {label!r} is no number, as the rows before have")
    return kept, sorted({record["label"].strip() for record in kept}, key=int)


def _is_number(label: str) -> bool:
    label = label.strip()
    return label.isascii() and label.removeprefix("-").isdigit()
