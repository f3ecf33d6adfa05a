"""A multi-layer perceptron."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class MLP(nn.Module):
    """Dense layers with an activation between them, none after the last.

    Input (..., D), output (..., features[-1]); an image is flattened by the caller. Layers are
    named ``dense_0``, ``dense_1``, ...; kernels are (in, out), drawn by ``kernel_init`` (Flax's
    default is LeCun normal), biases start at zero. ``dtype`` is the compute dtype (None: by
    promotion of input and parameters). ``MLP((200, 200, 10))`` on 784 inputs is the
    199,210-parameter network of Li et al., "Measuring the Intrinsic Dimension of Objective
    Landscapes", arXiv:1804.08838.

    Raises ValueError if ``features`` is empty or holds anything but positive integers.
    """

    features: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``x`` (..., D) to (..., features[-1])."""
        if not self.features or any(not isinstance(n, int) or n <= 0 for n in self.features):
            raise ValueError(
                f"MLP features must be positive layer widths, got {tuple(self.features)}: "
                "write e.g. features=(200, 200, 10)"
            )
        last = len(self.features) - 1
        fields: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, width in enumerate(self.features):
            dense = nn.Dense(width, kernel_init=self.kernel_init, name=f"dense_{i}", **fields)
            x = dense(x) if i == last else self.activation(dense(x))
        return x
