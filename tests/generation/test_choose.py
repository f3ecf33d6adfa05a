"""Choosing a token: never outside top-k and top-p, the right shares, no n-gram twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.generation.choose import Draw, greedy, is_any_of, sample, without_repeats
from tests.generation.toys import banned

LOGITS = np.array([2.0, -1.0, 0.5, 2.0, 1.0, -3.0, 0.0, 1.5], np.float32)
draw_tokens = jax.jit(sample, static_argnames="truncate")
ban = jax.jit(without_repeats, static_argnames="size")


def drawn(logits, rows=256, seed=0, truncate=True, temperature=1.0, top_k=1000, top_p=1.0):
    keys = jax.random.split(jax.random.key(seed), rows)
    how = Draw(keys, jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))
    tiled = jnp.tile(jnp.asarray(logits), (rows, 1))
    return np.asarray(draw_tokens(tiled, how, jnp.int32(3), truncate=truncate))


def nucleus(logits, temperature, top_k, top_p):
    """Which tokens may be drawn, the definition."""
    order = np.argsort(-logits, kind="stable")[:top_k]
    p = np.exp((logits[order] - logits.max()).astype(np.float64) / temperature)
    p /= p.sum()
    return set(order[: 1 + np.searchsorted(np.cumsum(p), top_p * (1 - 1e-6))].tolist())


@settings(max_examples=40)
@given(
    st.lists(st.integers(-40, 40), min_size=8, max_size=8),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.integers(1, 9),
    st.sampled_from([1e-6, 0.11, 0.53, 0.97, 1.0]),
    st.integers(0, 9),
)
def test_nothing_outside_top_k_and_top_p(tenths, temperature, top_k, top_p, seed):
    logits = np.array(tenths, np.float32) / 10
    found = drawn(logits, 256, seed, True, temperature, top_k, top_p)
    assert set(found.tolist()) <= nucleus(logits, temperature, top_k, top_p)


def test_everything_inside_comes_in_its_share():
    tokens = drawn(LOGITS, rows=20_000, temperature=0.8, top_k=6, top_p=0.95)
    inside = sorted(nucleus(LOGITS, 0.8, 6, 0.95))
    assert inside == [0, 2, 3, 4, 7]
    p = np.exp(LOGITS[inside] / 0.8)
    shares = np.bincount(tokens, minlength=8)[inside] / len(tokens)
    np.testing.assert_allclose(shares, p / p.sum(), atol=0.015)  # 4 standard errors


def test_a_token_left_inside_is_drawn_by_the_same_noise():
    free = drawn(LOGITS, truncate=False)
    np.testing.assert_array_equal(free, drawn(LOGITS, truncate=True))
    cut = drawn(LOGITS, top_k=4)
    inside = np.isin(free, sorted(nucleus(LOGITS, 1.0, 4, 1.0)))
    assert 50 < inside.sum() < 256
    np.testing.assert_array_equal(free[inside], cut[inside])


def test_a_banned_token_is_never_drawn():
    logits = np.where(np.arange(8) == 2, 0.0, -np.inf).astype(np.float32)
    for truncate in (False, True):
        assert set(drawn(logits, truncate=truncate)) == {2}


def test_a_row_depends_on_its_own_key_and_the_step():
    keys = jax.random.split(jax.random.key(0), 4)
    logits = jnp.tile(jnp.asarray(LOGITS), (4, 1))
    numbers = (jnp.float32(5), jnp.int32(8), jnp.float32(1))
    call = lambda keys, n, step: draw_tokens(
        logits[:n], Draw(keys, *numbers), jnp.int32(step), truncate=False
    )
    together = call(keys, 4, 0)
    alone = [call(keys[i : i + 1], 1, 0)[0] for i in range(4)]
    assert together.tolist() == alone
    assert any(call(keys, 4, step).tolist() != together.tolist() for step in range(1, 4))


def test_greedy_takes_the_first_of_equals():
    assert greedy(jnp.asarray([LOGITS, -LOGITS])).tolist() == [0, 5]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 3), min_size=10, max_size=10),
    st.integers(0, 5),
    st.integers(0, 10),
    st.integers(0, 10),
)
def test_n_grams_are_found_as_the_definition_finds_them(ids, size, begin, end):
    begin = min(begin, end)
    scores = ban(
        jnp.zeros((2, 5)),
        jnp.asarray([ids, ids[::-1]], jnp.int32),
        jnp.asarray([begin, 0]),
        jnp.int32(end),
        size=size,
    )
    for row, gone in zip(scores, (ids[begin:end], ids[::-1][:end]), strict=True):
        assert set(np.flatnonzero(np.isneginf(row))) == set(banned(gone, size))


def test_n_grams_longer_than_the_row():
    scores = jnp.zeros((1, 3))
    assert without_repeats(scores, jnp.zeros((1, 2), int), jnp.zeros(1, int), 2, size=5) is scores


@pytest.mark.parametrize("ids, expected", [([], [0, 0, 0]), ([4], [0, 1, 0]), ([2, 5], [1, 0, 1])])
def test_is_any_of(ids, expected):
    found = is_any_of(jnp.asarray([2, 4, 5]), jnp.asarray(ids, jnp.int32))
    assert found.tolist() == list(map(bool, expected))
