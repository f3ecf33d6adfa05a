"""How does an adapter that PEFT saved become ours? Strictly: every tensor is expected and used.

The configuration says which modules have which tensors; the file must hold these and no others,
in these shapes. Source: github.com/huggingface/peft, version 0.21.
"""

import contextlib
import functools
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError, LoraxWarning
from lorax.io.names import turn
from lorax.io.pairs import Pair, Parts, Update, assemble
from lorax.io.parts import base_leaves
from lorax.io.peft_config import PROMPTS, TENSORS_NAME, PeftConfig, read_config
from lorax.io.peft_fields import short
from lorax.io.peft_file import AdapterFile
from lorax.io.peft_kinds import KINDS
from lorax.io.peft_names import (
    PREFIX,
    Tensor,
    canonical,
    check_patterns_used,
    completed,
    matching,
    matrices,
    saved_tensors,
    targeted,
    tensor_table,
    tied_partners,
)
from lorax.io.peft_prompt import load_prompt
from lorax.io.peft_slots import SHARED, Slot, ours, slots
from lorax.io.peft_vera import prepared, take_shared

Path = str | os.PathLike[str]


def load_peft(directory: Path, model: Any, *, base: Base | None = None) -> tuple[Adapter, Delta]:
    """See `lorax.io.peft.load`."""
    folder = pathlib.Path(directory)
    config = read_config(folder)
    with _telling(folder):
        if config.method in PROMPTS:
            return load_prompt(config, model, folder)
        return _Import(config, model, folder, base).result()


def prepare_peft(directory: Path, model: Any, base: Base) -> Base:
    """See `lorax.io.peft.prepare`."""
    folder = pathlib.Path(directory)
    config = read_config(folder)
    if config.method != "VERA":
        return base
    with _telling(folder):
        file = _Import(config, model, folder, base)
        return prepared(model, base, *file.result(), file.shared)


@contextlib.contextmanager
def _telling(folder: pathlib.Path) -> Iterator[None]:
    """Errors that name the file."""
    try:
        yield
    except LoraxError as error:
        known = str(folder) in str(error)
        raise LoraxError(str(error) if known else f"'{folder / TENSORS_NAME}': {error}") from None


class _Import:
    """One file while it is read; lives for a single call.

    Attributes:
      shared: VeRA's frozen A (in, r) and B (r, out), once `result` has been asked for.
    """

    shared: tuple[np.ndarray, np.ndarray]

    def __init__(self, config: PeftConfig, model: Any, folder: pathlib.Path, base: Base | None):
        self.config = config = completed(config, model)
        self.model, self.table = model, tensor_table(model)
        self.matrices = matrices(self.table)
        self.kind = KINDS[config.method]
        self.file = AdapterFile(folder, PREFIX, canonical, SHARED)
        self.base = base
        saved = saved_tensors(config, self.table)
        targets = targeted(config, model, self.matrices)
        if config.ensure_weight_tying:
            saved |= tied_partners(self.table, saved)
            adapted = tied_partners(self.table, [self.matrices[name].name for name in targets])
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
            {name: self._update(self.matrices[name]) for name in self.targets},
            {name: self.file.take(name, table[name].shape) for name in saved},
            {name: self.file.take(k, table[name].shape) for name, k in self._biases().items()},
            rank=config.r,
            alpha=config.lora_alpha,
            scaling="rslora" if config.use_rslora else "standard",
            dropout=config.lora_dropout,
            kind=self.kind.adapter,
            fields=self.kind.fields(config),
        )
        if config.method == "VERA":
            sides = [self.matrices[name].sides for name in self.targets]
            self.shared = take_shared(self.file, config.r, sides)
        self._check_second_copies(parts.whole)
        copies = self._base_copies()
        self.file.check_all_taken(self.model)
        result = assemble(table, parts)
        for tensor, array in copies:
            self._check_base_copy(tensor, array, f"{PREFIX}{tensor.module}.base_layer.weight")
        return result

    def _slots(self, tensor: Tensor) -> tuple[int, tuple[Slot, ...]]:
        """The rank of a module and its tensors.

        PEFT sorts overlapping patterns when it saves; the tensors tell which came first.
        """
        config = self.config
        ranks = matching(config.rank_pattern, tensor.module) or [config.r]
        found = [(rank, slots(config, tensor, rank)) for rank in ranks]
        fits = lambda slot: self.file.shape(slot.key) == slot.shape
        return next((own for own in found if all(map(fits, own[1]))), found[0])

    def _update(self, tensor: Tensor) -> Pair | Update:
        config, module = self.config, tensor.module
        alphas = matching(config.alpha_pattern, module) or [config.lora_alpha]
        if len(set(alphas)) > 1:
            warnings.warn(
                f"{len(alphas)} patterns of alpha_pattern match '{module}' and the first, "
                f"{alphas[0]}, is taken: PEFT loses their order when it saves; check its alpha",
                LoraxWarning,
                stacklevel=5,
            )
        rank, own = self._slots(tensor)
        arrays = {slot.name: self.file.take(slot.key, slot.shape) for slot in own}
        if config.method == "LORA":
            return Pair(arrays["A"], arrays["B"], alphas[0])
        arrays = ours(config.method, arrays, lambda: self._matrix(tensor))
        return Update(arrays, rank, alphas[0])

    @functools.cached_property
    def _stored(self) -> dict[str, Any]:
        return base_leaves(self.base, self.model)

    def _matrix(self, tensor: Tensor) -> np.ndarray:
        """The base's matrix of a module, in our orientation."""
        if self.base is None:
            raise LoraxError(
                f"{self.config.method} counts from the base: expected base=, or a Pretrained as "
                "model; pass the base that the adapter was trained on"
            )
        stored = np.asarray(self._stored[tensor.path])
        return stored if tensor.layer is None else stored[tensor.layer]

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

    def _check_lacking(self) -> None:
        own = [slot.key for name in self.targets for slot in self._slots(self.matrices[name])[1]]
        wanted = [*own, *sorted(self.saved), *self._biases().values()]
        lacking = [key for key in wanted if key not in self.file.keys]
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
        return [
            (tensor, self.file.take(key, tensor.shape))
            for key, tensor in keys.items()
            if key in self.file.keys
        ]

    def _check_base_copy(self, tensor: Tensor, array: np.ndarray, key: str) -> None:
        if self.base is None:
            warnings.warn(
                f"'{self.file.path}': tensor '{key}' is a copy of the base's own matrix and was "
                "held against nothing: pass base=, or a Pretrained as model",
                LoraxWarning,
                stacklevel=5,
            )
            return
        stored = np.asarray(self._stored[tensor.path])
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
        for key, stored_as in list(self.file.keys.items()):
            match = re.fullmatch(r"(.*\.)?(modules_to_save\.[^.]+|original_module)\.(.+)", key)
            name = f"{match[1] or ''}{match[3]}" if match else ""
            if match is None or name not in whole or not name.endswith(".bias"):
                continue
            tensor = self.table[name]
            array = self.file.take(key, tensor.shape)
            if match[2] != "original_module" and not np.array_equal(array, whole[name]):
                raise LoraxError(f"tensor '{stored_as}' differs from '{name}': expected a copy")
            if match[2] == "original_module" and self.base is not None:
                self._check_base_copy(tensor, array, stored_as)


def _short(value: Any) -> str:
    return short(list(value) if isinstance(value, tuple) else value)
