"""What is learnt from, and what is held out? Records read and split, encoded, and put in order."""

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments._train.choices import as_completions, chosen, endless, make_choices
from experiments._train.model import IMAGES
from experiments._train.scoring import LANGUAGE, METRICS, Held
from lorax.core.errors import LoraxError, check_choice
from lorax.data.bucketing import Bucketed, buckets_up_to
from lorax.data.divide import divide
from lorax.data.encode import Encoded, encode
from lorax.data.example import Example
from lorax.data.glue import TASKS
from lorax.data.order import Order, Sequential, Shuffled
from lorax.data.packing import Packed
from lorax.data.pipeline import Pipeline
from lorax.data.read import Records, read
from lorax.data.shuffle import shuffle_labels, shuffle_pixels
from lorax.io.tokenizer import ByteTokenizer

PACKINGS = ("none", "pack", "bucket")


@dataclasses.dataclass(frozen=True)
class Read:
    """The records of every split, not yet encoded.

    Attributes:
      splits: "train", "validation", and "test" and "retention" where there are such.
      labels: names of the classes.
      metrics: what a classification or regression is scored by.
    """

    splits: Mapping[str, Records]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]

    def texts(self) -> Iterable[str]:
        """All text of the training records, for a tokenizer to learn from."""
        for row in self.splits["train"].rows:
            for field in ("text", "pair", "prompt", "response"):
                if row.get(field):
                    yield row[field]


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples to train on, in their order, and the held-out sets.

    Attributes:
      pipeline: of training batches, this process's rows.
      held: by name.
      notes: what a reader of the report should know: rows skipped, examples cut.
    """

    pipeline: Pipeline
    held: Mapping[str, Held]
    notes: tuple[str, ...]


def read_splits(config: Any) -> Read:
    """All records that `config.data` names.

    Raises:
      LoraxError: a file that is not there, a bad row, an empty split.
    """
    data = config.data
    train = _read(config, data.train, "train")
    splits = {"train": train}
    if data.validation or data.format == "toy":
        splits["validation"] = _read(config, data.validation, "validation", train.labels)
    else:
        splits |= _divided(config, train)
    if data.test:
        splits["test"] = _read(config, data.test, "test", train.labels)
    if data.limit:
        shorter = splits["train"].rows[: data.limit]
        splits["train"] = dataclasses.replace(splits["train"], rows=shorter)
    if data.retention:
        splits["retention"] = _retention(config)
    if data.shuffle:
        splits |= _shuffled(config, splits)
    metrics = METRICS.get(data.task, ())
    if data.format == "glue":
        metrics = TASKS[data.name].metrics
    return Read(splits, train.labels, metrics)


def labels_of(config: Any, found: Read) -> int | None:
    """Outputs of the model's head: classes, 1 for regression, None for a language model."""
    if config.data.task in LANGUAGE:
        return None
    return 1 if config.data.task == "regression" else len(found.labels)


def make_data(config: Any, found: Read, tokenizer: Any, rows: tuple[int, int] = (0, 1)) -> Data:
    """Examples and batches of every split.

    Args:
      config: of the run.
      found: what was read.
      tokenizer: of the model.
      rows: (index, count), which of so many equal blocks of a training batch is this process's.

    Raises:
      LoraxError: an example that is too long, or a batch that cannot be split over the processes.
    """
    data = config.data
    check_choice("config.data.packing", data.packing, PACKINGS)
    encoded = {
        name: _encode(config, name, split.rows, tokenizer) for name, split in found.splits.items()
    }
    order = _order(config, encoded["train"].examples)
    pad = getattr(tokenizer, "pad", None) or 0
    pipeline = Pipeline(
        encoded["train"].examples, order, pad=pad,
        process=rows, workers=data.workers,
    )  # fmt: skip
    held = {
        name: _held(config, name, encoded[name], found.splits[name], tokenizer, pad)
        for name in encoded
        if name != "train"
    }
    return Data(pipeline, held, tuple(_notes(found.splits, encoded, data.task)))


