"""Small programs to decode: quick to compile, and every token before counts.

The state is h = h / 2 + embed[token], the logits are h @ head: a program with a memory of one
vector a row, and the same program without one.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lorax
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig

VOCABULARY, WIDTH, LENGTH = 12, 8, 64


class Config(NamedTuple):
    vocab_size: int = VOCABULARY
    max_length: int = LENGTH


class Memory(NamedTuple):
    h: Any
    read: Any  # (2, rows): two axes, and rows is not the first


@dataclasses.dataclass(frozen=True)
class Toy:
    """With `init_cache` and `config`, as the Linen models have them; counts its traces."""

    config: Config = Config()
    name: str = "toy"

    def init_cache(self, batch, length):
        assert length <= self.config.max_length
        return Memory(jnp.zeros((batch, WIDTH)), jnp.zeros((2, batch), jnp.int32))

    def apply(self, params, tokens, mask=None, cache=None):
        TRACES.append(self.name)
        assert tokens.shape[1] <= self.config.max_length
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask

        def read(h, x):
            token, real = x
            h = jnp.where(real[:, None], h / 2 + params["embed"][token], h)
            return h, h

        start = jnp.zeros((len(tokens), WIDTH)) if cache is None else cache.h
        last, states = jax.lax.scan(read, start, (tokens.T, mask.T))
        logits = states.swapaxes(0, 1) @ params["head"]
        if cache is None:
            return logits
        return logits, Memory(last, cache.read + mask.sum(axis=1, dtype=jnp.int32))


TRACES: list[str] = []
TOY = Toy()


def params(seed=0, vocabulary=VOCABULARY, size=1.5):
    rng = np.random.default_rng(seed)
    embed = rng.normal(size=(vocabulary, WIDTH)).astype(np.float32)
    head = size * rng.normal(size=(WIDTH, vocabulary)).astype(np.float32)
    return {"embed": jnp.asarray(embed), "head": jnp.asarray(head)}


def plain(params, tokens):
    """The toy as a function that is no method of anything."""
    return TOY.apply(params, tokens)


def logits_after(params, ids):
    """Next-token logits in numpy, the definition."""
    h = np.zeros(WIDTH, np.float32)
    for i in ids:
        h = h / 2 + np.asarray(params["embed"])[i]
    return h @ np.asarray(params["head"])


def banned(ids, size):
    """Tokens that would complete an n-gram of `ids` a second time, the definition."""
    if not size:
        return []
    grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    tail = tuple(ids[len(ids) - size + 1 :]) if size > 1 else ()
    return [gram[-1] for gram in grams if gram[:-1] == tail]


def greedy(params, prompt, new, *, stop=(), ngram=0, logits=logits_after):
    """Greedy decoding, the definition."""
    ids = list(prompt)
    for _ in range(new):
        scores = np.array(logits(params, ids))
        scores[banned(ids, ngram)] = -np.inf
        token = int(scores.argmax())
        if token in stop or np.isneginf(scores).all():
            break
        ids.append(token)
    return ids[len(prompt) :]


LLAMA = Llama(LlamaConfig(24, 16, 2, 2, 1, 24, max_length=64, tied=True))


def llama(adapter=None, scale=4.0):
    """A Llama that does not repeat itself: base, and a delta far from zero."""
    example = jnp.zeros((1, 4), jnp.int32)
    base = jax.jit(LLAMA.init)(jax.random.key(0), example)
    base = jax.tree.map(lambda x: x * scale if x.ndim > 1 else x, base)
    if adapter is None:
        return base, None
    delta = lorax.adapt(LLAMA.apply, adapter).init(jax.random.key(1), base, example)
    noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape, x.dtype)
    return base, jax.tree.map(noise, delta)


PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 1, 2], [3, 4]]
