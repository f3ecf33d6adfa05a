"""What is in a llama2.c checkpoint? A Llama in float32, as `karpathy/llama2.c` writes it.

Seven int32 (dim, hidden, layers, heads, kv heads, vocabulary, context; a negative vocabulary means
an untied head), then float32 blocks, each over all layers, matrices (out, in), and two tables of
rotary angles that we compute ourselves. Its rotary pairs are neighbours (2i, 2i+1), ours are halves
(i, i + H/2): the rows of query and key are put in our order as they are read, which leaves their
products, and so the model, unchanged.
Source: github.com/karpathy/llama2.c, export.py (version 0) and run.c.
"""

import lzma
import math
import pathlib
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lorax.core.errors import LoraxError
from lorax.io.tensors import Source, refuse_pickle
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig

HEADER = 28
_FLOAT = np.dtype("<f4")
_MOST = 1 << 20  # no field of a header is larger
_TABLES = "rotary tables"
_TURNED = ("q_proj.weight", "k_proj.weight")


class Block(NamedTuple):
    """One tensor of a file: its shape, and its bytes, [start, stop) of the file."""

    shape: tuple[int, ...]
    start: int
    stop: int


Range = Callable[[Block], np.ndarray]


def open_llama2c(path: pathlib.Path, **changes: Any) -> tuple[Llama, dict[str, Source]]:
    """The model of a `.bin` or `.bin.xz` checkpoint, and its tensors under Hugging Face's names.

    A compressed file is decompressed in memory, once; a plain one is read tensor by tensor.

    Args:
      changes: fields of `LlamaConfig` that the file knows nothing of: scan, remat, dtype.

    Raises:
      LoraxError: the file is missing, a pickle, of another version, or of another size.
    """
    if path.name.startswith("pytorch_model"):
        refuse_pickle(path)
    config = _config(path, _read(path, HEADER), changes)
    blocks, stop = {}, HEADER
    for name, shape in _blocks(config):
        start, stop = stop, stop + math.prod(shape) * _FLOAT.itemsize
        blocks[name] = Block(shape, start, stop)
    read = _reader(path, stop)

    def source(name: str, block: Block) -> Source:
        turned = name.endswith(_TURNED)
        tensor = (lambda: half_split(read(block), config.head_dim)) if turned else None
        return Source(_FLOAT, block.shape, tensor or partial(read, block), str(path))

    tensors = {name: source(name, block) for name, block in blocks.items() if name != _TABLES}
    return Llama(config), tensors


def half_split(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (heads · H, in) of interleaved rotary pairs in the order of halves: 0 2 4 … 1 3 5 …."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _blocks(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a file in its order, under Hugging Face's name, with its shape."""
    dim, hidden, layers = config.dim, config.hidden_dim, config.layers
    narrow = config.kv_heads * config.head_dim
    stacked = {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim),
        "self_attn.k_proj": (narrow, dim),
        "self_attn.v_proj": (narrow, dim),
        "self_attn.o_proj": (dim, dim),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden),
        "mlp.up_proj": (hidden, dim),
    }
    yield "model.embed_tokens.weight", (config.vocab_size, dim)
    for name, shape in stacked.items():
        for i in range(layers):
            yield f"model.layers.{i}.{name}.weight", shape
    yield "model.norm.weight", (dim,)
    yield _TABLES, (2, config.max_length, config.head_dim // 2)
    if not config.tied:
        yield "lm_head.weight", (config.vocab_size, dim)


def _config(path: pathlib.Path, head: bytes, changes: dict[str, Any]) -> LlamaConfig:
    sizes = struct.unpack("<7i", head) if len(head) == HEADER else (0,) * 7
    dim, hidden, layers, heads, kv_heads, vocabulary, context = sizes
    if not all(0 < n <= _MOST for n in (*sizes[:5], abs(vocabulary), context)):
        raise _no_checkpoint(path, "its header holds no seven sizes")
    try:
        return LlamaConfig(
            abs(vocabulary), dim, layers, heads, kv_heads, hidden,
            max_length=context, tied=vocabulary > 0, **changes,
        )  # fmt: skip
    except ValueError as error:
        raise _no_checkpoint(path, str(error)) from None


def _reader(path: pathlib.Path, stop: int) -> Range:
    """How to read a range of a file that must have `stop` bytes."""
    if path.suffix == ".xz":
        data = _read(path, stop + 1)
        size = len(data)
    else:
        size = path.stat().st_size
    if size != stop:
        has = f"{size:,}" if size < stop else "more"
        raise _no_checkpoint(path, f"its header says {stop:,} bytes, it has {has}")
    if path.suffix != ".xz":
        return partial(_read_block, path)
    return lambda block: np.frombuffer(data, _FLOAT, math.prod(block.shape), block.start).reshape(
        block.shape
    )


def _read_block(path: pathlib.Path, block: Block) -> np.ndarray:
    count = math.prod(block.shape)
    try:
        array = np.fromfile(path, _FLOAT, count, offset=block.start)
    except OSError as error:
        raise LoraxError(f"cannot read '{path}' ({error.strerror}): check the path") from None
    if array.size < count:
        raise _no_checkpoint(path, "it became shorter while it was read")
    return array.reshape(block.shape)


def _read(path: pathlib.Path, count: int) -> bytes:
    """The first `count` bytes, decompressed, or all if there are fewer."""
    try:
        with (lzma.open if path.suffix == ".xz" else open)(path, "rb") as file:
            return file.read(count)
    except (lzma.LZMAError, EOFError) as error:
        raise _no_checkpoint(path, f"not a whole xz file: {error}") from None
    except OSError as error:
        raise LoraxError(f"cannot read '{path}' ({error.strerror}): check the path") from None


def _no_checkpoint(path: pathlib.Path, reason: str) -> LoraxError:
    return LoraxError(
        f"'{path}' is no llama2.c checkpoint ({reason}): expected version 0, float32, as its "
        "export.py writes with --version 0; a pickle is not read"
    )
