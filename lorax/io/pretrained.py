"""How do other people's models get here, and back? `load` and `save`.

A source is a Hugging Face directory or hub name, or a llama2.c checkpoint. Reading is strict: every
tensor of the model is in the file, in its shape, and nothing else is; nothing is ever unpickled.
"""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError, LoraxWarning, check_choice
from lorax.io.assemble import Each, Part, Placement, assemble, match, stored_dtype, with_fields
from lorax.io.checkpoint import JSON_NAME as OUR_ADAPTER
from lorax.io.classifier import drawn_parts, in_classifier, is_new
from lorax.io.hf_config import model_of
from lorax.io.hf_files import CONFIG, SINGLE, download, is_hub_name, tensors_of
from lorax.io.json_file import read_json
from lorax.io.llama2c import open_llama2c
from lorax.io.names import entries
from lorax.io.peft_config import CONFIG_NAME as PEFT_ADAPTER
from lorax.io.place import place
from lorax.io.pretrained_save import save as save
from lorax.io.tensors import refuse_pickle
from lorax.io.tokenizer import Tokenizer, load_tokenizer
from lorax.models.roberta_config import HEADS

UNTIED = ("params/lm_head/kernel", "params/lm_head/out/kernel")
"""The head of a model that is not tied: of Llama and GPT-2, of RoBERTa."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model of somebody else's, ready to be adapted.

    Attributes:
      model: a Llama, GPT2 or Roberta; ``model.apply(base, tokens)``.
      base: {"params": …}.
      tokenizer: None where there is none beside the model.
      config: of `model`.
      source: what `load` was given.
      commit: of the hub's repository, or None.
      folder: where its files lie, or None for a single file.
      tokenizer_file: of the tokenizer of a single file, or None.
      table: its config.json as read, with the ids of special tokens and the names of labels.
      drawn: paths of leaves that were not in the file but drawn from the key.
    """

    model: Any
    base: dict[str, Any] = dataclasses.field(repr=False)
    tokenizer: Tokenizer | None = dataclasses.field(repr=False)
    config: Any = dataclasses.field(repr=False)
    source: str
    commit: str | None = None
    folder: pathlib.Path | None = None
    table: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    drawn: tuple[str, ...] = ()
    tokenizer_file: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class _Found:
    """A model as it is stored: what `load` makes of a source before anything is changed."""

    model: Any
    parts: dict[str, Part]
    tokenizer: Tokenizer | None
    commit: str | None = None
    folder: pathlib.Path | None = None
    table: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer_file: pathlib.Path | None = None


def load(
    source: str | os.PathLike[str],
    *,
    dtype: Any = None,
    scan: bool = False,
    remat: bool | str = False,
    revision: str | None = None,
    sharding: Placement | None = None,
    each: Each | None = None,
    tied: bool | None = None,
    head: str | None = None,
    labels: int | None = None,
    dropout: float | None = None,
    key: jax.Array | None = None,
) -> Pretrained:
    """The model, its parameters and its tokenizer.

    Tensors are read one by one, cast and placed before the next leaf is begun: the host holds at
    most 1.3 times what the parameters take. Where `sharding` cuts a leaf, a host reads and holds
    one device's part of it at a time, and of a file of safetensors only what its devices need.

    Args:
      source: a directory with config.json and model.safetensors (or an index of several), a name
        "organisation/model" of the Hugging Face Hub, or a llama2.c `.bin` or `.bin.xz`.
      dtype: of parameters and computation; None keeps what is stored.
      scan: keep all layers in one stacked tree; see `LlamaConfig`.
      remat: what the backward pass computes again, True for whole layers; see `LlamaConfig`.
      revision: branch, tag or commit of a hub name.
      sharding: a `jax.sharding.Sharding` for all leaves, or a function of path and shape.
      each: (path, leaf) -> what takes the leaf's place as soon as it is read, before the next one
        is: `lorax.ops.quantize.quantizer("nf4")`, so that a dense base never is there at once.
      tied: False gives a tied model a head of its own, a copy of the embedding.
      head: for RoBERTa, "none", "classification" or "masked_lm"; None is what is stored. A
        classifier that the file lacks is drawn from `key`, with a warning; nothing else is.
      labels: how many classes a classifier has; 1 is regression.
      dropout: in place of the rate in config.json.
      key: for a classifier that has to be drawn.

    Raises:
      LoraxError: in one line, naming file and tensor or field: nothing there, a pickle, damage, a
        model that is not ours, an adapter instead of a model, or arguments that do not fit it.
      LoraxTypeError: `source` is no path.
    """
    path = place(source, "source", ", or a hub name such as 'openai-community/gpt2'")
    # as it was written but for a `~`: "./a/b" is a directory, "a/b" may be a hub name
    name = str(path) if os.fspath(source).startswith("~") else os.fspath(source)
    # hosts that load together also check together
    share = (0, 1) if sharding is None else (jax.process_index(), jax.process_count())
    found = _find(name, revision, dropout, share)
    if dropout is not None and not hasattr(found.model.config, "dropout"):
        raise LoraxError(f"dropout={dropout} for a model without dropout: leave it out")
    model = _wanted(found.model, tied=tied, head=head, labels=labels)
    parts = _parts(found.model, model, found.parts)
    kept = _float(stored_dtype(parts) if dtype is None else dtype)
    drawn = drawn_parts(found.model, model, kept, key)
    model = with_fields(model, scan=scan, remat=remat, dtype=kept.name, param_dtype=kept.name)
    stored = None if dtype is None else kept
    base = assemble(model, parts | drawn, dtype=stored, sharding=sharding, each=each)
    if drawn:
        warnings.warn(
            f"'{name}' has no classifier for {model.config.labels} labels: {', '.join(drawn)} are "
            "drawn from the key and must be trained",
            LoraxWarning,
            stacklevel=2,
        )
    return Pretrained(
        model, base, found.tokenizer, model.config, name, found.commit, found.folder, found.table,
        tuple(drawn), found.tokenizer_file,
    )  # fmt: skip


