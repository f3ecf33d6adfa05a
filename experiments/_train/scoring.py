"""What is measured on held-out data? The numbers of each task, and what answers are worth."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments._train.choices import Choices, likeliest
from lorax.data.batch import Batch
from lorax.data.example import Example
from lorax.evaluation import scores
from lorax.evaluation.examples import make_evaluate_examples
from lorax.evaluation.language import make_evaluate_language, told_of
from lorax.evaluation.rows import Rows, make_evaluate_rows
from lorax.parallel.layout import Layout, single

LANGUAGE = ("language", "completion")
"""Tasks whose model predicts tokens; the others say one thing of each example."""

METRICS = {"classification": ("accuracy",), "regression": ("pearson", "spearman")}
"""Where the data set does not say what it is scored by."""

ITEMS = "items"
"""Among the numbers of a held-out set, those of each of its rows."""

BY_ITEM = ("test", "retention")
"""The sets of which that is kept."""

Numbers = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Held:
    """One held-out set.

    Attributes:
      name: "validation", "test", "retention".
      examples: encoded, in the order of the batches.
      batches: all of it, the last one filled up.
      records: what was read.
      size: bytes of text that the targets stand for; None where that is not known.
      choices: where rows are answered by the name of a class.
    """

    name: str
    examples: Sequence[Example]
    batches: Sequence[Batch]
    records: Sequence[Mapping[str, Any]]
    size: int | None = None
    choices: Choices | None = None


Measure = Callable[[Held, Any, Any], Numbers]


def make_measure(
    task: str,
    apply: Callable[..., Any],
    metrics: Sequence[str],
    check: Callable[[], None],
    layout: Layout | None = None,
) -> Measure:
    """`measure(held, base, delta, items=False) -> {"validation/loss": ...}`, compiled once a shape
    of batch.

    With `items` there is "validation/items" too, where the rows have a number each: {"number":
    "loss", say, "sums": [...], "counts": [...]}, by which one row is compared with that of another
    model; the number itself is the sum of `sums` over that of `counts`.

    Args:
      task: of the config.
      apply: from `lorax.adapt`.
      metrics: of classification and regression, names of `lorax.evaluation.scores`.
      check: called between batches; what it raises ends the evaluation.
      layout: of base and delta; the rows of a batch are dealt to its devices where they divide.
    """
    layout, language = layout or single(), task in LANGUAGE
    make = _make_language if language else functools.partial(_make_answers, metrics=metrics)
    measured = make(_dealt(layout, apply, together=not language), check=check)
    by_row = make_evaluate_rows(_dealt(layout, apply, together=True)) if language else None

    def measure(held: Held, base: Any, delta: Any, *, items: bool = False) -> Numbers:
        if by_row is None or not (held.choices or items):
            found = measured(held, base, delta)
        elif held.choices:
            found = _of_choices(by_row, held, held.choices, base, delta, check)
        else:
            found = _of_rows(by_row(held.batches, base, delta, check=check), held.size)
        if not items:
            found.pop(ITEMS, None)
        return {f"{held.name}/{name}": value for name, value in found.items()}

    return measure


def numbers_of(task: str, metrics: Sequence[str], held: Held) -> list[str]:
    """The names of what `make_measure` tells of a held-out set."""
    if task not in LANGUAGE:
        return [f"{held.name}/{name}" for name in ("loss", *metrics)]
    sized = ("bits_per_byte",) if held.size and not held.choices else ()
    chosen = ("accuracy",) if held.choices else ()
    return [f"{held.name}/{name}" for name in ("loss", "perplexity", *sized, *chosen)]


def _make_language(apply: Callable[..., Any], check: Callable[[], None]) -> Measure:
    language = make_evaluate_language(apply)

    def numbers(held: Held, base: Any, delta: Any) -> Numbers:
        found = language(held.batches, base, delta, size=held.size, check=check)
        return {name: value for name, value in found.items() if name != "tokens"}

    return numbers


def _make_answers(
    apply: Callable[..., Any], check: Callable[[], None], metrics: Sequence[str]
) -> Measure:
    answers = make_evaluate_examples(apply)

    def numbers(held: Held, base: Any, delta: Any) -> Numbers:
        found = answers(held.batches, base, delta, check=check)
        named = scores.task_scores(metrics, found.predictions, found.labels)
        each = _items("accuracy", found.predictions == found.labels)
        return {"loss": found.loss, **named, **(each if "accuracy" in named else {})}

    return numbers


def _of_rows(found: Rows, size: int | None) -> Numbers:
    """What `make_evaluate_language` tells, and the rows."""
    told = told_of(float(found.nats.sum()), int(found.tokens.sum()), size)
    del told["tokens"]
    return {**told, **_items("loss", found.nats, found.tokens)}


def _of_choices(
    by_row: Callable[..., Rows], held: Held, choices: Choices, base: Any, delta: Any,
    check: Callable[[], None],
) -> Numbers:  # fmt: skip
    """How often the likeliest answer is right; loss and perplexity are of the right one."""
    found = [by_row(batches, base, delta, check=check) for batches in choices.batches]
    correct, nats = likeliest(np.stack([rows.nats for rows in found]), choices.right)
    counts = np.stack([rows.tokens for rows in found])
    tokens = int(np.take_along_axis(counts, choices.right[None], axis=0).sum())
    told = told_of(float(nats.sum()), tokens, None)
    del told["tokens"]
    return {**told, "accuracy": float(correct.mean()), **_items("accuracy", correct)}


def _items(of: str, sums: np.ndarray, counts: np.ndarray | None = None) -> Numbers:
    counts = np.ones(len(sums)) if counts is None else counts
    plain = [[round(float(x), 4) for x in part] for part in (sums, counts)]
    return {ITEMS: {"number": of, "sums": plain[0], "counts": plain[1]}}


def majority(train: Sequence[Example], held: Held, metrics: Sequence[str]) -> Numbers:
    """What the most frequent class of the training set scores on a held-out set."""
    most = scores.majority([int(example.targets) for example in train])
    labels = np.array([int(example.targets) for example in held.examples])
    found = scores.task_scores(metrics, np.full_like(labels, most), labels)
    return _prefixed(f"majority/{held.name}", found)


def forgotten(now: Mapping[str, float], frozen: Mapping[str, float]) -> Numbers:
    """How much the loss on the retention set rose above that of the frozen base."""
    name = "retention/loss"
    if name not in now or name not in frozen:
        return {}
    return {"retention/forgetting": now[name] - frozen[name]}


def _dealt(layout: Layout, apply: Callable[..., Any], together: bool) -> Callable[..., Any]:
    """`apply` with the rows of its inputs dealt to the devices, and of its outputs if `together`
    gathered, as a process can only read what it has."""
    mesh, rows = layout.mesh, layout.batches
    if mesh is None or rows is None:
        return apply
    parts = mesh.shape["data"] * mesh.shape["fsdp"]

    def dealt(base: Any, delta: Any, inputs: Any, **keywords: Any) -> Any:
        if inputs.shape[0] % parts == 0:
            inputs = jax.lax.with_sharding_constraint(inputs, rows)
        outputs = apply(base, delta, inputs, **keywords)
        if not together:
            return outputs
        return jax.lax.with_sharding_constraint(outputs, NamedSharding(mesh, PartitionSpec()))

    return dealt


def _prefixed(prefix: str, numbers: Mapping[str, float]) -> Numbers:
    return {f"{prefix}/{name}": float(value) for name, value in numbers.items()}
