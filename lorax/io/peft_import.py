"""How does an adapter that PEFT saved become ours? Strictly: every tensor is expected and used.

The configuration says which modules have which tensors; the file must hold these and no others,
in these shapes. Source: github.com/huggingface/peft, version 0.21.
"""

import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError, LoraxWarning
from lorax.io.names import turn
from lorax.io.pairs import Pair, Parts, assemble
from lorax.io.parts import base_leaves
from lorax.io.peft_config import TENSORS_NAME, PeftConfig, read_config
from lorax.io.peft_names import (
    PREFIX,
    Tensor,
    canonical,
    check_patterns_used,
    factor_keys,
    matching,
    matrices,
    saved_tensors,
    targeted,
    tensor_table,
    tied_partners,
)
from lorax.io.tensors import TensorFile, open_tensors

Path = str | os.PathLike[str]

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; save_file({{k: v.clone() '
    "for k, v in torch.load('{old}', weights_only=True).items()}}, '{new}', {{'format': 'pt'}})\""
)
# What a key that is not expected may be, by a part of it.
_KINDS = {
    "lora_magnitude_vector": "DoRA's magnitudes, which are not read",
    "lora_B.bias": "a bias on B (lora_bias), which is not read",
    "trainable_tokens": "replaced token rows, which are not read",
    "lora_": "a module that target_modules does not name, or that this model lacks",
}


def load_peft(directory: Path, model: Any, *, base: Base | None = None) -> tuple[Adapter, Delta]:
    """See `lorax.io.peft.load`."""
    folder = pathlib.Path(directory)
    config = read_config(folder)
    table = tensor_table(model)
    file = _open(folder)
    try:
        return _Import(config, model, table, file, base).result()
    except LoraxError as error:
        known = str(file.path) in str(error)
        raise LoraxError(str(error) if known else f"'{file.path}': {error}") from None


class _Import:
    """One file while it is read; lives for a single call.

    Attributes:
      keys: the file's keys by their canonical form; those that were used are taken out.
    """

    def __init__(
        self,
        config: PeftConfig,
        model: Any,
        table: Mapping[str, Tensor],
        file: TensorFile,
        base: Base | None,
    ):
        self.config, self.model, self.table, self.file, self.base = config, model, table, file, base
        self.matrices = matrices(table)
        self.keys = _keys(file)
        saved = saved_tensors(config, table)
        targets = targeted(config, model, self.matrices)
        if config.ensure_weight_tying:
            saved |= tied_partners(table, saved)
            adapted = tied_partners(table, [self.matrices[name].name for name in targets])
            targets = [name for name, t in self.matrices.items() if t.name in adapted]
        if not targets:
            raise LoraxError(
                f"target_modules {config.target_modules!r} names none of the {len(self.matrices)} "
                f"matrices of this {type(model).__name__} ({next(iter(self.matrices))}, …): "
                "expected the model that the adapter was trained on"
            )
        self.saved, self.targets = saved, targets

    def result(self) -> tuple[Adapter, Delta]:
        """The adapter and its delta."""
        config, table = self.config, self.table
        check_patterns_used("rank_pattern", config.rank_pattern, self.targets)
        check_patterns_used("alpha_pattern", config.alpha_pattern, self.targets)
        self._check_lacking()
        saved = [name for name in table if name in self.saved]
        parts = Parts(
            {name: self._pair(self.matrices[name]) for name in self.targets},
            {name: self._take(name, table[name].shape) for name in saved},
            {name: self._take(key, table[name].shape) for name, key in self._biases().items()},
            rank=config.r,
            alpha=config.lora_alpha,
            scaling="rslora" if config.use_rslora else "standard",
            dropout=config.lora_dropout,
        )
        self._check_second_copies(parts.whole)
        copies = self._base_copies()
        if self.keys:
            raise self._unexpected(next(iter(self.keys.values())))
        result = assemble(table, parts)
        for tensor, array in copies:
            self._check_base_copy(tensor, array, f"{PREFIX}{tensor.module}.base_layer.weight")
        return result

    def _pair(self, tensor: Tensor) -> Pair:
        module, config = tensor.module, self.config
        ranks = matching(config.rank_pattern, module) or [config.r]
        alphas = matching(config.alpha_pattern, module) or [config.lora_alpha]
        keys = factor_keys(tensor)
        # PEFT sorts overlapping patterns when it saves; the tensor tells which came first.
        own = self.file.tensors[self.keys[keys[0]]].shape[:1]
        rank = next((rank for rank in ranks if (rank,) == own), ranks[0])
        if len(set(alphas)) > 1:
            warnings.warn(
                f"{len(alphas)} patterns of alpha_pattern match '{module}' and the first, "
                f"{alphas[0]}, is taken: PEFT loses their order when it saves; check its alpha",
                LoraxWarning,
                stacklevel=5,
            )
        fan_in, fan_out = tensor.sides
        a, b = self._take(keys[0], (rank, fan_in)), self._take(keys[1], (fan_out, rank))
        return Pair(a, b, alphas[0])

    def _biases(self) -> dict[str, str]:
        """The trained biases outside of `saved`, each with its canonical key."""
        adapted = {f"{module}.bias": f"{module}.base_layer.bias" for module in self.targets}
        adapted = {name: key for name, key in adapted.items() if name in self.table}
        if self.config.bias == "none":
            return {}
        if self.config.bias == "lora_only":
            return adapted
        everywhere = {name: name for name in self.table if name.endswith(".bias")}
        return {k: v for k, v in (everywhere | adapted).items() if k not in self.saved}

    def _take(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor of a canonical key, checked; it counts as used."""
        name = self.keys.pop(key)
        array = self.file.read(name, shape, finite=True)
        if array.dtype.name not in _DTYPES:
            raise LoraxError(
                f"tensor '{name}' is {array.dtype}: expected one of {', '.join(_DTYPES)}; cast it"
            )
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            raise LoraxError(
                f"tensor '{name}' is float64, which JAX rounds to float32 here: set "
                "jax_enable_x64, or cast it to float32 where it was made"
            )
        return array

    def _check_lacking(self) -> None:
        wanted = [key for name in self.targets for key in factor_keys(self.matrices[name])]
        wanted += [*sorted(self.saved), *self._biases().values()]
        lacking = [key for key in wanted if key not in self.keys]
        if lacking:
            raise LoraxError(
                f"tensor '{PREFIX}{lacking[0]}' is missing, and {len(lacking) - 1} more: expected "
                f"it by the configuration (target_modules {_short(self.config.target_modules)}, "
                f"bias {self.config.bias!r}) and this {type(self.model).__name__}; load the model "
                "that the adapter was trained on, or save the adapter again"
            )

    def _base_copies(self) -> list[tuple[Tensor, np.ndarray]]:
        """Embeddings that PEFT saved together with the adapters on them."""
        keys = {f"{name}.base_layer.weight": self.matrices[name] for name in self.targets}
        return [(t, self._take(key, t.shape)) for key, t in keys.items() if key in self.keys]

    def _check_base_copy(self, tensor: Tensor, array: np.ndarray, key: str) -> None:
        if self.base is None:
            warnings.warn(
                f"'{self.file.path}': tensor '{key}' is a copy of the base's own matrix and was "
                "held against nothing: pass base=, or a Pretrained as model",
                LoraxWarning,
                stacklevel=5,
            )
            return
        stored = np.asarray(base_leaves(self.base, self.model)[tensor.path])
        stored = stored if tensor.tied else turn(tensor.kind, stored)
        dtype = min(array.dtype, stored.dtype, key=lambda dtype: dtype.itemsize)
        if not np.array_equal(array.astype(dtype), stored.astype(dtype)):
            raise LoraxError(
                f"tensor '{key}' differs from the base's '{tensor.path}': expected a copy of it; "
                "load the base that the adapter was trained on"
            )

    def _check_second_copies(self, whole: Mapping[str, np.ndarray]) -> None:
        """With bias="all" PEFT repeats the biases of whole modules under two more keys."""
        if self.config.bias != "all":
            return
        for key in list(self.keys):
            match = re.fullmatch(r"(.*\.)?(modules_to_save\.[^.]+|original_module)\.(.+)", key)
            name = f"{match[1] or ''}{match[3]}" if match else ""
            if match is None or name not in whole or not name.endswith(".bias"):
                continue
            stored_as, tensor = self.keys[key], self.table[name]
            array = self._take(key, tensor.shape)
            if match[2] != "original_module" and not np.array_equal(array, whole[name]):
                raise LoraxError(f"tensor '{stored_as}' differs from '{name}': expected a copy")
            if match[2] == "original_module" and self.base is not None:
                self._check_base_copy(tensor, array, stored_as)

    def _unexpected(self, key: str) -> LoraxError:
        kind = next((text for part, text in _KINDS.items() if part in key), "no part of it")
        return LoraxError(
            f"tensor '{key}' is not expected by the configuration and this "
            f"{type(self.model).__name__}: {kind}; load the model that the adapter was trained on"
        )


def _open(folder: pathlib.Path) -> TensorFile:
    file, pickled = folder / TENSORS_NAME, folder / "adapter_model.bin"
    if not file.is_file() and pickled.is_file():
        raise LoraxError(
            f"'{pickled}' is a pickle, which is never opened here: convert it where you trust it: "
            + _CONVERT.format(old=pickled, new=file)
        )
    if not file.is_file():
        raise LoraxError(f"'{file}' does not exist: expected a folder that PEFT wrote")
    return open_tensors(file)


def _keys(file: TensorFile) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in file.tensors:
        if not key.startswith(PREFIX):
            raise LoraxError(
                f"tensor '{key}' lacks the prefix '{PREFIX}': PEFT would ignore it in silence; "
                "save the adapter with PeftModel.save_pretrained, or rename its tensors"
            )
        if canonical(key) in found:
            raise LoraxError(f"tensors '{key}' and '{found[canonical(key)]}' are one: expected one")
        found[canonical(key)] = key
    return found


def _short(value: Any) -> str:
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
