"""By which angle does a position turn a query or a key? Rotary positions, stretched or not.

Shape suffixes: B batch, T tokens, N heads, H head width, F frequencies (H / 2).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 and later stretch long rotary wavelengths, to reach a longer context.

    Of a wavelength of w tokens, ``original_max_length / w`` turns fit the context of pre-training.
    Where fewer than ``low_freq_factor`` do, the frequency is divided by ``factor``; where more than
    ``high_freq_factor`` do, it is kept; between the two it is interpolated linearly in the number
    of turns. Hugging Face calls this rope type "llama3".

    Raises ValueError for numbers that are not above 0, or factors not in order.
    Source: Grattafiori et al., arXiv:2407.21783, and the configs published with Llama 3.1 and 3.2.
    """

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_length: int = 8192

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(
                    f"rope_scaling {name} must be a finite number above 0, got {value!r}: "
                    f"change {name}"
                )
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"rope_scaling low_freq_factor must be below high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}: write 1.0 and 4.0"
            )

    def stretch(self, frequency: jax.Array) -> jax.Array:
        """Angles a token, any shape, after stretching; same shape and dtype."""
        turns = self.original_max_length * frequency / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        kept = jnp.clip((turns - self.low_freq_factor) / span, 0, 1)
        return frequency * (kept + (1 - kept) / self.factor)


def rotary_angles(
    positions: jax.Array,
    head_dim: int,
    *,
    theta: float = 10000.0,
    scaling: RopeScaling | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary angles ``position * theta ** (-2 i / head_dim)``.

    ``positions`` (B, T) integers, counted in tokens; ``head_dim`` H even; ``theta`` the base of the
    wavelengths, stretched by ``scaling``. Returns two float32 arrays (B, T, H / 2), the same for
    every layer and head, so a model computes them once.

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
    frequency_F = theta**-exponent_F
    if scaling is not None:
        frequency_F = scaling.stretch(frequency_F)
    angle_BTF = positions[..., None].astype(jnp.float32) * frequency_F
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
