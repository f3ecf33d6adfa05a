"""How do somebody else's tensors become our parameters? Checked in full, then one leaf at a time.

First `match` compares the file with the model it is said to hold; no tensor is read but tied
copies. Then `assemble` reads tensor by tensor, the largest leaves first, so that the memory it
takes stays close to that of the model: a leaf, or the part of it that a device holds, is on the
host only until it is on its device.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError
from lorax.core.paths import nearest
from lorax.io.names import architecture, entries, leaf_shapes, ties, turn
from lorax.io.regions import Region, extent, place_regions, whole
from lorax.io.tensors import Source

Model = Any
Placement = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
Each = Callable[[str, jax.Array], Any]

_ENCODERS = {"llama": "model.", "gpt2": "transformer.", "roberta": "roberta."}

# Tensors that a file may hold and that are no parameters of the model: masks, tables, a pooler that
# none of the heads uses.
_IGNORED = {
    "llama": r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    "gpt2": r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
    "roberta": r"(roberta\.)?(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.\w+)",
}


_COMPARED = 1 << 26  # bytes of a tied copy that are compared at a time


class Part(NamedTuple):
    """One tensor of a leaf, and the kind that says how it is turned (see `names.Entry`)."""

    source: Source
    kind: str


def match(
    model: Model, sources: Mapping[str, Source], where: str, share: tuple[int, int] = (0, 1)
) -> dict[str, Part]:
    """The tensors of `model` among `sources`, by our path in the layout without scan.

    Args:
      model: what the file is said to hold.
      sources: what it holds. Names may lack the encoder's prefix, as those of the first GPT-2 do.
      where: the file or directory, for messages.
      share: (index, count): which of so many equal parts of tied copies is compared here.

    Raises:
      LoraxError: a tensor is missing, unexpected, of another shape, not of floating-point numbers,
        or a tied copy differs from its original; it names file and tensor.
    """
    if model.config.layers > len(sources):
        raise LoraxError(
            f"'{where}' holds {len(sources)} tensors, config.json says {model.config.layers} "
            "layers: expected a configuration of this model"
        )
    shapes = _their_shapes(model)
    found = {name: stored for name in shapes if (stored := _stored(model, name, sources))}
    copies = {name: path for name, path in ties(model).items() if name in sources}
    ignored = re.compile(_IGNORED[architecture(model)])
    for name in sources:
        if name not in {*found.values(), *copies} and not ignored.fullmatch(name):
            raise LoraxError(
                f"'{sources[name].file}': unexpected tensor '{name}'{_near(name, shapes)}: "
                f"expected those of {type(model).__name__} as config.json describes it"
            )
    parts = {}
    for entry in entries(with_fields(model, scan=False)):
        if entry.name not in found:
            raise LoraxError(
                f"'{where}' lacks the tensor '{entry.name}'{_near(entry.name, sources)}: expected "
                f"every tensor of {type(model).__name__} as config.json describes it"
            )
        source = sources[found[entry.name]]
        _check_form(found[entry.name], source, shapes[entry.name])
        parts[entry.path] = Part(source, entry.kind)
    for name, path in copies.items():
        _check_copy(name, sources[name], parts[path].source, model.config.tied, share)
    return parts


def assemble(
    model: Model,
    parts: Mapping[str, Part],
    *,
    dtype: Any = None,
    sharding: Placement | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """The parameters of `model`, {"params": …}, in the layout that its config asks for.

    Args:
      model: as wanted; it may be scanned where `parts` are not.
      parts: a `Part` for every path of the layout without scan.
      dtype: of every leaf; None keeps each as it is stored.
      sharding: where the leaves go: one for all, or a function of path and shape. None leaves them
        uncommitted on the default device.
      each: (path, leaf) -> what takes the place of a leaf as soon as it is there, before the next
        one is read: its quantised form, say.

    Raises:
      LoraxError: the layers of a scanned leaf are stored in different dtypes, or a number does not
        fit `dtype`.
    """
    leaves: dict[str, list[Part]] = {}
    plain = entries(with_fields(model, scan=False))
    stacked = {}
    for entry, unscanned in zip(entries(model), plain, strict=True):
        leaves.setdefault(entry.path, []).append(parts[unscanned.path])
        stacked[entry.path] = entry.layer is not None
    tree: dict[str, Any] = {}
    # the largest first: what a leaf takes twice for a moment is then small against the rest
    for path in sorted(leaves, key=lambda path: -_size(leaves[path])):
        # the host's array has no name: it would live on while the next leaf is filled; nor does JAX
        # let go of it before its next transfer, so there is an empty one
        leaf = _leaf(path, leaves[path], stacked[path], dtype, sharding)
        _insert(tree, path, leaf if each is None else jax.block_until_ready(each(path, leaf)))
        del leaf
        jax.device_put(np.empty(0))
    return tree


def stored_dtype(parts: Mapping[str, Part]) -> np.dtype:
    """The dtype that most bytes are stored in."""
    sizes: dict[np.dtype, int] = {}
    for part in parts.values():
        dtype = np.dtype(part.source.dtype)
        sizes[dtype] = sizes.get(dtype, 0) + _size([part])
    return max(sizes, key=lambda dtype: sizes[dtype])


def _their_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shape of each of their tensors; the scanned model is the quicker one to trace."""
    scanned = with_fields(model, scan=True)
    shapes, found = leaf_shapes(scanned), {}
    for entry in entries(scanned):
        shape = shapes[entry.path].shape[0 if entry.layer is None else 1 :]
        found[entry.name] = shape[::-1] if entry.kind == "linear" else shape
    return found


