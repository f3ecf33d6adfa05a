"""What is in a safetensors file? Strictly, and one tensor at a time; nothing is ever unpickled.

The `safetensors` library reads and writes. It maps a file, and mapped pages count as memory, so the
file is opened anew for every tensor: only one is mapped at a time.
Source: github.com/huggingface/safetensors, README, "Format".
"""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError
from lorax.io.regions import Region, slices, whole

Path = str | os.PathLike[str]

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(bool),
}

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CONVERT = (
    "nothing is unpickled here; convert it where you trust it: "
    'python -c "import transformers as t; d = {folder!r}; '
    "m = getattr(t, t.AutoConfig.from_pretrained(d).architectures[0]); "
    'm.from_pretrained(d).save_pretrained(d, safe_serialization=True)"'
)


class TensorInfo(NamedTuple):
    """The form of one tensor of a file."""

    dtype: np.dtype
    shape: tuple[int, ...]


class Source(NamedTuple):
    """A tensor still to be read or made: its form, and a function that returns it in its turn.

    Attributes:
      dtype, shape: of what `read()` returns.
      read: returns the array.
      file: where it lies, for messages.
      read_region: returns a region of the array and reads no more than that; None where all of it
        has to be read.
    """

    dtype: Any
    shape: tuple[int, ...]
    read: Callable[[], Any]
    file: str = ""
    read_region: Callable[[Region], Any] | None = None

    def part(self, area: Region) -> Any:
        """The numbers of a region; only these are read where that can be done."""
        if area == whole(self.shape):
            return self.read()
        return self.read()[slices(area)] if self.read_region is None else self.read_region(area)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """A safetensors file that was found sound; no file is kept open.

    Attributes:
      path: the file.
      tensors: what it holds, by name.
      metadata: strings by name, such as {"format": "pt"}.
    """

    path: pathlib.Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]

    def sources(self) -> dict[str, Source]:
        """Every tensor as a `Source`, to be read when it is needed."""
        return {
            name: Source(
                info.dtype, info.shape, partial(self.read, name), str(self.path),
                partial(self.read_region, name),
            )
            for name, info in self.tensors.items()
        }  # fmt: skip

    def read_region(self, name: str, area: Region) -> np.ndarray:
        """A region of the tensor `name`, a (start, stop) for each axis; no other bytes are read.

        Raises:
          LoraxError: the disk refuses.
        """
        with _opened(self.path) as file:
            return file.get_slice(name)[slices(area)]

    def read(
        self, name: str, shape: tuple[int, ...] | None = None, *, finite: bool = False
    ) -> np.ndarray:
        """The tensor `name`, in memory of its own, in the dtype of the file.

        Args:
          shape: what it must be; None takes any.
          finite: refuse NaN and infinity.

        Raises:
          LoraxError: no such tensor, another shape, not finite, or the disk refuses; the message
            names file and tensor.
        """
        info = self.tensors.get(name)
        if info is None:
            raise LoraxError(f"'{self.path}' lacks the tensor '{name}': expected it in this file")
        if shape is not None and info.shape != tuple(shape):
            raise LoraxError(
                f"'{self.path}': tensor '{name}' has shape {info.shape}, expected {tuple(shape)}: "
                "the file is of another model than the configuration says"
            )
        with _opened(self.path) as file:
            array = file.get_tensor(name)
        if finite and jnp.issubdtype(info.dtype, jnp.floating) and not np.isfinite(array).all():
            raise LoraxError(
                f"'{self.path}': tensor '{name}' holds NaN or infinity: expected finite numbers; "
                "take an earlier checkpoint"
            )
        return array


def open_tensors(path: Path) -> TensorFile:
    """Reads and checks the header of the safetensors file `path`; no tensor is read.

    Raises:
      LoraxError: the file is missing, pickled, truncated or damaged; the message names the file,
        and for a pickle the command that converts it.
    """
    path = pathlib.Path(path)
    refuse_pickle(path)
    tensors = {}
    with _opened(path) as file:
        for name in file.keys():
            form = file.get_slice(name)
            dtype, shape = form.get_dtype(), tuple(form.get_shape())
            if dtype not in _DTYPES:
                raise LoraxError(
                    f"'{path}': tensor '{name}' has dtype {dtype!r}: expected one of "
                    f"{', '.join(_DTYPES)}; save it in one of them"
                )
            tensors[name] = TensorInfo(_DTYPES[dtype], shape)
        return TensorFile(path, tensors, dict(file.metadata() or {}))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a small safetensors file, such as an adapter, by name; see `open_tensors`."""
    file = open_tensors(path)
    return {name: file.read(name) for name in file.tensors}


def write_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `tensors`, arrays of any memory order or `Source`s, as a safetensors file.

    All of them are on the host at once. `metadata` is {"format": "pt"} unless given, which is what
    transformers asks for. The file is flushed to disk; a failure leaves a part of it behind, so
    write beside and rename.

    Raises:
      LoraxError: a dtype that the format lacks, or a Source that returns another form.
      OSError: the disk refuses.
    """
    library = safetensors_for(path)
    arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
    try:
        library.numpy.save_file(arrays, path, dict(metadata or {"format": "pt"}))
    except library.SafetensorError as error:  # how the library tells of a disk that refuses
        raise OSError(str(error)) from None
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def refuse_pickle(path: pathlib.Path) -> None:
    """Raises LoraxError, with the command that converts it, for the name of a pickled file."""
    if path.suffix in _PICKLED:
        raise LoraxError(f"'{path}' is a pickle: {_CONVERT.format(folder=str(path.parent))}")


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """The library's handle on a file; whatever it finds wrong with it is one line."""
    library = safetensors_for(path)
    try:
        with library.safe_open(path, framework="numpy") as file:
            yield file
    except library.SafetensorError as error:
        raise _wrong(path, " ".join(str(error).split())) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise LoraxError(f"cannot read '{path}' ({reason}): check the path") from None


def safetensors_for(path: Path) -> Any:
    """The safetensors library, which `path` is read or written with.

    Raises:
      LoraxError: it is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise LoraxError(
            f"'{path}' needs the safetensors library: pip install 'lorax-flax[hf]'"
        ) from None
    return safetensors


def _array(name: str, tensor: Any) -> np.ndarray:
    if np.dtype(tensor.dtype) not in _DTYPES.values():
        raise LoraxError(
            f"tensor '{name}' is {np.dtype(tensor.dtype)}, which is not written: cast it to float32"
        )
    array = np.asarray(tensor.read() if isinstance(tensor, Source) else tensor)
    if (array.dtype, array.shape) != (np.dtype(tensor.dtype), tuple(tensor.shape)):
        raise LoraxError(
            f"tensor '{name}' is {array.dtype} of shape {array.shape}, announced was "
            f"{np.dtype(tensor.dtype)} of shape {tuple(tensor.shape)}: expected the same"
        )
    # safetensors 0.8 writes a transposed array as if it were not (its issue 825)
    return np.asarray(array, order="C")


def _wrong(path: pathlib.Path, reason: str) -> LoraxError:
    with open(path, "rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:] == b"{":
        return LoraxError(f"'{path}' is damaged ({reason[:160]}): download or save it again")
    return LoraxError(f"'{path}' is no safetensors file: {_what(head, path)}")


def _what(head: bytes, path: pathlib.Path) -> str:
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return "it is a pickle or a zip of pickles; " + _CONVERT.format(folder=str(path.parent))
    if head == b"version h":
        return "it is a Git LFS pointer; fetch the file itself with git lfs pull"
    return "it begins with neither a header length nor {; download it again"
