"""What is in a safetensors file? A strict reader, one tensor at a time, and a writer.

The format is eight bytes of header length, a JSON header, and the raw tensors. Tensors are read by
byte range into memory of their own: a mapped file would count as resident wherever it was touched.
Nothing is ever unpickled. Source: github.com/huggingface/safetensors, README, "Format".
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError

Path = str | os.PathLike[str]

HEADER_LIMIT = 100_000_000
"""Bytes of JSON header beyond which a file is refused; the format's own limit."""

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CONVERT = (
    "nothing is unpickled here; convert it where you trust it: "
    'python -c "import transformers as t; d = {folder!r}; '
    "m = getattr(t, t.AutoConfig.from_pretrained(d).architectures[0]); "
    'm.from_pretrained(d).save_pretrained(d, safe_serialization=True)"'
)


class TensorInfo(NamedTuple):
    """One tensor of a file: its dtype and shape, and its bytes, [start, stop) of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Source(NamedTuple):
    """A tensor still to be read or made: its form, and a function that returns it in its turn.

    Attributes:
      dtype, shape: of what `read()` returns.
      read: returns the array.
      file: where it lies, for messages.
    """

    dtype: Any
    shape: tuple[int, ...]
    read: Callable[[], Any]
    file: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been read and found sound; no file is kept open.

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
            name: Source(info.dtype, info.shape, partial(self.read, name), str(self.path))
            for name, info in self.tensors.items()
        }

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
        array = read_range(self.path, name, info)
        if finite and jnp.issubdtype(info.dtype, jnp.floating) and not np.isfinite(array).all():
            raise LoraxError(
                f"'{self.path}': tensor '{name}' holds NaN or infinity: expected finite numbers; "
                "take an earlier checkpoint"
            )
        return array


def open_tensors(path: Path) -> TensorFile:
    """Reads and checks the header of the safetensors file `path`; no tensor is read.

    Checked: the header's length, its JSON (no name twice), each entry's dtype, shape and byte
    range, and that the ranges cover the rest of the file once, without gap or overlap.

    Raises:
      LoraxError: the file is missing, pickled, truncated or damaged; the message names the file,
        and for a pickle the command that converts it.
    """
    path = pathlib.Path(path)
    refuse_pickle(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(9)
            if len(head) < 9 or head[8:] != b"{":
                raise LoraxError(f"'{path}' is no safetensors file: {_what(head, path)}")
            length = int.from_bytes(head[:8], "little")
            if length > HEADER_LIMIT or 8 + length > size:
                raise _damaged(path, f"its header would take {length} of {size} bytes")
            text = b"{" + file.read(length - 1)
    except OSError as error:
        raise LoraxError(f"cannot read '{path}' ({error.strerror}): check the path") from None
    header = _parse(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "__metadata__ is no table of strings")
    tensors = {name: _info(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_cover(path, tensors, 8 + length, size)
    return TensorFile(path, tensors, metadata)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a small safetensors file, such as an adapter, by name; see `open_tensors`."""
    file = open_tensors(path)
    return {name: file.read(name) for name in file.tensors}


def write_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `tensors`, arrays of any memory order or `Source`s, as a safetensors file.

    One tensor at a time is on the host. `metadata` is {"format": "pt"} unless given, which is what
    transformers asks for. The file is flushed to disk; a failure leaves a part of it behind, so
    write beside and rename.

    Raises:
      LoraxError: a dtype that the format lacks, or a Source that returns another form.
      OSError: the disk refuses.
    """
    order = sorted(tensors, key=lambda name: (-np.dtype(tensors[name].dtype).itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    stop = 0
    for name in order:
        dtype, shape = np.dtype(tensors[name].dtype), tuple(tensors[name].shape)
        if dtype not in _NAMES:
            raise LoraxError(
                f"tensor '{name}' is {dtype}, which safetensors lacks: cast it to float32"
            )
        start, stop = stop, stop + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": (start, stop)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_bytes(name, tensors[name]))
        file.flush()
        os.fsync(file.fileno())


def read_range(path: pathlib.Path, name: str, info: TensorInfo) -> np.ndarray:
    """The bytes `info` of `path` as an array in memory of its own; `name` is for messages."""
    data = np.empty(info.stop - info.start, np.uint8)
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(info.start)
            view, done = data.data, 0
            while done < len(view):  # one read returns at most 2 GiB
                count = file.readinto(view[done:])
                if not count:
                    raise _damaged(path, f"it ends inside the tensor '{name}'")
                done += count
    except OSError as error:
        raise LoraxError(f"cannot read '{path}' ({error.strerror}): check the disk") from None
    return data.view(info.dtype).reshape(info.shape)


def refuse_pickle(path: pathlib.Path) -> None:
    """Raises LoraxError, with the command that converts it, for the name of a pickled file."""
    if path.suffix in _PICKLED:
        raise LoraxError(f"'{path}' is a pickle: {_CONVERT.format(folder=str(path.parent))}")


def _bytes(name: str, tensor: Any) -> memoryview:
    array = np.asarray(tensor.read() if isinstance(tensor, Source) else tensor)
    if (array.dtype, array.shape) != (np.dtype(tensor.dtype), tuple(tensor.shape)):
        raise LoraxError(
            f"tensor '{name}' is {array.dtype} of shape {array.shape}, announced was "
            f"{np.dtype(tensor.dtype)} of shape {tuple(tensor.shape)}: expected the same"
        )
    # a transposed array must be laid out anew: the format knows row-major order alone
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _parse(path: pathlib.Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise ValueError("a name stands twice in its header")
        return table

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON: {str(error)[:100]}") from None


def _info(path: pathlib.Path, name: str, entry: Any, base: int) -> TensorInfo:
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"tensor '{name}' has no dtype, shape and data_offsets") from None
    numbers = [*shape, start, stop] if isinstance(shape, list) else [None]
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise _damaged(path, f"tensor '{name}' has shape {shape} and bytes {start} to {stop}")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise LoraxError(
            f"'{path}': tensor '{name}' has dtype {dtype!r}: expected one of {', '.join(_DTYPES)}; "
            "save it in one of them"
        )
    if stop - start != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise _damaged(path, f"tensor '{name}', {dtype} {shape}, has {stop - start} bytes")
    return TensorInfo(_DTYPES[dtype], tuple(shape), base + start, base + stop)


def _check_cover(path: pathlib.Path, tensors: Mapping[str, TensorInfo], at: int, size: int) -> None:
    for name, info in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if info.start != at:
            raise _damaged(path, f"tensor '{name}' begins at byte {info.start}, expected {at}")
        at = info.stop
    if at != size:
        raise _damaged(path, f"its tensors end at byte {at}, it has {size}")


def _what(head: bytes, path: pathlib.Path) -> str:
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return "it is a pickle or a zip of pickles; " + _CONVERT.format(folder=str(path.parent))
    if head == b"version h":
        return "it is a Git LFS pointer; fetch the file itself with git lfs pull"
    return "it begins with neither a header length nor {; download it again"


def _damaged(path: pathlib.Path, reason: str) -> LoraxError:
    return LoraxError(f"'{path}' is damaged ({reason}): download or save it again")