def _stored(model: Model, name: str, sources: Mapping[str, Source]) -> str | None:
    """`name` as the file has it: with or without the prefix of the encoder."""
    prefix = _ENCODERS[architecture(model)]
    headless = getattr(model.config, "head", None) == "none"
    candidates = [name]
    if name.startswith(prefix):
        candidates.append(name.removeprefix(prefix))
    elif headless:
        candidates.append(prefix + name)
    return next((name for name in candidates if name in sources), None)


def _check_form(name: str, source: Source, shape: tuple[int, ...]) -> None:
    if tuple(source.shape) != shape:
        raise LoraxError(
            f"'{source.file}': tensor '{name}' has shape {tuple(source.shape)}, expected {shape}: "
            "the file is of another model than config.json says"
        )
    if not jnp.issubdtype(source.dtype, jnp.floating):
        raise LoraxError(
            f"'{source.file}': tensor '{name}' is {source.dtype}, expected floating-point numbers: "
            "take a checkpoint that is not quantised"
        )


def _check_copy(
    name: str, copy: Source, original: Source, tied: bool, share: tuple[int, int]
) -> None:
    same = (copy.dtype, tuple(copy.shape)) == (original.dtype, tuple(original.shape))
    areas = _rows(copy, share) if same else ()
    if not same or not all(
        np.array_equal(_bits(copy.part(area)), _bits(original.part(area))) for area in areas
    ):
        cure = (
            'if it is a tensor of its own, set "tie_word_embeddings": false in config.json'
            if tied
            else "the two are one here; make them equal"
        )
        raise LoraxError(
            f"'{copy.file}': tensor '{name}' differs from the one it is tied to: expected a copy, "
            f"bit for bit; {cure}"
        )


def _rows(source: Source, share: tuple[int, int]) -> Iterator[Region]:
    """Share `index` of `count` of the rows of a tensor, some at a time."""
    index, count = share
    length, *rest = whole(source.shape)
    first, last = (length[1] * i // count for i in (index, index + 1))
    step = max(1, length[1] * _COMPARED // max(1, source.nbytes))
    for start in range(first, last, step):
        yield ((start, min(start + step, last)), *rest)


def _dtype_of(path: str, parts: list[Part], dtype: Any) -> np.dtype:
    """`dtype`, or the one that all parts of the leaf are stored in."""
    stored = {np.dtype(part.source.dtype) for part in parts}
    if dtype is None and len(stored) > 1:
        raise LoraxError(
            f"the layers of '{path}' are stored in {sorted(map(str, stored))}: expected one dtype "
            "to stack them; choose it with dtype="
        )
    return np.dtype(dtype or stored.pop())


def _fill(path: str, parts: list[Part], stacked: bool, dtype: np.dtype, area: Region) -> np.ndarray:
    """A region of the leaf on the host; what one tensor gives to it is there beside it."""
    layers, inner = (range(*area[0]), area[1:]) if stacked else (range(1), area)
    if not stacked and parts[0].kind != "linear" and np.dtype(parts[0].source.dtype) == dtype:
        return parts[0].source.part(inner)
    leaf = np.empty(extent(area), dtype)
    for row, layer in enumerate(layers):
        kind, source = parts[layer].kind, parts[layer].source
        theirs = inner[::-1] if kind == "linear" else inner
        target = leaf[row] if stacked else leaf
        target[...] = _cast(path, turn(kind, source.part(theirs)), dtype)
    return leaf


def _cast(path: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same numbers in `dtype`, rounded; float16 is the one that a weight may not fit."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype == np.float16 and not np.isfinite(cast[np.isfinite(array)]).all():
        raise LoraxError(
            f"'{path}' holds numbers that float16 cannot: expected at most 65504; load it with "
            'dtype="bfloat16"'
        )
    return cast


def _leaf(
    path: str, parts: list[Part], stacked: bool, dtype: Any, sharding: Placement | None
) -> jax.Array:
    """The leaf where it belongs."""
    dtype = _dtype_of(path, parts, dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise LoraxError(
            f"'{path}' is {dtype}, which JAX would cut to 32 bits: expected that to be asked "
            'for; pass dtype="float32"'
        )
    shape = (len(parts), *_shape(parts[0])) if stacked else _shape(parts[0])
    fill = partial(_fill, path, parts, stacked, dtype)
    if sharding is None:  # asarray would copy it twice
        return jax.block_until_ready(jax.device_put(fill(whole(shape))))
    if not isinstance(sharding, jax.sharding.Sharding):
        sharding = sharding(path, shape)
    return place_regions(shape, sharding, fill, path)


def _insert(tree: dict[str, Any], path: str, leaf: jax.Array) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = leaf


def _shape(part: Part) -> tuple[int, ...]:
    shape = tuple(part.source.shape)
    return shape[::-1] if part.kind == "linear" else shape


def _size(parts: list[Part]) -> int:
    return sum(part.source.nbytes for part in parts)


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _near(name: str, candidates: Mapping[str, Any]) -> str:
    near = nearest(name, candidates, 1)
    return f" (near: '{near[0]}')" if near else ""


def with_fields(model: Model, **fields: Any) -> Model:
    """The same kind of model with some fields of its config changed."""
    return type(model)(dataclasses.replace(model.config, **fields))
