"""GPT-3's parameters by shape alone, and how many numbers of a delta learn beside them."""

import functools

import jax
import numpy as np

from lorax.models import GPT2, GPT2Config

LAYERS, WIDTH = 96, 12_288


@functools.cache
def shapes():
    """The variables of a GPT-2 of this size, as `jax.eval_shape` has them."""
    model = GPT2(GPT2Config(50257, WIDTH, LAYERS, 96, max_length=2048, scan=True))
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4), np.int32))


def count(adapter, base=None):
    """How many numbers learn; nothing is allocated."""
    init = functools.partial(adapter.init, jax.random.key(0))
    delta = jax.eval_shape(init, shapes() if base is None else base)
    return sum(leaf.size for leaf in jax.tree.leaves(delta))
