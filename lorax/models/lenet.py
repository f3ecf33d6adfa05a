"""A LeNet-5-shaped convolutional network."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

SMALLEST_IMAGE = 16
"""Least height and width in pixels that leaves one pixel after both 5x5 convolutions and pools."""


class LeNet(nn.Module):
    """Two 5x5 convolutions (6 and 16 channels) with 2x2 max pooling, then dense 120, 84, classes.

    Input: images (B, height, width, channels), each side at least 16 pixels; output: logits
    (B, classes). No padding, so 28x28x1 has 44,426 parameters and 32x32x3 has 62,006, as in Li et
    al., arXiv:1804.08838. Layers are named ``conv_0 conv_1 dense_0 dense_1 dense_2``; kernels are
    drawn by ``kernel_init`` (Flax's default is LeCun normal), biases start at zero. ``dtype`` is
    the compute dtype (None: by promotion).

    Raises ValueError for input that is not such a batch of images.
    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998; ReLU and
    max pooling stand in for its sigmoids and trainable subsampling.
    """

    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Map ``images`` (B, height, width, channels) to logits (B, classes)."""
        if images.ndim != 4 or min(images.shape[1:3]) < SMALLEST_IMAGE:
            raise ValueError(
                f"LeNet takes images (batch, height, width, channels) of at least "
                f"{SMALLEST_IMAGE}x{SMALLEST_IMAGE} pixels, got shape {images.shape}: add the "
                "missing axes with images[..., None], or resize"
            )
        fields: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fields["kernel_init"] = self.kernel_init
        x = images
        for i, channels in enumerate((6, 16)):
            conv = nn.Conv(channels, (5, 5), padding="VALID", name=f"conv_{i}", **fields)
            x = nn.max_pool(self.activation(conv(x)), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((120, 84)):
            x = self.activation(nn.Dense(width, name=f"dense_{i}", **fields)(x))
        return nn.Dense(self.classes, name="dense_2", **fields)(x)
