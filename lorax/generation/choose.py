"""Which token comes next? Temperature, top-k, top-p, and n-grams that may not come again.

Shape suffixes: R rows, S slots, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Draw(NamedTuple):
    """How tokens are drawn; arrays, so that other values do not compile anew.

    ``keys`` (R,) PRNG keys, one a row; ``temperature`` and ``top_p`` scalars; ``top_k`` an integer
    scalar.
    """

    keys: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


def greedy(logits_RV: jax.Array) -> jax.Array:
    """The likeliest token of each row (R,); the lowest id among equals."""
    return jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)


def sample(logits_RV: jax.Array, draw: Draw, step: jax.Array, *, truncate: bool) -> jax.Array:
    """A token for each row (R,), drawn from softmax(logits / temperature).

    Row i's draw depends on its key and on ``step`` alone. With ``truncate``, from the ``top_k``
    likeliest tokens, and of those from the fewest whose probabilities sum to at least ``top_p``
    (Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751); the
    likeliest is always among them. A token that top-k and top-p leave in is drawn by the same
    noise as without them.
    """
    logits_RV = logits_RV.astype(jnp.float32) / draw.temperature
    keys = jax.vmap(jax.random.fold_in, (0, None))(draw.keys, step)
    noise_RV = jax.vmap(lambda key: jax.random.gumbel(key, logits_RV.shape[1:]))(keys)
    if not truncate:
        return greedy(logits_RV + noise_RV)
    order_RV = jnp.argsort(logits_RV, axis=-1, descending=True, stable=True)
    sorted_RV = jnp.take_along_axis(logits_RV, order_RV, axis=-1)
    sorted_RV = jnp.where(jnp.arange(sorted_RV.shape[1]) < draw.top_k, sorted_RV, -jnp.inf)
    probability_RV = jax.nn.softmax(sorted_RV, axis=-1)
    likelier_RV = jnp.cumsum(probability_RV, axis=-1) - probability_RV
    # rank 0 by name: with a tiny top_p rounding could leave nothing
    inside_RV = (likelier_RV < draw.top_p).at[:, 0].set(True)
    sorted_noise_RV = jnp.take_along_axis(noise_RV, order_RV, axis=-1)
    rank_R = greedy(jnp.where(inside_RV, sorted_RV + sorted_noise_RV, -jnp.inf))
    return jnp.take_along_axis(order_RV, rank_R[:, None], axis=-1)[:, 0].astype(jnp.int32)


def without_repeats(
    scores_RV: jax.Array, tokens_RS: jax.Array, begin_R: jax.Array, end: jax.Array, *, size: int
) -> jax.Array:
    """``scores`` with -inf for every token that would complete an n-gram a second time.

    The n-grams are those of ``tokens[i, begin[i]:end]``. ``size`` is n; 0 changes nothing.
    """
    windows = tokens_RS.shape[1] - size + 1
    if size == 0 or windows < 1:
        return scores_RV
    repeats = begin_R[:, None] <= jnp.arange(windows)
    repeats &= jnp.arange(windows) + size <= end
    for offset in range(size - 1):
        at = jnp.maximum(end - size + 1 + offset, 0)  # below 0 there is no n-gram yet
        suffix_R1 = jax.lax.dynamic_slice_in_dim(tokens_RS, at, 1, axis=1)
        repeats &= tokens_RS[:, offset : offset + windows] == suffix_R1
    rows = jnp.arange(len(tokens_RS))[:, None]
    banned_RV = jnp.zeros(scores_RV.shape, bool)
    banned_RV = banned_RV.at[rows, tokens_RS[:, size - 1 :]].max(repeats)
    return jnp.where(banned_RV, -jnp.inf, scores_RV)


def is_any_of(tokens: jax.Array, ids: jax.Array) -> jax.Array:
    """Is each of ``tokens`` (...) one of ``ids`` (n,), of which there may be none? bool (...)."""
    return jnp.any(tokens[..., None] == ids, axis=-1)