def reordered(data: Data, config: Any) -> Data:
    """The same examples in the order of another config, which differs in its seed alone."""
    pipeline = data.pipeline
    order = _order(config, pipeline.examples)
    if order == pipeline.order:
        return data
    return dataclasses.replace(data, pipeline=dataclasses.replace(pipeline, order=order))


def example_inputs(config: Any, found: Read | None) -> jax.ShapeDtypeStruct:
    """The form of one row of inputs, with a batch axis of 1."""
    if config.model.family in IMAGES and not config.model.source:
        shape = np.shape(found.splits["train"].rows[0]["image"]) if found else (28, 28)
        return jax.ShapeDtypeStruct((1, *shape), np.float32)
    return jax.ShapeDtypeStruct((1, config.data.length), np.int32)


def _read(config: Any, path: str, split: str, labels: Sequence[str] = ()) -> Records:
    data = config.data
    toy = data.format == "toy"
    if not path and not toy:
        raise LoraxError(
            f"config.data.{split} is empty: expected a path; set --config.data.{split}"
        )
    images = config.model.family in IMAGES and not config.model.source
    task = "classification" if chosen(config) else data.task
    with _fields():
        found = read(
            data.format, split if toy else path, task=task, columns=data.columns.to_dict(),
            labels=labels or _names(data.labels), name="images" if toy and images else data.name,
            template=data.template, on_bad_row=data.on_bad_row,
        )  # fmt: skip
    return as_completions(found, data.too_long) if chosen(config) else found


def _names(labels: Sequence[str]) -> tuple[str, ...]:
    """Names of classes; on a command line they may be one text with commas."""
    return tuple(name.strip() for label in labels for name in str(label).split(","))


def _divided(config: Any, whole: Records) -> dict[str, Records]:
    """The splits that are cut from `train`; none that has a file of its own."""
    shares = (*config.data.split, 0.0, 0.0)[:3]
    try:
        parts = divide(whole.rows, shares)
    except LoraxError as error:
        raise LoraxError(f"config.data.split={shares} of '{whole.source}': {error}") from None
    named = zip(("train", "validation", "test"), parts, strict=True)
    return {name: dataclasses.replace(whole, rows=rows) for name, rows in named if rows}


def _shuffled(config: Any, splits: Mapping[str, Records]) -> dict[str, Records]:
    """The splits that `config.data.shuffle` changes: all of their pixels, or labels of train."""
    data, train = config.data, splits["train"]
    with _fields():
        if data.shuffle == "pixels":
            rows = {name: shuffle_pixels(s.rows, data.shuffle_seed) for name, s in splits.items()}
        else:
            share, seed = data.shuffle_share, data.shuffle_seed
            rows = {"train": shuffle_labels(train.rows, len(train.labels), share, seed)}
    return {name: dataclasses.replace(splits[name], rows=found) for name, found in rows.items()}


def _retention(config: Any) -> Records:
    """Text of another kind, for what is forgotten."""
    data = config.data
    if data.task not in LANGUAGE:
        raise LoraxError(
            f"config.data.retention is '{data.retention}', but the task {data.task} predicts no "
            "text: leave it empty"
        )
    format = "python" if data.format == "python" else "text"
    found = read(format, data.retention, task="language")
    if config.pretrain.steps and data.retention == config.pretrain.train:
        # of the text that the base itself is made of, what it was not trained on
        _, *held_out = divide(found.rows, (*data.split, 0.0, 0.0)[:3])
        found = dataclasses.replace(found, rows=[row for part in held_out for row in part])
    if not data.retention_characters:
        return found
    text = "\n\n".join(row["text"] for row in found.rows)[: data.retention_characters]
    return dataclasses.replace(found, rows=[{"text": text, "where": data.retention}])


def _encode(config: Any, name: str, rows: Sequence[Any], tokenizer: Any) -> Encoded:
    data = config.data
    task = "language" if name == "retention" else data.task
    if task == "completion" and chosen(config):
        tokenizer = endless(tokenizer)
    with _fields():
        return encode(rows, tokenizer, task=task, length=data.length, too_long=data.too_long)