def _find(name: str, revision: str | None, dropout: float | None, share: tuple[int, int]) -> _Found:
    path = pathlib.Path(name)
    if revision is not None and path.exists():
        raise LoraxError(f"revision={revision!r} with files at '{name}': expected a hub name")
    if path.is_file():
        return _find_file(path, share)
    if path.is_dir():
        return _find_directory(path, None, dropout, share)
    if not is_hub_name(name):
        raise LoraxError(
            f"no model at '{name}': expected a directory, a llama2.c .bin, or a hub name such as "
            "openai-community/gpt2; check the path"
        )
    folder, commit = download(name, revision)
    return _find_directory(folder, commit, dropout, share)


def _find_directory(
    folder: pathlib.Path, commit: str | None, dropout: float | None, share: tuple[int, int]
) -> _Found:
    _refuse_adapter(folder)
    table, sources = read_json(folder / CONFIG), tensors_of(folder)
    try:
        model = model_of(table, dropout=dropout)
    except LoraxError as error:
        raise LoraxError(f"'{folder / CONFIG}': {error}") from None
    parts = match(model, sources, str(folder), share)
    return _Found(model, parts, load_tokenizer(folder), commit, folder, table)


def _refuse_adapter(folder: pathlib.Path) -> None:
    """An adapter's directory is not a model's; which model it belongs to is told."""
    if (folder / CONFIG).is_file():
        return
    if (folder / PEFT_ADAPTER).is_file():
        owner = read_json(folder / PEFT_ADAPTER).get("base_model_name_or_path") or "a model"
        raise LoraxError(
            f"'{folder}' is an adapter of {owner}: load that model, and the adapter with "
            "lorax.io.peft.load(directory, model)"
        )
    if (folder / OUR_ADAPTER).is_file():
        raise LoraxError(
            f"'{folder}' is an adapter: load its model, and the adapter with "
            "lorax.io.checkpoint.load_adapter(directory)"
        )


def _find_file(path: pathlib.Path, share: tuple[int, int]) -> _Found:
    if path.name.removesuffix(".xz").endswith(".bin"):
        model, sources = open_llama2c(path)
        named = (
            path.with_name(f"tok{model.config.vocab_size}.bin"),
            path.with_name("tokenizer.bin"),
        )
        beside = next((file for file in named if file.is_file()), None)
        tokenizer = None if beside is None else load_tokenizer(beside)
        parts = match(model, sources, str(path), share)
        return _Found(model, parts, tokenizer, tokenizer_file=beside)
    refuse_pickle(path)
    raise LoraxError(
        f"'{path}' is no model that can be read: expected its directory, with {CONFIG} and "
        f"{SINGLE}, or a llama2.c .bin"
    )


def _wanted(stored: Any, *, tied: bool | None, head: str | None, labels: int | None) -> Any:
    """The model that was asked for, which differs from the stored one in tie and head at most."""
    config = stored.config
    changes: dict[str, Any] = {}
    if tied is not None and tied != config.tied:
        if tied:
            raise LoraxError("tied=True, but the model has a head of its own: expected tied=False")
        changes["tied"] = False
    if (head is not None or labels is not None) and not hasattr(config, "head"):
        raise LoraxError(
            f"head and labels are for RoBERTa, this is a {type(stored).__name__}: leave them out"
        )
    if head is not None:
        check_choice("head", head, HEADS)
        changes["head"] = head
    if labels is not None:
        changes["labels"] = labels
    if labels is not None and changes.get("head", config.head) != "classification":
        raise LoraxError(f"labels={labels!r} without a classifier: pass head='classification'")
    try:
        return with_fields(stored, **changes)
    except ValueError as error:
        raise LoraxError(str(error)) from None


def _parts(stored: Any, model: Any, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Those of `parts` that `model` has, and the embedding once more where it is untied."""
    paths = {entry.path for entry in entries(with_fields(model, scan=False))}
    new = is_new(stored, model)
    kept = {path: parts[path] for path in paths & set(parts) if not (new and in_classifier(path))}
    for path in paths & set(UNTIED) - set(kept):
        kept[path] = Part(parts["params/embed/embedding"].source, "linear")
    return kept


def _float(dtype: Any) -> np.dtype:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    # eight bits are storage of quantised models, not something to compute in
    if found is None or not jnp.issubdtype(found, jnp.floating) or found.itemsize < 2:
        raise LoraxError(f"dtype is {dtype}: expected a floating one, such as dtype='bfloat16'")
    return found
