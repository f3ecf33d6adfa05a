"""What does the tensor file of a PEFT adapter hold? Every tensor of it is to be taken once."""

import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from lorax.core.errors import LoraxError
from lorax.io.peft_config import TENSORS_NAME
from lorax.io.tensors import TensorFile, open_tensors

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; save_file({{k: v.clone() '
    "for k, v in torch.load('{old}', weights_only=True).items()}}, '{new}', {{'format': 'pt'}})\""
)
# What a key that is not expected may be, by a part of it.
_KINDS = {
    "lora_magnitude_vector": "DoRA's magnitudes, but use_dora is false",
    "lora_B.bias": "a bias on B (lora_bias), which is not read",
    "trainable_tokens": "replaced token rows, which are not read",
    "vera_A": "frozen matrices, but save_projection is false",
    "vera_B": "frozen matrices, but save_projection is false",
    "lora_": "a module that target_modules does not name, or that this model lacks",
}


class AdapterFile:
    """The tensors of one adapter while they are taken.

    Attributes:
      file: the open file.
      keys: the keys that were not taken yet, by their canonical form.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        prefix: str,
        canonical: Callable[[str], str],
        bare: Sequence[str] = (),
    ):
        """Opens the file in `folder`, which every key of it but the `bare` begins with `prefix`.

        Raises:
          LoraxError: no such file, one that is pickled or damaged, or a key that PEFT would pass
            over.
        """
        self.file = _open(folder)
        self.keys: dict[str, str] = {}
        for key in self.file.tensors:
            if not key.startswith(prefix) and key not in bare:
                raise LoraxError(
                    f"tensor '{key}' lacks the prefix '{prefix}': PEFT would ignore it in silence; "
                    "save the adapter with PeftModel.save_pretrained, or rename its tensors"
                )
            if canonical(key) in self.keys:
                first = self.keys[canonical(key)]
                raise LoraxError(f"tensors '{key}' and '{first}' are one: expected one")
            self.keys[canonical(key)] = key

    @property
    def path(self) -> pathlib.Path:
        """Of the file."""
        return self.file.path

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor by its canonical key, or None where there is none."""
        return self.file.tensors[self.keys[key]].shape if key in self.keys else None

    def take(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor of a canonical key, checked to be finite and of this shape; it counts as used.

        Raises:
          LoraxError: another shape, NaN or infinity, or a dtype that JAX does not hold.
        """
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

    def check_all_taken(self, model: object) -> None:
        """Raises LoraxError for a tensor that nothing expected."""
        for key in self.keys.values():
            kind = next((text for part, text in _KINDS.items() if part in key), "no part of it")
            raise LoraxError(
                f"tensor '{key}' is not expected by the configuration and this "
                f"{type(model).__name__}: {kind}; load the model that the adapter was trained on"
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
