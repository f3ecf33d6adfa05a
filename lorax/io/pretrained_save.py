"""How does a model of ours become a Hugging Face directory? `save`."""

import errno
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lorax.core.additions import is_addition
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.paths import flatten, nearest
from lorax.io.assemble import with_fields
from lorax.io.atomic import new_directory
from lorax.io.hf_config import table_of
from lorax.io.hf_files import CONFIG, GENERATION, INDEX, SINGLE, TOKENIZER_FILES
from lorax.io.json_file import read_json
from lorax.io.names import Entry, entries, leaf_shapes, ties, turn
from lorax.io.place import place
from lorax.io.tensors import Source, safetensors_for, write_tensors
from lorax.io.tokenizer import PAIRS

Path = str | os.PathLike[str]

SHARD_BYTES = 5_000_000_000
"""Tensors go to several files beyond this size; one larger tensor is a file of its own."""


def save(
    directory: Path,
    model: Any,
    params: Mapping[str, Any],
    *,
    tokenizer_from: Any = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `params` so that transformers' `from_pretrained(directory)` and `load` read them.

    config.json and model.safetensors, or several files with an index; dtypes are kept. Written
    beside `directory` and renamed; the tensors of one file are on the host at once. A RoBERTa
    without a head is written without the pooler that theirs has:
    `RobertaModel.from_pretrained(…, add_pooling_layer=False)`.

    Args:
      directory: must not exist, unless `overwrite`.
      model: a Llama, GPT2 or Roberta, or the `Pretrained` that it came from.
      params: {"params": …} or what is below it, scanned or not whatever `model` says.
      tokenizer_from: a directory, or a `Pretrained`: its tokenizer and generation files are
        copied, ids of special tokens and names of labels kept. None takes them from `model` where
        that is a `Pretrained`; False copies nothing.
      overwrite: replace a directory that holds a config.json, or is empty; never any other.
      shard_bytes: the most that goes into one file.

    Raises:
      LoraxError: the parameters are not those of `model`, the directory is taken, the disk
        refuses, safetensors is not installed, or more than one process runs.
    """
    if jax.process_count() > 1:
        raise LoraxError(
            f"save runs in one of {jax.process_count()} processes: expected a single one; gather "
            "the parameters on one host and save them there"
        )
    safetensors_for(directory)
    by_default = tokenizer_from is None
    if hasattr(model, "model") and hasattr(model, "base"):
        tokenizer_from = model if by_default else tokenizer_from
        model = model.model
    elif not hasattr(model, "config"):
        raise LoraxTypeError(
            f"model is a {type(model).__name__}: expected the module or what pretrained.load "
            "returns; write save(directory, model, params)"
        )
    tensors, folder = _tensors(model, params), _folder(tokenizer_from, by_default)
    like = read_json(folder / CONFIG) if folder and (folder / CONFIG).is_file() else None
    table = table_of(model, _dtype(tensors), like)
    with new_directory(directory, CONFIG, overwrite=overwrite) as partial_folder:
        _check_space(partial_folder, tensors)
        _write(partial_folder, tensors, shard_bytes)
        for file in _beside(tokenizer_from, folder):
            shutil.copyfile(file, partial_folder / file.name)
        text = json.dumps(table, indent=2, sort_keys=True)
        (partial_folder / CONFIG).write_text(text + "\n", "utf-8")


def _tensors(model: Any, params: Mapping[str, Any]) -> dict[str, Source]:
    """What is written, by Hugging Face's names; nothing is copied yet."""
    if not isinstance(params, Mapping):
        raise LoraxTypeError(
            f"params is a {type(params).__name__}: expected {{'params': …}}, as model.init and "
            "adapter.merge return it"
        )
    leaves = flatten(params if "params" in params else {"params": params})
    stacked = any(path.startswith("params/layers/") for path in leaves)
    scanned = with_fields(model, scan=True)
    theirs = entries(with_fields(model, scan=stacked))
    shapes, tensors = leaf_shapes(scanned), {}
    _check_paths({entry.path for entry in theirs}, set(leaves))
    for entry, of_scanned in zip(theirs, entries(scanned), strict=True):
        leaf, shape = leaves[entry.path], shapes[of_scanned.path].shape
        shape = shape if stacked or of_scanned.layer is None else shape[1:]
        if tuple(leaf.shape) != shape:
            raise LoraxError(
                f"parameter '{entry.path}' has shape {tuple(leaf.shape)}, expected {shape}: it is "
                "of another model; pass the model that it belongs to"
            )
        tensors[entry.name] = _source(leaf, entry)
    # untied, the decoder's bias is a tensor of its own for them, and one vector for us
    for copy, path in ties(model).items():
        if not model.config.tied:
            entry = next(entry for entry in theirs if entry.path == path)
            tensors[copy] = tensors[entry.name]
    return tensors


def _source(leaf: Any, entry: Entry) -> Source:
    shape = tuple(leaf.shape) if entry.layer is None else tuple(leaf.shape)[1:]

    def read() -> np.ndarray:
        return turn(entry.kind, np.asarray(leaf if entry.layer is None else leaf[entry.layer]))

    return Source(leaf.dtype, shape[::-1] if entry.kind == "linear" else shape, read)


def _check_paths(wanted: set[str], found: set[str]) -> None:
    beside = sorted(path for path in found if is_addition(path))
    if beside:
        raise LoraxError(
            f"'{beside[0]}' stands beside the parameters, and a directory of Hugging Face's has no "
            "room for it: expected parameters alone; save the adapter, or by lorax.io.peft.save "
            "for PEFT"
        )
    for path in sorted(wanted ^ found):
        near = nearest(path, found if path in wanted else wanted, 1)
        raise LoraxError(
            f"params {'lack' if path in wanted else 'hold the unknown'} '{path}'"
            f"{f' (near: {near[0]!r})' if near else ''}: expected the parameters of this model; "
            "merge the delta first, and pass the model they belong to"
        )


def _folder(tokenizer_from: Any, by_default: bool) -> pathlib.Path | None:
    """The directory to copy from; None for none, and for a `Pretrained` of a single file."""
    if tokenizer_from is None or tokenizer_from is False:
        return None
    folder = getattr(tokenizer_from, "folder", tokenizer_from)
    if folder is None and tokenizer_from.tokenizer_file is None and not by_default:
        raise LoraxError(
            f"'{tokenizer_from.source}' is a single file, so its tokenizer has no files to copy: "
            "expected a directory or a model with a tokenizer beside it; leave tokenizer_from out"
        )
    if folder is None:
        return None
    folder = place(folder, "tokenizer_from")
    if not folder.is_dir():
        raise LoraxError(f"tokenizer_from is '{folder}': expected a directory; check the path")
    return folder


def _beside(tokenizer_from: Any, folder: pathlib.Path | None) -> list[pathlib.Path]:
    """The files that come along with the parameters: a tokenizer's, and how to generate."""
    if folder is None:
        file = getattr(tokenizer_from, "tokenizer_file", None)
        return [] if file is None else [file]
    pairs = [name for pair in PAIRS for name in pair]
    names = dict.fromkeys((*TOKENIZER_FILES, *pairs, GENERATION))
    files = [folder / name for name in names] + sorted(folder.glob("tok*.bin"))
    return [file for file in files if file.is_file()]


def _dtype(tensors: Mapping[str, Source]) -> np.dtype:
    sizes: dict[np.dtype, int] = {}
    for source in tensors.values():
        sizes[np.dtype(source.dtype)] = sizes.get(np.dtype(source.dtype), 0) + source.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _check_space(folder: pathlib.Path, tensors: Mapping[str, Source]) -> None:
    needed = sum(source.nbytes for source in tensors.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes needed, {free:,} free")


def _write(folder: pathlib.Path, tensors: Mapping[str, Source], shard_bytes: int) -> None:
    shards: list[dict[str, Source]] = [{}]
    room = shard_bytes
    for name, source in tensors.items():
        if shards[-1] and source.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = source
        room -= source.nbytes
    if len(shards) == 1:
        write_tensors(folder / SINGLE, tensors)
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / file, shard)
        where |= dict.fromkeys(shard, file)
    total = sum(source.nbytes for source in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
