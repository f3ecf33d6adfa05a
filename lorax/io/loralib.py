"""How are the checkpoints of loralib, the LoRA paper's own code, read and written?

A flat table: `<module>.lora_A` (r, in) and `<module>.lora_B` (out, r), and trained tensors by their
names. No alpha and no dropout: they are given by hand. GPT-2's fused query, key and value is a
`MergedLinear`: k of its n parts are enabled, A (k r, in) and B (k out/n, r) hold a block for each,
and the update is that of rank k r whose B is block diagonal, at the same scale.
Source: github.com/microsoft/LoRA, loralib/layers.py and loralib/utils.py.
"""

import contextlib
import math
import os
import pathlib
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lorax.core.adapter import Adapter, Delta
from lorax.core.errors import LoraxError
from lorax.io.pairs import Pair, Parts, assemble
from lorax.io.parts import check_plain, take_apart
from lorax.io.peft_names import Tensor, matrices, tensor_table
from lorax.io.tensors import read_tensors, refuse_pickle

Path = str | os.PathLike[str]
Arrays = Mapping[str, np.ndarray]

_FUSED = "c_attn"  # the module that loralib splits by enable_lora
_DTYPES = ("float32", "float16", "float64")


def load_loralib(
    source: Arrays | Path,
    model: Any,
    *,
    alpha: float,
    enable: Sequence[bool] | None = None,
    dropout: float = 0.0,
) -> tuple[Adapter, Delta]:
    """The adapter in a checkpoint of loralib.

    Args:
      source: arrays by name, or an .npz or .safetensors file of them. A .pt file is a pickle and
        is refused; convert it with torch.
      model: the Linen module, or a `Pretrained`.
      alpha: of the training, LoRA's `lora_alpha`; the file does not say.
      enable: `enable_lora` of the fused projections of GPT-2, (True, False, True) for query and
        value; None where they have one joint pair.
      dropout: of the training; it matters only if that goes on.

    Returns:
      A `LoRA`, with `Full` and `BitFit` for heads and biases where the file holds any.

    Raises:
      LoraxError: an array is missing, not expected, of another shape or not finite.
    """
    model = getattr(model, "model", model)
    arrays = _arrays(source)
    table = tensor_table(model)
    weights = matrices(table)
    pairs = {}
    for module, tensor in weights.items():
        names = [f"{module}.lora_{side}" for side in "AB"]
        given = [name for name in names if name in arrays]
        if len(given) == 1:
            raise LoraxError(f"array '{given[0]}' stands alone: expected both of {names}")
        if given:
            a, b = (arrays[name] for name in names)
            pairs[module] = _pair(tensor, a, b, alpha, enable)
    whole = {name: arrays[name] for name in table if name in arrays}
    known = {f"{module}.lora_{side}" for module in pairs for side in "AB"} | set(whole)
    _check(table, weights, arrays, known)
    biases = {n for n in whole if n.endswith(".bias") and f"{n[:-5]}.weight" not in whole}
    parts = Parts(
        pairs,
        {name: array for name, array in whole.items() if name not in biases},
        {name: array for name, array in whole.items() if name in biases},
        rank=max((pair.rank for pair in pairs.values()), default=1),
        alpha=max((pair.alpha for pair in pairs.values()), default=alpha),
        dropout=dropout,
    )
    if not pairs:
        raise LoraxError("no array is named <module>.lora_A: expected a checkpoint of loralib")
    return assemble(table, parts)


def save_loralib(
    file: Path,
    adapter: Adapter,
    delta: Delta,
    model: Any,
    *,
    base: Any = None,
    enable: Sequence[bool] | None = None,
    overwrite: bool = False,
) -> float:
    """Writes `file`, an .npz that `load_loralib` reads, and returns the alpha to read it with.

    Args:
      file: must not exist, unless `overwrite`.
      adapter, delta, model, base: as for `lorax.io.peft.save`.
      enable: as for `load_loralib`: fused projections are written part by part.

    Raises:
      LoraxError: two scales, which one alpha cannot say; an update of a fused projection that is
        not made of blocks; a dtype that .npz lacks; or a file that cannot be written.
    """
    if hasattr(model, "model") and hasattr(model, "base"):
        model, base = model.model, model.base if base is None else base
    target = pathlib.Path(file)
    if target.exists() and not overwrite:
        raise LoraxError(f"'{target}' exists already: choose another, or pass overwrite=True")
    table = tensor_table(model)
    parts = take_apart(model, table, adapter, delta, base)
    check_plain(parts, "loralib")
    arrays, alphas = dict(parts.whole), {}
    for module, pair in parts.pairs.items():
        scale = pair.alpha / (math.sqrt(pair.rank) if parts.scaling == "rslora" else pair.rank)
        if enable is not None and _is_fused(module):
            pair = _contracted(module, pair, enable)
        alphas[module] = scale * pair.rank
        arrays |= {f"{module}.lora_A": pair.A, f"{module}.lora_B": pair.B}
        if enable is not None and _is_fused(module):
            alphas[module] /= sum(enable)
    distinct = set(alphas.values())
    if len(distinct) != 1:
        raise LoraxError(
            f"the modules have alpha {sorted(distinct)}: expected one for all, since loralib keeps "
            "it outside of the file; use lorax.io.peft"
        )
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise LoraxError(f"array '{name}' is {array.dtype}, which .npz lacks: cast to float32")
    _write(target, arrays)
    return distinct.pop()


