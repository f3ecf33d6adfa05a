"""A language model that anyone can compute: the logits after a token are a row of a table."""

import jax.numpy as jnp
import numpy as np

from lorax.data.batch import Batch

VOCABULARY, LENGTH = 256, 48
"""Of bytes; `LENGTH` is the longest text that `Bigram` takes."""


class Bigram:
    """With a config, as the models have one; counts its traces in `shapes`."""

    def __init__(self):
        self.shapes = []

    class config:
        vocab_size, max_length = VOCABULARY, LENGTH

    def apply(self, table, tokens):
        self.shapes.append(tokens.shape)
        assert tokens.shape[1] <= LENGTH
        return table[tokens]


class Tokenizer:
    """Bytes, of which 2 opens and 3 ends a text; no text here holds either."""

    vocab_size, bos, eos, pad, adds_bos = 256, 2, 3, None, False

    def encode(self, text, *, bos=False, eos=False):
        return [2] * bos + list(text.encode()) + [3] * eos

    def decode(self, ids):
        return bytes(i for i in ids if i not in (2, 3)).decode("utf-8", "replace")


def table(seed=0, size=2.0):
    """(V, V) float32."""
    draw = np.random.default_rng(seed)
    return jnp.asarray(size * draw.normal(size=(VOCABULARY, VOCABULARY)), jnp.float32)


def log_softmax(table):
    """In float64, the definition."""
    wide = np.asarray(table, np.float64)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def batch(rng, rows, length, share=0.7):
    """Random tokens, of which a share counts."""
    tokens = rng.integers(0, VOCABULARY, (2, rows, length)).astype(np.int32)
    return Batch(tokens[0], tokens[1], rng.random((rows, length)) < share)
