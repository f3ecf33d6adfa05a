"""What decoders do around their layers, called directly."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import GPT2Config, init_cache
from lorax.models.decoder import (
    check_indices,
    check_mask,
    check_tokens,
    count_positions,
    finish,
    prepare,
)

CONFIG = GPT2Config(32, 16, 2, 4, max_length=8)
TOKENS = jnp.zeros((2, 4), jnp.int32)
LEFT = jnp.array([[True] * 4, [False, False, True, True]])


def test_positions_count_real_tokens_here_and_in_the_cache():
    plain = [[0, 1, 2, 3]] * 2
    np.testing.assert_array_equal(count_positions(TOKENS, None, None), plain)
    np.testing.assert_array_equal(count_positions(TOKENS, jnp.ones((2, 4, 4), bool), None), plain)
    padded = count_positions(TOKENS, LEFT, None)
    np.testing.assert_array_equal(padded, [[0, 1, 2, 3], [0, 0, 0, 1]])
    cache = init_cache(CONFIG, 2)
    cache = dataclasses.replace(cache, valid=cache.valid.at[0, :3].set(True).at[1, 2].set(True))
    later = count_positions(TOKENS, LEFT, cache)
    np.testing.assert_array_equal(later, [[3, 4, 5, 6], [1, 1, 1, 2]])


def test_prepared_without_a_cache_is_a_mask_of_pairs():
    positions, mask, cache = prepare(CONFIG, TOKENS, None, LEFT, None)
    assert positions.shape == (2, 4) and mask.shape == (2, 1, 1, 4) and cache is None
    assert prepare(CONFIG, TOKENS, None, None, None)[1] is None


def test_prepared_with_a_cache_is_a_mask_over_its_slots():
    _, mask, cache = prepare(CONFIG, TOKENS, None, LEFT, init_cache(CONFIG, 2))
    assert mask.shape == (2, 1, 4, 8) and int(cache.length) == 4
    np.testing.assert_array_equal(mask[1, 0, 2], [0, 0, 1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="cache keys must have shape"):
        prepare(CONFIG, TOKENS, None, None, init_cache(CONFIG, 3))


def test_logits_are_wide_and_nan_beyond_the_cache():
    cache = init_cache(CONFIG, 2, 4)
    hidden = jnp.ones((2, 4, 3), jnp.bfloat16)
    head = lambda x: x @ jnp.ones((3, 5), x.dtype)
    assert finish(hidden, head, None, None).dtype == jnp.float32
    for length, finite in ((4, True), (5, False)):
        out, _ = finish(hidden, head, dataclasses.replace(cache, length=jnp.asarray(length)), None)
        assert out.dtype == jnp.float32 and jnp.isfinite(out).all() == finite


def test_a_readout_gets_the_hidden_states_and_the_head_but_no_cache():
    hidden, head = jnp.ones((2, 4, 3)), lambda x: x.sum(-1)
    assert finish(hidden, head, None, lambda x, head: {"first": head(x[:, 0])})["first"][1] == 3
    with pytest.raises(ValueError, match="readout is for whole sequences .*: leave one out"):
        finish(hidden, head, init_cache(CONFIG, 2), lambda x, head: x)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_tokens(TOKENS[0], 8), r"tokens must be integers .*shape \(4,\): add"),
        (lambda: check_tokens(TOKENS / 2, 8), "tokens must be integers .*got float32"),
        (lambda: check_tokens(TOKENS, 3), "at most max_length=3 tokens fit, got 4: cut"),
        (lambda: check_indices("types", TOKENS[0], TOKENS), r"types must have the shape of tokens"),
        (lambda: check_indices("types", TOKENS / 2, TOKENS), "types must be integers, got float32"),
        (lambda: check_mask(TOKENS, TOKENS), "mask must be bool of shape .*got int32"),
        (lambda: check_mask(LEFT[:, :3], TOKENS), r"mask must be bool .*or \(2, 4, 4\), got bool"),
        (lambda: check_mask(jnp.ones((2, 4, 4), bool), TOKENS, pairs=False), r"\(2, 4\), got bool"),
    ],
)
def test_bad_arguments_are_one_line_errors(check, message):
    with pytest.raises(ValueError, match=message) as error:
        check()
    assert "\n" not in str(error.value)


def test_absent_arguments_pass():
    check_indices("types", None, TOKENS)
    check_mask(None, TOKENS)
