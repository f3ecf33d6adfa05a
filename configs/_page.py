"""What does every page start from? The fields of a run, each with its meaning.

A page calls `defaults()`, changes fields and returns the config. Every field of a run is here, so
that each can be overridden on the command line: `--config.optimizer.learning_rate=1e-3`.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import _study
from lorax.core.errors import LoraxError
from lorax.core.paths import nearest


def defaults() -> ConfigDict:
    """The config of `experiments.train` with a value in every field; empty text and 0 mean none."""
    return ConfigDict(
        {
            "seed": {
                "base": 0,  # weights of a fresh model, and of a fresh head
                "init": 0,  # the first draw of the adapter
                "data": 1,  # the order of examples
                "dropout": 2,
                "sample": 3,  # of generated text
            },
            "model": _model(),
            "adapter": {
                "adapter": "LoRA",
                "rank": 8,
                "alpha": 16.0,
                "where": ("all-linear",),  # or regular expressions of whole paths
                "exclude": (),
                "scaling": "standard",
                "initializer": "kaiming",
                "init_scale": 1.0,  # factor on the random numbers of the first draw
                "dropout": 0.0,
            },
            "also_train": (),  # paths of leaves that are trained whole beside it: a fresh head
            "adapter_from": "",  # a saved adapter to start from, where paths and shapes agree
            "data": _data(),
            "mesh": _mesh(),
            "train": {
                "batch": 16,  # examples of an update, over all processes and accumulated parts
                "accumulate": 1,  # equal parts in which a batch is computed one after the other
                "steps": 0,  # updates; 0 counts them from epochs
                "epochs": 1,
                "log_every": 10,
            },
            "optimizer": _optimizer(),
            "pretrain": _pretrain(),
            "eval": _eval(),
            "checkpoint": {
                "every": 100,  # updates between checkpoints; the last update has one too
                "keep": 2,  # newest ones kept
                "best": "",  # a number of the evaluation, "validation/loss" say, whose best is kept
                "mode": "min",  # what of it is best: min or max
            },
            "tensorboard": False,  # also write event files, for TensorBoard
            "plan_only": False,  # too large to be trained here: only --dry_run
        }
    )


def _model() -> dict:
    return {
        "source": "",  # a directory, a file, or a repository id; empty draws a fresh model
        "revision": "",
        "family": "llama",  # of a fresh model: llama, gpt2, roberta, mlp or lenet
        "preset": "",  # a published size, such as GPT2_MEDIUM: of a fresh model, and of a plan
        "fields": {},  # of a fresh model: fields of its config that differ from the preset
        # empty: the one beside the model; bytes, or bytes:special with bos, eos and pad; a path; or
        # bpe:N, learnt from the data
        "tokenizer": "",
        "dtype": "float32",  # of the computation
        "param_dtype": "",  # of the frozen parameters; empty: as stored
        "dropout": 0.0,  # of the model itself, in training
        "scan": False,  # all layers in one stacked tree
        # what the backward pass computes again: a policy of lorax.models.blocks, full say; empty:
        # nothing
        "remat": "",
        "quantize": "",  # of the frozen matrices: int8 or nf4; empty: as param_dtype says
        "quantize_block": 64,  # numbers that share a scale under nf4
    }


def _mesh() -> dict:
    """How many devices lie along each axis of the mesh; their product is how many there are."""
    return {
        "data": 0,  # parts of a batch; 0: all devices that are left
        "fsdp": 1,  # parts of a batch and of every frozen matrix, gathered layer by layer
        "tensor": 1,  # parts of every frozen matrix, each multiplied where it lies
        "replicate_below": 65536,  # numbers; A and B that are smaller lie whole everywhere
    }


def _data() -> dict:
    return {
        "task": "language",  # language, completion, classification or regression
        # text, jsonl, csv, tsv, glue, e2e, instructions, clinc, mnist, npz, digits, python or toy
        "format": "text",
        "name": "",  # of a GLUE task
        # paths, names below LORAX_DATA, or hub:dataset/id:split; globs may be given; of npz
        # file.npz:split, of clinc file.json:split, of digits: digits, of python: source or english
        "train": "",
        "validation": "",  # empty: cut from the end of train
        "test": "",
        "retention": "",  # another held-out set, for what is forgotten
        "retention_characters": 0,  # of it, where it is text; 0 for all
        "split": (0.8, 0.1, 0.1),  # of train, where validation is empty
        "columns": {"text": "text", "pair": "", "label": "label", "prompt": "", "response": ""},
        # names of classes, in order; empty: as the format or the data say; of a completion, what
        # it is chosen from
        "labels": (),
        "template": "alpaca",  # of instructions
        "length": 128,  # tokens of a row
        "too_long": "error",  # a longer example: error, cut or skip
        "packing": "none",  # none, pack (several examples a row) or bucket (rows of like length)
        "buckets": (),  # lengths of buckets; empty: powers of two up to length
        "on_bad_row": "error",  # or skip
        "limit": 0,  # examples of train, from its beginning; 0 for all
        "shuffle": "",  # pixels: in one order for all images; labels: those of train, at random
        "shuffle_share": 1.0,  # of the labels
        "shuffle_seed": 0,
        "workers": 0,  # processes that prepare batches; 0 for threads of this one
    }


def _optimizer() -> dict:
    return {
        "learning_rate": 1e-3,
        "schedule": "linear",  # linear, cosine or constant
        "warmup": 0,  # updates
        "warmup_ratio": 0.0,  # the same as a share of all updates
        "final": 0.0,  # rate at the end, as a share of the highest
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "clip": 1.0,  # global norm of the delta's gradient; 0 for no clipping
        "loraplus": 1.0,  # rate of B over rate of A
        "label_smoothing": 0.0,
        "chunk": 0,  # tokens whose logits exist at once; 0 for all
    }


def _pretrain() -> dict:
    """How a fresh model is trained whole before it is adapted; what is not here is as there."""
    return {
        "steps": 0,  # updates; 0 for none
        "batch": 16,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup": 0,
        "weight_decay": 0.0,
        "clip": 1.0,
        "format": "text",
        "train": "",
    }


def _eval() -> dict:
    return {
        "every": 0,  # updates between evaluations; the last update has one too
        "batch": 0,  # 0: as in training
        "limit": 0,  # held-out examples; 0 for all
        "by_item": False,  # also record the number of each item of test and of retention
        "generate": 0,  # prompts continued at the end, and scored; -1 for all
        "beams": 1,
        "length_penalty": 1.0,
        "no_repeat_ngram": 0,
        "max_new_tokens": 64,
        "temperature": 0.0,
        "prompt": "",  # continued at the end of a run of the task language, for people to read
    }


_FREE = ("adapter", "model.fields")
"""Parts whose fields depend on what is chosen there."""


def check(config: ConfigDict) -> None:
    """Finds in a page what `defaults()` does not have, what it lacks, and lists.

    A page may have a part `study` more, whose values are checked too.

    Raises:
      LoraxError: naming the field, and the cure.
    """
    known = defaults()
    if "study" in config:
        known.study = _study.study()
    _check_part(config, known, "")
    if "study" in config:
        _study.check(config.study)


def _check_part(part: Any, known: Any, name: str) -> None:
    if isinstance(part, list) or (
        isinstance(part, tuple) and any(isinstance(x, list) for x in part)
    ):
        raise LoraxError(
            f"config.{name} is {part!r}: expected tuples in place of lists, which the command line "
            f"cannot override; write {_tuples(part)!r}"
        )
    if not isinstance(part, ConfigDict):
        return
    free = name in _FREE
    fields = list(part if free else known)
    for field in [field for field in part if field not in fields]:
        near = nearest(field, fields, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise LoraxError(f"config.{_join(name, field)} is no field of a run{hint}")
    for field in [field for field in fields if field not in part]:
        raise LoraxError(
            f"config.{_join(name, field)} is missing: expected a page that begins with "
            "configs._page.defaults()"
        )
    for field in part:
        _check_part(part[field], None if free else known[field], _join(name, field))


def _join(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
