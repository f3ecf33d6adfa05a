"""What does every page start from? The fields of a run, each with its meaning, and page arguments.

A page calls `defaults()`, changes fields and returns the config. Every field of a run is here, so
that each can be overridden on the command line: `--config.optimizer.learning_rate=1e-3`.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from lorax.core.errors import LoraxError

BASELINES = ("full", "bitfit")


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
                "dropout": 0.0,
            },
            "also_train": (),  # paths of leaves that are trained whole beside it: a fresh head
            "adapter_from": "",  # a saved adapter to start from, where paths and shapes agree
            "data": _data(),
            "train": {
                "batch": 16,  # examples of an update, over all processes and accumulated parts
                "accumulate": 1,  # equal parts in which a batch is computed one after the other
                "steps": 0,  # updates; 0 counts them from epochs
                "epochs": 1,
                "log_every": 10,
            },
            "optimizer": _optimizer(),
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
        "preset": "",  # of a fresh model: a published size, such as GPT2_MEDIUM
        "fields": {},  # of a fresh model: fields of its config that differ from the preset
        "tokenizer": "",  # empty: the one beside the model; bytes; a path; bpe:N learnt from data
        "dtype": "float32",  # of the computation
        "param_dtype": "",  # of the frozen parameters; empty: as stored
        "dropout": 0.0,  # of the model itself, in training
        "scan": False,  # all layers in one stacked tree
        "remat": False,  # recompute each layer in the backward pass
    }


def _data() -> dict:
    return {
        "task": "language",  # language, completion, classification or regression
        "format": "text",  # text, jsonl, csv, tsv, glue, e2e, instructions, mnist, python or toy
        "name": "",  # of a GLUE task
        "train": "",  # paths, names below LORAX_DATA, or hub:dataset/id:split; globs may be given
        "validation": "",  # empty: cut from the end of train
        "test": "",
        "retention": "",  # another held-out set, for what is forgotten
        "retention_characters": 0,  # of it, where it is text; 0 for all
        "split": (0.8, 0.1, 0.1),  # of train, where validation is empty
        "columns": {"text": "text", "pair": "", "label": "label", "prompt": "", "response": ""},
        "labels": (),  # names of classes, in order; empty: as the format or the data say
        "template": "alpaca",  # of instructions
        "length": 128,  # tokens of a row
        "too_long": "error",  # a longer example: error, cut or skip
        "packing": "none",  # none, pack (several examples a row) or bucket (rows of like length)
        "buckets": (),  # lengths of buckets; empty: powers of two up to length
        "on_bad_row": "error",  # or skip
        "limit": 0,  # examples of train, from its beginning; 0 for all
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


def _eval() -> dict:
    return {
        "every": 0,  # updates between evaluations; the last update has one too
        "batch": 0,  # 0: as in training
        "limit": 0,  # held-out examples; 0 for all
        "generate": 0,  # prompts continued at the end, and scored; -1 for all
        "beams": 1,
        "length_penalty": 1.0,
        "no_repeat_ngram": 0,
        "max_new_tokens": 64,
        "temperature": 0.0,
        "prompt": "",  # continued at the end of a run of the task language, for people to read
    }


def arguments(arg: str, known: Sequence[str]) -> set[str]:
    """The comma-separated words of a page's argument, `mrpc,bitfit,smoke` say.

    Raises:
      LoraxError: a word that the page does not know, naming those it does.
    """
    words = {word for word in arg.split(",") if word}
    for word in sorted(words - set(known)):
        raise LoraxError(
            f"config argument '{word}' is unknown: expected none, or some of {', '.join(known)}"
        )
    return words


def baseline(config: ConfigDict, words: set[str], rates: dict[str, float]) -> None:
    """Puts the baseline that `words` names in the adapter's place, with its own learning rate.

    Args:
      config: changed in place.
      words: of `arguments`.
      rates: the learning rate of each of `BASELINES`.
    """
    if "full" in words and "bitfit" in words:
        raise LoraxError("config arguments 'full' and 'bitfit' exclude each other: choose one")
    for name in BASELINES:
        if name in words:
            config.optimizer.learning_rate = rates[name]
    if "full" in words:
        config.adapter = ConfigDict({"adapter": "Full"})
        config.also_train = ()  # the head is part of it
    if "bitfit" in words:
        config.adapter = ConfigDict({"adapter": "BitFit"})
