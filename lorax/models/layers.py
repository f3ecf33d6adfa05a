"""What several models share: RMS normalisation, rotary positions, attention masks.

Shape suffixes: B batch, T tokens, D model width, N heads, H head width, F frequencies (H / 2).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class RMSNorm(nn.Module):
    """Root-mean-square normalisation: ``x / sqrt(mean(x²) + eps) * scale`` over the last axis.

    Input ``x`` (..., D), output (..., D) in ``dtype`` (None: the dtype of ``x``). One parameter
    ``scale`` (D,), initialised to ones. Statistics are taken in float32 at least: squares of
    bfloat16 activations lose the small ones.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """

    eps: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise ``x`` (..., D); returns the same shape."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        y = wide * jax.lax.rsqrt(mean_square + self.eps) * scale.astype(wide.dtype)
        return y.astype(x.dtype if self.dtype is None else self.dtype)


def rotary_angles(
    positions: jax.Array, head_dim: int, *, theta: float = 10000.0
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary angles ``position * theta ** (-2 i / head_dim)``.

    ``positions`` (B, T) integers, counted in tokens; ``head_dim`` H even; ``theta`` the base of the
    wavelengths. Returns two float32 arrays (B, T, H / 2), the same for every layer and head, so
    a model computes them once.

    Raises ValueError for an odd ``head_dim`` or positions that are not integers.
    Source: Su et al., "RoFormer", arXiv:2104.09864, eq. 15.
    """
    if head_dim <= 0 or head_dim % 2:
        raise ValueError(
            f"rotary positions need an even head width, got {head_dim}: choose dim and heads so "
            "that dim / heads is even"
        )
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(
            f"positions must be integers (token counts), got {positions.dtype}: "
            "write positions.astype('int32')"
        )
    exponent_F = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angle_BTF = positions[..., None].astype(jnp.float32) * theta**-exponent_F
    return jnp.cos(angle_BTF), jnp.sin(angle_BTF)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, *, interleaved: bool = False) -> jax.Array:
    """Turn each pair of channels of ``x`` by its rotary angle.

    ``x`` (B, T, N, H); ``cos`` and ``sin`` (B, T, H / 2) from `rotary_angles`. Returns (B, T, N, H)
    in the dtype of ``x``; the rotation itself runs in float32 at least. Pairs are channels
    ``(i, i + H / 2)``, the half-split layout of Hugging Face checkpoints; ``interleaved=True``
    pairs ``(2 i, 2 i + 1)``, the layout of Meta's own checkpoints. The two give the same attention
    once the output columns of the query and key kernels are permuted.

    Source: Su et al., "RoFormer", arXiv:2104.09864, eq. 34.
    """
    cos_BT1F, sin_BT1F = cos[:, :, None, :], sin[:, :, None, :]
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = jnp.split(x, 2, axis=-1)
    turned = (
        first * cos_BT1F - second * sin_BT1F,
        second * cos_BT1F + first * sin_BT1F,
    )
    if interleaved:
        return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def segment_mask(segments: jax.Array) -> jax.Array:
    """Mask for packed sequences: a token sees only tokens of its own segment.

    ``segments`` (B, T) integers, one id a packed sequence, 0 for padding. Returns a bool mask
    (B, T, T), true where query (axis 1) may see key (axis 2); causality is the model's business.
    Padding sees nothing and is seen by nothing.

    Raises ValueError unless ``segments`` is a two-axis integer array.
    Source: Raffel et al., "T5", arXiv:1910.10683, section 3.1.2 (packing).
    """
    if segments.ndim != 2 or not jnp.issubdtype(segments.dtype, jnp.integer):
        raise ValueError(
            f"segments must be integers of shape (batch, tokens), got {segments.dtype} of shape "
            f"{segments.shape}: give each packed sequence an id from 1, and padding 0"
        )
    return (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] != 0)
