"""Small models of two families with a LoRA, their first state and batches: what is trained here."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lorax
from lorax.core import paths
from lorax.data.batch import Batch
from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.train.losses import next_token_loss
from lorax.train.step import State, init_state

ROWS, TOKENS, VOCABULARY, DIM, HIDDEN, LAYERS, RANK = 16, 12, 112, 64, 160, 3, 4
WHERE = (r".*/(query|key|value|qkv|out|gate|up|down)/kernel",)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model, its adapter, loss and optimizer; `base` and `state` as shapes until they are made.

    Attributes:
      family: of `lorax.parallel.tables.RULES`.
      fn: the model's program.
      adapter: of it.
      tx: the optimizer.
      loss: as `make_step` wants it.
    """

    family: str
    fn: Any
    adapter: Any
    tx: Any
    loss: Any

    def base(self) -> Any:
        """The frozen parameters, drawn; products larger than models begin with.

        At the usual beginning attention looks everywhere alike, and what moves it is as small as
        rounding is, which Adam makes as large as anything else.
        """
        params = self.fn.__self__.init(jax.random.key(0), jnp.zeros((1, TOKENS), jnp.int32))
        return jax.tree.map(lambda x: 4 * x if x.ndim == 3 else x, params)

    def state(self, base: Any) -> State:
        """The first state, with a B that is not zero, so that every gradient is a number."""
        tokens = jnp.zeros((1, TOKENS), jnp.int32)
        delta = lorax.adapt(self.fn, self.adapter).init(jax.random.key(1), base, tokens)
        keys = (paths.key_for(jax.random.key(3), path) for path in delta)
        delta = {
            path: dataclasses.replace(pair, B=0.02 * jax.random.normal(next(keys), pair.B.shape))
            for path, pair in delta.items()
        }
        return init_state(delta, self.tx, jax.random.key(2))

    def shapes(self) -> tuple[Any, Any]:
        """(state, base), nothing drawn."""
        base = jax.eval_shape(self.base)
        return jax.eval_shape(self.state, base), base


def trained(
    family: str, *, chunk: int = 0, tied: bool = True, tensor: int = 1, **fields: Any
) -> Trained:
    """A model of "llama" or "gpt2", scanned and recomputed, with LoRA on every product.

    `tensor` is that of the mesh.
    """
    fields = {
        "vocab_size": VOCABULARY, "dim": DIM, "layers": LAYERS, "heads": 4, "hidden_dim": HIDDEN,
        "max_length": TOKENS + 8, "tied": tied, "scan": True, "remat": True,
    } | fields  # fmt: skip
    model: Any = GPT2(GPT2Config(**fields)) if family == "gpt2" else None
    model = model or Llama(LlamaConfig(kv_heads=2, **fields))
    adapter = lorax.LoRA(rank=RANK, alpha=8.0, where=WHERE)
    loss = next_token_loss(
        model.apply, adapter, on_fallback="error", chunk=chunk, sharded_vocabulary=tensor > 1
    )
    return Trained(family, model.apply, adapter, optax.adamw(1e-3, eps=1e-5), loss)


def batch(number: int) -> Batch:
    """A batch of random tokens, some of which do not count."""
    draw = np.random.default_rng(number)
    tokens = draw.integers(0, VOCABULARY, (ROWS, TOKENS + 1), dtype=np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], draw.random((ROWS, TOKENS)) < 0.8)
