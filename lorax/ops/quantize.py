"""How does a base become small? Its kernels as int8 or nf4 codes with scales, made by `qwix`.

A quantised leaf is a `qwix.QArray`, a pytree of `qvalue` and `scale`; `lorax.core.packed` says what
the engine makes of it. Layers, vectors and blocks:

- "int8": symmetric codes and one scale for every output channel of every matrix.
- "nf4": 4-bit codes and one scale for every 64 neighbours along the input axis (QLoRA, Dettmers et
  al., arXiv:2305.14314, section 3, without its second quantisation of the scales).

Scales have the dtype of the leaf: 16 bits for weights in bfloat16, which makes 4.25 bits a number.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core import paths
from lorax.core.adapter import Prepared
from lorax.core.errors import LoraxError, LoraxTypeError, check_choice
from lorax.core.packed import formed, is_packed
from lorax.core.where import check_patterns

KINDS = ("int8", "nf4")

KERNELS = (r"(.*/)?layers?(_\d+)?/(.*/)?kernel",)
"""The matrices of the layers; embeddings, norms, biases and heads stay as they are."""


def quantize(base: Any, kind: str, *, where: Any = KERNELS, block: int = 64) -> Any:
    """`base` with the kernels that `where` selects quantised, one leaf after the other.

    Args:
      base: parameters, any pytree; under `jax.eval_shape` or as shapes, shapes come back.
      kind: "int8" or "nf4".
      where: regular expressions, each fully matched against "/"-joined paths. Selected leaves are
        (stack..., input, output); biases and norms stacked over layers are left as they are by the
        default, which takes leaves named `kernel` inside `layers` or `layer_0 …`.
      block: how many neighbours along the input axis share a scale; for "nf4" alone.

    Returns:
      A tree with a `qwix.QArray` in the place of each selected leaf. `lorax.adapt` takes it like
      the plain base, with factored adapters; `lorax.dequantize` gives a plain tree.

    Raises:
      LoraxError: qwix is not installed; a pattern without a match; a leaf that has no matrices, is
        quantised already, or whose input axis the block does not divide.
      LoraxTypeError: a selected leaf without floating-point numbers.
    """
    check_choice("kind", kind, KINDS)
    stored = paths.flatten(base)
    chosen = paths.select(check_patterns("where", where), stored)
    for path in chosen:
        _check(path, stored[path], kind, block)
    return paths.replace(base, {p: quantized(stored[p], kind, block=block) for p in chosen})


def quantized(leaf: Any, kind: str, *, block: int = 64) -> Any:
    """One leaf (stack..., input, output) as a `qwix.QArray`, matrix by matrix.

    Raises:
      LoraxError: qwix is not installed.
    """
    _qwix()
    packed = functools.partial(_packed, kind=kind, block=block)
    return jax.eval_shape(packed, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else packed(leaf)


@functools.partial(jax.jit, static_argnames=("kind", "block"))
def _packed(leaf: jax.Array, kind: str, block: int) -> Any:
    how: dict[str, Any] = {"channelwise_axes": (1,)}
    if kind == "nf4":
        how["tiled_axes"] = {0: block}

    def one(matrix: jax.Array) -> Any:
        return _qwix().quantize(matrix, "nf4" if kind == "nf4" else jnp.int8, **how)

    *stack, fan_in, fan_out = leaf.shape
    matrices = leaf.reshape(math.prod(stack), fan_in, fan_out)
    codes = jax.lax.map(one, matrices)  # so that the work of one matrix exists at a time
    return jax.tree.map(lambda x: x.reshape(*stack, *x.shape[1:]), codes)


def quantizer(kind: str, *, where: Any = KERNELS, block: int = 64) -> Callable[[str, Any], Any]:
    """(path, leaf) -> the leaf, quantised where its path is selected: `quantize` for a base that is
    read leaf by leaf, as `lorax.io.pretrained.load(each=...)` does.

    A pattern that matches no leaf goes unnoticed; everything else is as in `quantize`.
    """
    check_choice("kind", kind, KINDS)
    patterns = check_patterns("where", where)

    def each(path: str, leaf: Any) -> Any:
        if not any(paths.matches(pattern, path) for pattern in patterns):
            return leaf
        _check(path, leaf, kind, block)
        return quantized(leaf, kind, block=block)

    return each


def dequantize(base: Any) -> Any:
    """`base` with the matrix itself in the place of every quantised leaf, in its dtype."""
    base = base.base if isinstance(base, Prepared) else base
    stored = paths.flatten(base)
    return paths.replace(base, {p: formed(leaf) for p, leaf in stored.items() if is_packed(leaf)})


def stored_bytes(tree: Any) -> int:
    """The bytes that the leaves of `tree`, arrays or shapes, take where two 4-bit codes share one.

    `nbytes` of a 4-bit array counts one byte a code.
    """
    bits = (math.prod(x.shape) * _bits(x.dtype) for x in jax.tree.leaves(tree))
    return sum(math.ceil(n / 8) for n in bits)


def _bits(dtype: Any) -> int:
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits
    return 8 * jnp.dtype(dtype).itemsize


def _check(path: str, leaf: Any, kind: str, block: int) -> None:
    if is_packed(leaf):
        raise LoraxError(
            f"'{path}' is quantised already: expected a plain leaf; narrow where=, or call "
            "lorax.dequantize first"
        )
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise LoraxTypeError(
            f"'{path}' has dtype {leaf.dtype}: expected floating-point numbers to quantise; "
            "narrow where="
        )
    if len(leaf.shape) < 2:
        raise LoraxError(
            f"'{path}' has shape {tuple(leaf.shape)}: expected a matrix (input, output), or a "
            "stack of them; narrow where= so that it is left out"
        )
    fan_in = leaf.shape[-2]
    if kind == "nf4" and (block < 2 or fan_in % block):
        near = math.gcd(fan_in, 1 << max(block, 2).bit_length() - 1)  # a power of two suits others
        cure = f"set block={near}, or " if near > 1 else ""
        raise LoraxError(
            f"'{path}' has an input axis of {fan_in}, which blocks of {block} do not divide: "
            f"{cure}narrow where= so that it is left out"
        )


def _qwix() -> Any:
    try:
        import qwix
    except ImportError:
        raise LoraxError(
            "quantising needs qwix, which is not installed: pip install 'lorax-flax[quant]'"
        ) from None
    return qwix