@contextlib.contextmanager
def _fields() -> Iterator[None]:
    """Where lorax.data complains of its arguments, they are told as fields of the config."""
    try:
        yield
    except LoraxError as error:
        names = "format|task|template|length|too_long|on_bad_row|shuffle|shuffle_share"
        pattern = rf"(^|(?<=set )|(?<=raise )|(?<=leave ))({names})\b"
        text = re.sub(pattern, r"config.data.\2", str(error))
        missing = re.search(r"there is no column '([^']*)'", text)
        if missing:
            text += f"; name the one that is meant in config.data.columns, not '{missing[1]}'"
        raise LoraxError(text) from None


def _order(config: Any, examples: Sequence[Example]) -> Order:
    data, batch, seed = config.data, config.train.batch, config.seed.data
    if examples[0].tokens.ndim > 1:
        return Shuffled(examples=len(examples), batch=batch, seed=seed)
    lengths = tuple(len(example.tokens) for example in examples)
    if data.packing == "pack":
        return Packed(lengths=lengths, batch=batch, tokens=data.length, seed=seed)
    if data.packing == "bucket":
        buckets = data.buckets or buckets_up_to(data.length)
        return Bucketed(lengths=lengths, batch=batch, buckets=buckets, seed=seed)
    return Shuffled(examples=len(examples), batch=batch, seed=seed, tokens=data.length)


def _held(
    config: Any, name: str, encoded: Encoded, split: Records, tokenizer: Any, pad: int
) -> Held:
    """Spread over all of it where `config.eval.limit` cuts it short."""
    examples, limit = encoded.examples, config.eval.limit
    rows, size = split.rows, encoded.bytes or None
    if limit and limit < len(examples):
        examples = [examples[i * len(examples) // limit] for i in range(limit)]
        rows, size = [rows[i * len(rows) // limit] for i in range(limit)], None
        if isinstance(tokenizer, ByteTokenizer) and tokenizer.eos is None:
            size = sum(int(example.mask.sum()) for example in examples)
    batched = lambda examples: _batches(config, examples, pad)
    choices = None
    if chosen(config) and name != "retention":
        whole = lambda rows: batched(_encode(config, name, rows, tokenizer).examples)
        choices = make_choices(rows, split.labels, whole)
    return Held(name, examples, batched(examples), split.rows, size, choices)


def _batches(config: Any, examples: Sequence[Example], pad: int) -> list[Any]:
    """All of them, in their order, the last batch filled up."""
    tokens = 0
    if examples[0].tokens.ndim == 1:
        longest = max(len(example.tokens) for example in examples)
        tokens = min(bound for bound in buckets_up_to(config.data.length) if bound >= longest)
    batch = config.eval.batch or config.train.batch
    order = Sequential(examples=len(examples), batch=batch, tokens=tokens)
    pipeline = Pipeline(examples, order, pad=pad)
    return [pipeline[step] for step in range(len(pipeline))]


def _notes(
    splits: Mapping[str, Records], encoded: Mapping[str, Encoded], task: str
) -> Iterable[str]:
    if task == "classification":
        labels = [int(example.targets) for example in encoded["train"].examples]
        names = enumerate(splits["train"].labels)
        counted = ", ".join(f"{i} is {name} ({labels.count(i):,})" for i, name in names)
        yield f"Classes, and how many train examples they have: {counted}"
    skipped = {split.source: split for split in splits.values() if split.skipped}
    for split in skipped.values():  # several splits may be cut from one file
        rows = "1 bad row" if split.skipped == 1 else f"{split.skipped} bad rows, the first"
        yield f"Left out {rows}: {split.first_skipped}"
    for name, split in splits.items():
        for what, count in (("cut", encoded[name].cut), ("skipped", encoded[name].skipped)):
            if count:
                yield f"{name}: {count} of {len(split.rows)} were too long and {what}"
