"""What does decoding remember? The key-value cache, an explicit functional pytree.

Shape suffixes: B batch, T new tokens, S slots, K key-value heads, H head width, L layers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lorax.models.gpt2_config import GPT2Config
from lorax.models.llama_config import LlamaConfig

CausalConfig = LlamaConfig | GPT2Config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of all tokens so far; a new one comes out of every call.

    ``keys`` and ``values`` (L, B, S, K, H), keys already rotated where the
    model rotates them; ``valid`` (B, S) bool, false for
    padding and for slots still empty; ``length`` int32 scalar, slots written so far, the same for
    every row (rows of different length are padded and ``valid`` tells them apart). Donate it to a
    jitted step and the new tokens are written in place.

    ``ahead``, a static number, says how many slots in front hold virtual tokens (see
    `lorax.models.additions`): none in an empty cache, which grows by as many in the first call.
    """

    keys: jax.Array
    values: jax.Array
    valid: jax.Array
    length: jax.Array
    ahead: int = dataclasses.field(default=0, metadata={"static": True})


def init_cache(
    config: CausalConfig, batch: int, length: int | None = None, dtype: DTypeLike | None = None
) -> Cache:
    """An empty cache for ``batch`` rows of up to ``length`` tokens.

    ``length`` defaults to ``config.max_length``, ``dtype`` to the compute dtype. It takes
    ``2 * layers * batch * length * kv_heads * head_dim`` numbers.

    Raises ValueError for a batch or length below 1, or a length beyond ``max_length``.
    """
    length = config.max_length if length is None else length
    if batch < 1 or not 1 <= length <= config.max_length:
        raise ValueError(
            f"a cache needs batch >= 1 and 1 <= length <= max_length={config.max_length}, got "
            f"batch={batch}, length={length}: change them, or the config's max_length"
        )
    shape = (config.layers, batch, length, config.kv_heads, config.head_dim)
    dtype = config.dtype if dtype is None else dtype
    # Two arrays, not one twice: a donated cache must not hold the same buffer two times.
    return Cache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        valid=jnp.zeros((batch, length), bool),
        length=jnp.zeros((), jnp.int32),
    )


def check_cache(
    config: CausalConfig, batch: int, length: int, cache: Cache, shift: int = 0
) -> None:
    """Raise ValueError for a cache of another model or batch, or too small for the tokens.

    Or one too large for the context, where each token stands ``shift`` positions further back.
    """
    every = cache.keys.shape[2]
    slots = every - cache.ahead
    expected = (config.layers, batch, every, config.kv_heads, config.head_dim)
    if cache.keys.shape != expected:
        raise ValueError(
            f"cache keys must have shape {expected} (layers, batch, slots, kv_heads, head_dim), "
            f"got {cache.keys.shape}: make it with init_cache(config, batch={batch})"
        )
    if length > slots:
        raise ValueError(
            f"{length} tokens do not fit the cache's {slots} slots: "
            f"make it with init_cache(config, batch, length={length}) or longer"
        )
    if shift and slots + shift > config.max_length:
        fitting = config.max_length - shift
        raise ValueError(
            f"a cache of {slots} slots after {shift} virtual tokens exceeds max_length="
            f"{config.max_length}: make it with init_cache(config, batch, length={fitting}), or "
            f"generate with max_length={fitting}"
        )


def advance(
    cache: Cache, tokens: int, mask: jax.Array | None, ahead: int = 0
) -> tuple[Cache, jax.Array]:
    """Claim the next ``tokens`` slots: the cache with them marked, and who may see what.

    ``mask`` (B, T) bool is false for padding among the new tokens; None means all are real. The
    second result is bool (B, 1, ahead + T, S): true for the real tokens up to and including each
    query's own. Keys and values are yet to be written, by `write_layer`.

    Where ``ahead`` virtual tokens come with these, the cache grows by slots for them in front. It
    must be empty then: one that is not counts as overfilled.
    """
    batch = cache.valid.shape[0]
    new_BT = jnp.ones((batch, tokens), bool) if mask is None else mask
    if ahead:
        cache = _grown(cache, ahead)
        new_BT = jnp.concatenate([jnp.ones((batch, ahead), bool), new_BT], axis=1)
    valid_BS = jax.lax.dynamic_update_slice(cache.valid, new_BT, (0, cache.length))
    own_T1 = cache.length + jnp.arange(ahead + tokens)[:, None]
    causal_TS = jnp.arange(valid_BS.shape[1])[None, :] <= own_T1
    advanced = dataclasses.replace(cache, valid=valid_BS, length=cache.length + ahead + tokens)
    return advanced, (valid_BS[:, None, :] & causal_TS)[:, None]


def _grown(cache: Cache, ahead: int) -> Cache:
    """An empty cache with ``ahead`` slots more."""
    slots = ahead + cache.valid.shape[1]
    wider = [(0, 0), (0, 0), (0, ahead), (0, 0), (0, 0)]
    return Cache(
        keys=jnp.pad(cache.keys, wider),
        values=jnp.pad(cache.values, wider),
        valid=jnp.pad(cache.valid, wider[1:3]),
        length=jnp.where(cache.length == 0, 0, slots),
        ahead=ahead,
    )


def remember(
    memory: tuple[Cache, jax.Array | int] | None, keys: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array, Cache | None]:
    """All keys and values (B, …, K, H) that one layer attends to, and the cache with the new ones.

    ``memory`` is the cache and which layer of it is ours; without it the new ``keys`` and
    ``values`` are all.
    """
    if memory is None:
        return keys, values, None
    cache, layer = memory
    cache = write_layer(cache, layer, keys, values)
    return *read_layer(cache, layer, keys.dtype), cache


def write_layer(cache: Cache, layer: jax.Array | int, keys: jax.Array, values: jax.Array) -> Cache:
    """Write one layer's ``keys`` and ``values`` (B, T, K, H) into the last T claimed slots."""
    start = (layer, 0, cache.length - keys.shape[1], 0, 0)

    def write(stored_LBSKH: jax.Array, new_BTKH: jax.Array) -> jax.Array:
        new_1BTKH = new_BTKH[None].astype(stored_LBSKH.dtype)
        return jax.lax.dynamic_update_slice(stored_LBSKH, new_1BTKH, start)

    keys, values = write(cache.keys, keys), write(cache.values, values)
    return dataclasses.replace(cache, keys=keys, values=values)


def read_layer(
    cache: Cache, layer: jax.Array | int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """One layer's keys and values, all slots (B, S, K, H), in ``dtype``."""
    return cache.keys[layer].astype(dtype), cache.values[layer].astype(dtype)