def _is_fused(module: str) -> bool:
    return module.rpartition(".")[2] == _FUSED


def _pair(
    tensor: Tensor, a: np.ndarray, b: np.ndarray, alpha: float, enable: Sequence[bool] | None
) -> Pair:
    """The pair of one module, a fused one spread out to block-diagonal form."""
    fan_in, fan_out = tensor.sides
    module, fused = tensor.module, enable is not None and _is_fused(tensor.module)
    parts, enabled = (len(enable), sum(enable)) if fused and enable else (1, 1)
    rank = b.shape[1] if b.ndim == 2 else 0
    wanted = (enabled * rank, fan_in), (fan_out // parts * enabled, rank)
    if (a.shape, b.shape) != wanted or rank < 1 or fan_out % parts:
        hint = "pass enable=(True, False, True)" if _is_fused(module) and not fused else (
            "load the model that it was trained on"
        )  # fmt: skip
        raise LoraxError(
            f"'{module}' has lora_A {a.shape} and lora_B {b.shape}: expected (r, {fan_in}) and "
            f"({fan_out}, r){f' with enable={tuple(enable or ())}' if fused else ''}; {hint}"
        )
    if not fused or enable is None:
        return Pair(a, b, alpha)
    rows = fan_out // parts
    spread = np.zeros((fan_out, enabled * rank), b.dtype)
    for block, part in enumerate(np.flatnonzero(enable)):
        spread[part * rows : (part + 1) * rows, block * rank : (block + 1) * rank] = b[
            block * rows : (block + 1) * rows
        ]
    return Pair(a, spread, alpha * enabled)


def _contracted(module: str, pair: Pair, enable: Sequence[bool]) -> Pair:
    """The inverse of the spreading in `_pair`; A stays, B keeps its blocks. alpha is not used."""
    parts, enabled = len(enable), sum(enable)
    fan_out, rank = pair.B.shape[0], pair.rank // max(enabled, 1)
    rows, rest = fan_out // parts, pair.B.copy()
    blocks = []
    for block, part in enumerate(np.flatnonzero(enable)):
        where = slice(part * rows, (part + 1) * rows), slice(block * rank, (block + 1) * rank)
        blocks.append(pair.B[where])
        rest[where] = 0
    if not blocks or fan_out % parts or pair.rank % enabled or rest.any():
        raise LoraxError(
            f"the update of '{module}' is not made of {enabled} blocks of {parts} parts: expected "
            f"one trained with enable={tuple(enable)}; leave enable out to write it whole"
        )
    return Pair(pair.A, np.concatenate(blocks), pair.alpha)


def _check(
    table: Mapping[str, Tensor], weights: Mapping[str, Tensor], arrays: Arrays, known: set[str]
) -> None:
    for name, array in arrays.items():
        if name not in known:
            raise LoraxError(
                f"array '{name}' is not expected: the model has {len(weights)} matrices "
                f"({next(iter(weights))}, …) for lora_A and lora_B; load the model that it was "
                "trained on"
            )
        if array.dtype.name not in _DTYPES or not np.isfinite(array).all():
            raise LoraxError(f"array '{name}' ({array.dtype}): expected finite floating numbers")
        if name in table and array.shape != table[name].shape:
            raise LoraxError(
                f"array '{name}' has shape {array.shape}: expected {table[name].shape}; load the "
                "model that it was trained on"
            )


def _arrays(source: Arrays | Path) -> dict[str, np.ndarray]:
    if isinstance(source, Mapping):
        return {name: np.asarray(array) for name, array in source.items()}
    file = pathlib.Path(source)
    refuse_pickle(file)
    if file.suffix == ".safetensors":
        return read_tensors(file)
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error,
            NotImplementedError) as error:  # fmt: skip
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise LoraxError(f"cannot read '{file}' ({reason}): expected an .npz of arrays") from None


def _write(target: pathlib.Path, arrays: Arrays) -> None:
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.npz")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(target)
    except OSError as error:
        raise LoraxError(f"cannot write '{target}' ({error.strerror}): choose another") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
