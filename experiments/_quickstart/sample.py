"""What does the model write? Bytes drawn one by one, through the KV cache, in one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.models import Llama, init_cache

Sampler = Callable[[Any], str]


def make_sampler(model: Llama, part: Any, seed: int) -> Sampler:
    """`sampler(params) -> text`: the prompt and what follows it, the same draws every time.

    Weights of one shape share one compiled program, so base and merged weights cost one compile.

    Args:
      model: of bytes.
      part: `prompt`, `length` in bytes beyond it, and `temperature`, above 0.
      seed: of the draws.

    Raises:
      ValueError: one of these is not possible.
    """
    prompt, length, temperature = part.prompt, part.length, part.temperature
    given = np.frombuffer(prompt.encode(), np.uint8).astype(np.int32)[None]
    most = model.config.max_length - given.size
    if not given.size or not 1 <= length <= most or not temperature > 0:
        raise ValueError(
            f"sample of {length} bytes after {prompt!r} at temperature {temperature}: expected a "
            f"prompt, 1 to {most} bytes, and a temperature above 0"
        )

    @jax.jit
    def continuation(params: Any, key: jax.Array) -> jax.Array:
        cache = init_cache(model.config, batch=1, length=given.shape[1] + length)
        logits, cache = model.apply(params, given, cache=cache)

        def one(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            logits, cache = carry
            token = jax.random.categorical(key, logits / temperature).astype(jnp.int32)
            logits, cache = model.apply(params, token[:, None], cache=cache)
            return (logits[:, -1], cache), token

        keys = jax.random.split(key, length)
        _, tokens = jax.lax.scan(one, (logits[:, -1], cache), keys)
        return tokens[:, 0]

    def sampler(params: Any) -> str:
        tokens = continuation(params, jax.random.key(seed))
        return prompt + _readable(bytes(np.asarray(tokens).astype(np.uint8)))

    return sampler


def _readable(text: bytes) -> str:
    """Text for a terminal: what is not printable becomes a replacement character."""
    decoded = text.decode("utf-8", "replace")
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in decoded
    )
