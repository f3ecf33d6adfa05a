"""What is measured on held-out data? The numbers of each task, and what answers are worth."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lorax.data.batch import Batch
from lorax.data.example import Example
from lorax.evaluation import scores
from lorax.evaluation.examples import make_evaluate_examples
from lorax.evaluation.language import make_evaluate_language
from lorax.parallel.layout import Layout, single

LANGUAGE = ("language", "completion")
"""Tasks whose model predicts tokens; the others say one thing of each example."""

METRICS = {"classification": ("accuracy",), "regression": ("pearson", "spearman")}
"""Where the data set does not say what it is scored by."""

Numbers = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Held:
    """One held-out set.

    Attributes:
      name: "validation", "test", "retention".
      examples: encoded, in the order of the batches.
      batches: all of it, the last one filled up.
      records: what was read.
      size: bytes of text that the targets stand for; None where that is not known.
    """

    name: str
    examples: Sequence[Example]
    batches: Sequence[Batch]
    records: Sequence[Mapping[str, Any]]
    size: int | None = None


Measure = Callable[[Held, Any, Any], Numbers]


def make_measure(
    task: str,
    apply: Callable[..., Any],
    metrics: Sequence[str],
    check: Callable[[], None],
    layout: Layout | None = None,
) -> Measure:
    """`measure(held, base, delta) -> {"validation/loss": ...}`, compiled once a shape of batch.

    Args:
      task: of the config.
      apply: from `lorax.adapt`.
      metrics: of classification and regression, names of `lorax.evaluation.scores`.
      check: called between batches; what it raises ends the evaluation.
      layout: of base and delta; the rows of a batch are dealt to its devices where they divide.
    """
    apply = _dealt(layout or single(), apply, together=task not in LANGUAGE)
    if task in LANGUAGE:
        language = make_evaluate_language(apply)

        def numbers(held: Held, base: Any, delta: Any) -> Numbers:
            found = language(held.batches, base, delta, size=held.size, check=check)
            return {name: value for name, value in found.items() if name != "tokens"}
    else:
        answers = make_evaluate_examples(apply)

        def numbers(held: Held, base: Any, delta: Any) -> Numbers:
            found = answers(held.batches, base, delta, check=check)
            named = scores.task_scores(metrics, found.predictions, found.labels)
            return {"loss": found.loss, **named}

    return lambda held, base, delta: _prefixed(held.name, numbers(held, base, delta))


def numbers_of(task: str, metrics: Sequence[str], held: Held) -> list[str]:
    """The names of what `make_measure` tells of a held-out set."""
    if task not in LANGUAGE:
        return [f"{held.name}/{name}" for name in ("loss", *metrics)]
    sized = ("bits_per_byte",) if held.size else ()
    return [f"{held.name}/{name}" for name in ("loss", "perplexity", *sized)]


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
