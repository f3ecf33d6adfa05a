"""What do all programs of the comparison with peers share? Model, tokens and first factors."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lorax
from lorax.core import paths
from lorax.data.batch import Batch
from lorax.models import GPT2, GPT2Config, Llama, LlamaConfig

RATE = 1e-3
"""Of AdamW, without weight decay."""

FAMILIES = ("llama", "gpt2")
TARGETS: dict[str, Any] = {
    "all-linear": "all-linear",
    "qv": (r".*/attention/(query|value)/kernel",),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """A model of random weights and a batch of random tokens.

    Attributes:
      family: one of `FAMILIES`.
      targets: one of `TARGETS`; GPT-2 has one matrix for queries, keys and values.
      dtype: of weights and activations; the factors are float32.
      scan: whether the layers are one scan, and their weights stacked.
      remat: whether layers are computed again in the backward pass.
      chunk: of the loss in blocks, in tokens; see `lorax.train.losses.next_token_loss`.
    """

    family: str = "llama"
    targets: str = "all-linear"
    dim: int = 768
    layers: int = 4
    heads: int = 12
    hidden: int = 2048
    vocab: int = 50_257
    batch: int = 4
    length: int = 128
    rank: int = 8
    alpha: float = 16.0
    dtype: str = "float32"
    scan: bool = False
    remat: bool = False
    chunk: int = 32

    @property
    def model(self) -> Any:
        """The model; its head is tied, GPT-2's feed-forward four times as wide as the model."""
        sizes: dict[str, Any] = {
            "vocab_size": self.vocab, "dim": self.dim, "layers": self.layers, "heads": self.heads,
            "max_length": self.length, "tied": True, "scan": self.scan, "remat": self.remat,
            "dtype": self.dtype, "param_dtype": self.dtype,
        }  # fmt: skip
        if self.family == "gpt2":
            return GPT2(GPT2Config(**sizes))
        return Llama(LlamaConfig(**sizes, kv_heads=self.heads, hidden_dim=self.hidden))

    @property
    def adapter(self) -> lorax.LoRA:
        """What is compared with its peers."""
        return lorax.LoRA(rank=self.rank, alpha=self.alpha, where=TARGETS[self.targets])

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer of every program."""
        return optax.adamw(RATE, weight_decay=0.0)

    @functools.cached_property
    def tokens(self) -> Batch:
        """One batch, in which every target counts."""
        draw = np.random.default_rng(0)
        tokens = draw.integers(0, self.vocab, (self.batch, self.length + 1)).astype(np.int32)
        return Batch(tokens[:, :-1], tokens[:, 1:], np.ones((self.batch, self.length), bool))

    def base(self) -> Any:
        """Random weights."""
        return jax.jit(self.model.init)(jax.random.key(0), self.tokens.inputs)

    def start(self, adapter: lorax.Adapter, base: Any) -> Any:
        """A first delta."""
        init = lorax.adapt(self.model.apply, adapter).init
        return jax.jit(init)(jax.random.key(1), base, self.tokens.inputs)

    def matmul_parameters(self, base: Any) -> int:
        """N: the numbers of all matrices, the head's table among them."""
        sizes = {path: leaf.size for path, leaf in paths.flatten(base).items()}
        return sum(n for path, n in sizes.items() if re.search("kernel|embed/embedding", path))

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.family} shape, {self.layers} layers, d {self.dim}, {self.batch}×{self.length} "
            f"tokens, V {self.vocab:,}, r={self.rank} {self.targets}, AdamW, {self.dtype}"
        )


def cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
    """The mean over all targets of logits that exist at once, as a user would write it."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()


def size(tree: Any) -> int:
    """Numbers of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
