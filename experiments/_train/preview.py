"""What would a run do? `--dry_run`: shown from shapes, with nothing written and nothing drawn."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments._cli import Call
from experiments._preflight import Preflight
from experiments._preflight import show as show_preflight
from experiments._train import method
from experiments._train.data import Read, example_inputs, labels_of, read_splits
from experiments._train.model import make_subject, program, quantised
from experiments._train.scoring import LANGUAGE
from experiments._train.setting import check, make_setting, steps_of
from lorax.core.errors import LoraxError
from lorax.data import glue, source
from lorax.data.batch import Batch
from lorax.io.hf_files import is_hub_name


def show(call: Call) -> None:
    """Prints the preflight of a config.

    Raises:
      LoraxError: whatever of the config cannot be.
    """
    show_preflight(plan(call.config, call.overrides))


def plan(config: Any, overrides: Any) -> Preflight:
    """The preflight. Nothing is fetched: of a model on the hub the published size is planned.

    Raises:
      LoraxError: whatever of the config cannot be; a model on the hub of no known size.
    """
    check(config)
    if config.plan_only:
        return _planned(config, overrides, None)
    if config.model.source and isinstance(source.find_or_name(config.model.source), str):
        if not is_hub_name(config.model.source):
            raise LoraxError(
                f"no model at config.model.source='{config.model.source}': expected a directory, a "
                "llama2.c .bin, or a hub name such as openai-community/gpt2; check the path"
            )
        if not config.model.preset:
            raise LoraxError(
                f"config.model.source='{config.model.source}' is not here, and a dry run fetches "
                "nothing: give a directory, or the size of the model in config.model.preset"
            )
        print(
            f"Nothing is fetched: the shapes are those of {config.model.preset}, and texts are not "
            "counted in tokens.\n"
        )
        return _planned(config, overrides, _found(config))
    return _read(config, overrides)


def _found(config: Any) -> Read | None:
    """The data, if it is here; if not, what is missing is told and the plan goes on without."""
    try:
        return read_splits(config)
    except LoraxError as error:
        print(f"Without data, so that the length of the run is not known: {error}\n")
        return None


def _read(config: Any, overrides: Any) -> Preflight:
    setting = make_setting(config)
    pipeline = setting.data.pipeline
    longest = max(range(pipeline.steps_per_epoch), key=pipeline.order.length)  # of the buckets
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(_part(config, x.shape), x.dtype), pipeline[longest]
    )
    return Preflight(
        config, overrides, setting.fn, (setting.example,), setting.loss, setting.adapter,
        _stored(config, setting.subject.base), batch, setting.tx, setting.steps,
        len(pipeline.examples),
        _logits(config, setting.subject.model, batch), setting.subject.model,
    )  # fmt: skip


def _planned(config: Any, overrides: Any, found: Read | None) -> Preflight:
    """From the shapes of a published size, and the number of records where they are here."""
    labels = labels_of(config, found) if found else _labels(config)
    rows = len(found.splits["train"].rows) if found else 0
    steps = steps_of(config, -(-rows // config.train.batch))
    planned = ConfigDict(config.to_dict())
    planned.model.source = ""
    example = example_inputs(planned, None)
    subject = make_subject(planned, None, example, labels)
    adapter, fn = method.make_adapter(config), program(subject.model)
    batch = _batch(config, labels)
    return Preflight(
        config, overrides, fn, (example,), method.make_loss(config, fn, adapter), adapter,
        _stored(config, subject.base), batch,
        method.make_optimizer(config.optimizer, steps or config.optimizer.warmup + 1, adapter)[0],
        steps or None, rows or None, _logits(config, subject.model, batch), subject.model,
    )  # fmt: skip


def _stored(config: Any, base: Any) -> Any:
    """Shapes of a base as a run holds it, quantised where the config says so."""
    return jax.eval_shape(lambda base: quantised(config, base), base)


def _labels(config: Any) -> int | None:
    """As `labels_of`, where there is no data to count classes in."""
    data = config.data
    if data.task != "classification":
        return 1 if data.task == "regression" else None
    names = glue.TASKS[data.name].labels if data.format == "glue" else data.labels
    return len(names) or 2


def _batch(config: Any, labels: int | None) -> Batch:
    """The shapes of a batch of full rows of tokens."""
    rows = _part(config, (config.train.batch, config.data.length))
    tokens = jax.ShapeDtypeStruct(rows, np.int32)
    if labels is None:
        return Batch(tokens, tokens, jax.ShapeDtypeStruct(rows, bool))
    kind = np.float32 if config.data.task == "regression" else np.int32
    targets = jax.ShapeDtypeStruct(rows[:1], kind)
    return Batch(tokens, targets, jax.ShapeDtypeStruct(rows[:1], bool), segments=tokens)


def _part(config: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] // config.train.accumulate, *shape[1:])


def _logits(config: Any, model: Any, batch: Any) -> jax.ShapeDtypeStruct | None:
    if config.data.task not in LANGUAGE:
        return None
    rows, tokens = batch.inputs.shape
    count = min(rows * tokens, config.optimizer.chunk or rows * tokens)
    return jax.ShapeDtypeStruct((count, model.config.vocab_size), np.float32)
