"""Which small layers do several models share? Products, tables, norms, and their first values."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lorax.models import additions, mesh
from lorax.models.config import TransformerConfig


def small_init(config: TransformerConfig, shrink: float = 1.0) -> nn.initializers.Initializer:
    """Normal with deviation sqrt(2 / (5 D)), divided by ``shrink``: 0.02 at D = 1000.

    GPT-2's fixed 0.02 starves narrow models: after 200 steps `BYTE_1M` stands at 2.7 nats a byte
    with it, at 1.55 with this. Source: Nguyen and Salazar, arXiv:1910.05895, section 2 (SmallInit).
    """
    return nn.initializers.normal(math.sqrt(2 / (5 * config.dim)) / shrink)


class Dense(nn.Dense):
    """A Dense after which a bottleneck may stand: see `lorax.models.additions`."""

    @nn.nowrap  # or an interceptor of methods would meet one product twice
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map ``inputs`` (..., in) to (..., features)."""
        return additions.apply_bottleneck(self, super().__call__(inputs))


def dense(
    config: TransformerConfig, features: int, name: str, *, bias: bool, residual: bool = False
) -> Dense:
    """A Dense to ``features``; ``residual`` marks the last product before a residual stream.

    Those start smaller by sqrt(2 L), so that the stream's variance does not grow with the depth
    (Radford et al., "Language Models are Unsupervised Multitask Learners", section 2.3).
    """
    return Dense(
        features,
        use_bias=bias,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        kernel_init=small_init(config, math.sqrt(2 * config.layers) if residual else 1.0),
        name=name,
    )


def embed(config: TransformerConfig, rows: int, name: str) -> nn.Embed:
    """A table of ``rows`` vectors (D,); an index beyond it gives NaN."""
    return nn.Embed(
        rows,
        config.dim,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        embedding_init=small_init(config),
        name=name,
    )


class Kernel(nn.Module):
    """The ``kernel`` (D, features) that `dense` has, without the product."""

    config: TransformerConfig
    features: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """The kernel in the dtype it is stored in."""
        config, shape = self.config, (self.config.dim, self.features)
        return self.param("kernel", small_init(config), shape, config.param_dtype)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["table"], meta_fields=["axis", "name"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A product with the vocabulary: hidden states (..., D) to logits (..., V), a pure function.

    Attributes:
      table: (V, D) or (D, V), in the dtype that is computed in.
      axis: of the table, where V is.
      name: of the parameter, from the model's own: "lm_head/kernel".
    """

    table: jax.Array
    axis: int
    name: str

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (..., V) of ``x`` (..., D), in the dtype of the table."""
        dimensions = (((x.ndim - 1,), (1 - self.axis,)), ((), ()))
        return jax.lax.dot_general(x.astype(self.table.dtype), self.table, dimensions)


def vocabulary_head(config: TransformerConfig, embed: nn.Embed, name: str) -> Head:
    """The head, whose table is that of ``embed`` where ``config.tied``, else ``<name>/kernel``.

    It may run inside `jax.lax.scan` and `jax.checkpoint`, where a Dense may not.
    """
    if config.tied:
        table, axis, path = embed.embedding, 0, (*embed.path, "embedding")
    else:
        kernel = Kernel(config, config.vocab_size, name=name)
        table, axis, path = kernel(), 1, (*kernel.path, "kernel")
    return Head(mesh.vocabulary(table.astype(config.dtype), axis), axis, "/".join(path))


def layer_norm(config: TransformerConfig, name: str) -> nn.LayerNorm:
    """Normalisation to mean 0 and variance 1, then ``scale`` and ``bias``; float32 statistics.

    The variance is the mean of squared differences: E[x²] - E[x]² cancels where a channel of the
    stream is far from zero, as in GPT-2. Source: Ba et al., arXiv:1607.06450.
    """
    return nn.LayerNorm(
        epsilon=config.norm_eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        use_fast_variance=False,
        name=name,
    )


def attention_dropout(rate: float, deterministic: bool) -> nn.Dropout | None:
    """What drops attention weights, or None where nothing would be dropped; see `attend`."""
    return None if deterministic or rate == 0 else nn.Dropout(rate, deterministic=False)


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
