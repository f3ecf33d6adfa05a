"""Dropout on the input of A: off without a key, unbiased, a mask of its own for every use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lorax

KEY = jax.random.key(0)
RATE = 0.25
MATRIX = lorax.Roles((), (0,), (1,))
N = 64


def identity(*stack):
    """Factors whose A B is the identity: the output is then the dropped input itself."""
    eye = jnp.broadcast_to(jnp.eye(N), (*stack, N, N))
    roles = lorax.Roles((0,), (1,), (2,)) if stack else MATRIX
    return lorax.Factors(eye, eye, roles)


def run(fn, paths, key, base=None, x=None, stack=()):
    """`fn` with dropout and identity factors on `paths`; W0 zero unless given."""
    adapter = lorax.LoRA(rank=N, alpha=float(N), where=tuple(paths), dropout=RATE)
    base = {path: jnp.zeros((*stack, N, N)) for path in paths} if base is None else base
    x = jnp.ones((4, N)) if x is None else x
    apply = lorax.adapt(fn, adapter, on_fallback="error", dropout_key=key)
    return apply(base, {path: identity(*stack) for path in paths}, x)


def one(base, x):
    """A single product."""
    return x @ base["w"]


def test_off_without_a_key():
    np.testing.assert_array_equal(run(one, "w", None), np.ones((4, N)))


def test_kept_numbers_are_scaled_and_their_share_is_right():
    out = np.asarray(run(one, "w", KEY, x=jnp.ones((64, N))))
    np.testing.assert_allclose(np.unique(out), [0.0, 1 / (1 - RATE)], rtol=1e-6)
    assert abs(np.mean(out == 0) - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / out.size)


def test_the_mean_over_keys_approaches_the_output_without_dropout():
    keys, x = jax.random.split(KEY, 400), jax.random.normal(KEY, (4, N))
    outs = jax.jit(jax.vmap(lambda key: run(one, "w", key, x=x)))(keys)
    error = np.abs(np.mean(outs, axis=0) - x)
    deviation = np.abs(x) * np.sqrt(RATE / (1 - RATE) / len(keys))
    assert np.mean(error < 3 * deviation) > 0.98 and np.all(error < 6 * deviation)


def test_the_base_product_is_never_touched():
    """With B at zero nothing of the mask is left, whatever W0 is."""
    base = {"w": jax.random.normal(KEY, (N, N))}
    x = jax.random.normal(jax.random.key(1), (4, N))
    adapter = lorax.LoRA(rank=2, where=("w",), dropout=0.9)
    delta = adapter.init(KEY, base)
    out = lorax.adapt(one, adapter, dropout_key=KEY)(base, delta, x)
    np.testing.assert_array_equal(out, one(base, x))
    zeroed = run(one, "w", KEY, base=base, x=x) - x @ base["w"]
    kept = np.abs(zeroed) > 1e-4
    np.testing.assert_allclose(
        np.where(kept, zeroed, 0), np.where(kept, x / (1 - RATE), 0), rtol=1e-3, atol=1e-4
    )


def test_same_key_same_bits_other_key_other_mask():
    out = np.asarray(run(one, "w", KEY))
    np.testing.assert_array_equal(out, run(one, "w", KEY))
    np.testing.assert_array_equal(out, jax.jit(lambda key: run(one, "w", key))(KEY))
    assert np.any(out != run(one, "w", jax.random.key(1)))


def test_masks_differ_by_path_and_by_use_and_not_by_what_else_is_adapted():
    fn = lambda base, x: (x @ base["a"], x @ base["b"], x @ base["a"])
    a, b, again = map(np.asarray, run(fn, "ab", KEY))
    assert np.any(a != b) and np.any(a != again) and np.any(b != again)
    alone = run(lambda base, x: x @ base["b"], "b", KEY)
    np.testing.assert_array_equal(b, alone)


def test_masks_differ_by_layer_under_scan():
    each = lambda base, x: lax.scan(lambda c, w: (c, x @ w), 0, base["w"])[1]
    masks = np.asarray(run(each, "w", KEY, stack=(5,)))
    assert len({mask.tobytes() for mask in masks}) == 5
    twice = lambda base, x: lax.scan(lambda c, w: (c, (x @ w, x @ w)), 0, base["w"])[1]
    first, second = np.asarray(run(twice, "w", KEY, stack=(5,)))
    assert len({mask.tobytes() for mask in (*first, *second)}) == 10


def test_masks_differ_between_nested_scans():
    def nested(base, x):
        inner = lambda _: lax.scan(lambda c, w: (c, x @ w), 0, base["w"])[1]
        return lax.scan(lambda c, _: (c, inner(None)), 0, None, length=2)[1]

    masks = np.asarray(run(nested, "w", KEY, stack=(3,))).reshape(6, -1)
    assert len({mask.tobytes() for mask in masks}) == 6


def test_remat_gives_the_same_value_and_gradient():
    base = {"w": jax.random.normal(KEY, (3, 6, 6))}
    x = jax.random.normal(KEY, (4, 6))
    adapter = lorax.LoRA(rank=2, where=("w",), dropout=0.5)
    roles = {"w": lorax.Roles((0,), (1,), (2,))}
    delta = jax.tree.map(lambda leaf: leaf + 0.2, adapter.init(KEY, base, roles))

    def run(wrap):
        layer = wrap(lambda x, w: (jnp.tanh(x @ w), None))
        fn = lambda base, x: lax.scan(layer, x, base["w"])[0]
        apply = lorax.adapt(fn, adapter, dropout_key=KEY, on_fallback="error")
        slope = jax.value_and_grad(lambda delta: jnp.sum(jnp.sin(apply(base, delta, x))))
        text = str(jax.make_jaxpr(slope)(delta))
        return jax.jit(slope)(delta), "remat" in text or "checkpoint" in text

    (plain, without), (again, kept) = run(lambda layer: layer), run(jax.checkpoint)
    assert kept and not without
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(plain[1]))


def test_a_lookup_is_masked_by_token():
    table = {"t": jnp.zeros((7, N))}
    ids = jnp.arange(400).reshape(4, 100) % 7
    adapter = lorax.LoRA(rank=1, alpha=1.0, where=("t",), dropout=RATE)
    factors = lorax.Factors(jnp.ones((7, 1)), jnp.ones((1, N)), MATRIX)
    apply = lorax.adapt(lambda base, ids: base["t"][ids], adapter, dropout_key=KEY)
    out = np.asarray(apply(table, {"t": factors}, ids))
    assert np.all(out == out[..., :1])  # a row is kept or dropped whole
    assert set(np.unique(out)) == {0.0, np.float32(1 / (1 - RATE))}
    dropped = np.mean(out[..., 0] == 0)
    assert abs(dropped - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / ids.size)


MERGES = {
    "exp": lambda base, x: x @ jnp.exp(base["w"]),
    "output": lambda base, x: base["w"],
}


@pytest.mark.parametrize("primitive", MERGES)
def test_refused_where_a_leaf_is_merged_in_one_line(primitive):
    adapter = lorax.LoRA(rank=1, where=("w",), dropout=0.1)
    base = {"w": jnp.ones((4, 4))}
    delta = adapter.init(KEY, base)
    apply = lorax.adapt(MERGES[primitive], adapter, on_fallback="allow", dropout_key=KEY)
    with pytest.raises(lorax.LoraxError, match=f"'w' is merged at '{primitive}'") as error:
        apply(base, delta, jnp.ones((2, 4)))
    assert "\n" not in str(error.value) and "or set dropout=0" in str(error.value)
    quiet = lorax.adapt(MERGES[primitive], adapter, on_fallback="allow")  # evaluation is fine
    assert quiet(base, delta, jnp.ones((2, 4))).shape in {(2, 4), (4, 4)}


def test_refused_by_the_merged_engine_in_one_line():
    adapter = lorax.LoRA(rank=1, where=("w",), dropout=0.1)
    base = {"w": jnp.ones((4, 4))}
    delta, x = adapter.init(KEY, base), jnp.ones((2, 4))
    with pytest.raises(lorax.LoraxError, match="'w' has dropout 0.1 and engine='merged'") as error:
        lorax.adapt(one, adapter, engine="merged", dropout_key=KEY)(base, delta, x)
    assert "\n" not in str(error.value) and "use engine='factored'" in str(error.value)
    lorax.adapt(one, adapter, engine="merged")(base, delta, x)
    without = lorax.LoRA(rank=1, where=("w",))
    lorax.adapt(one, without, engine="merged", dropout_key=KEY)(base, delta, x)


def test_a_frozen_leaf_is_never_masked():
    """Only A's input is: a leaf left out gives the program's own product, bit for bit."""
    base = {"w": jnp.zeros((N, N)), "frozen": jax.random.normal(KEY, (N, N))}
    fn = lambda base, x: (x @ base["w"], x @ base["frozen"])
    out, frozen = run(fn, "w", KEY, base=base)
    np.testing.assert_array_equal(frozen, jnp.ones((4, N)) @ base["frozen"])
    assert np.any(np.asarray(out) == 0)
