"""Trees by name: there and back bit for bit, copies that stay, and what sets two of them apart."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from lorax import LoraxError
from lorax.core.leaf import Factors, Roles
from lorax.io.named_tree import (
    forms,
    gathered,
    host_copies,
    key_impls,
    misfit,
    named_leaves,
    own_copies,
    placements,
    rebuild,
)
from lorax.train.optim import adamw
from lorax.train.step import init_state

ROLES = Roles((), (0,), (1,))


def delta(rank=8, names="qkv", dtype=jnp.float32):
    return {
        f"params/{name}/kernel": Factors(
            jnp.ones((6, rank), dtype), jnp.zeros((rank, 4), dtype), ROLES
        )
        for name in names
    }


def state(tx=None, **form):
    return init_state(delta(**form), tx or adamw(1e-3), jax.random.key(3))


def difference(saved, wanted):
    return misfit(forms(named_leaves(saved)), forms(named_leaves(wanted)))


def again(tree, like=None):
    leaves = named_leaves(tree)
    return rebuild(tree if like is None else like, host_copies(leaves), key_impls(leaves))


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_names_are_the_way_to_an_array():
    tree = {"a": (jnp.ones(2), [jnp.ones(3)]), "s": optax.EmptyState(), "d": delta(names="q")}
    assert list(named_leaves(tree)) == [
        "a/0",
        "a/1/0",
        "d/params/q/kernel/A",
        "d/params/q/kernel/B",
    ]
    assert forms(named_leaves(tree))["d/params/q/kernel/A"] == {"shape": [6, 8], "dtype": "float32"}


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_training_state_comes_back(abstract, dtype):
    saved = state(dtype=dtype)
    like = jax.eval_shape(lambda: state(dtype=dtype)) if abstract else saved
    found = again(saved, like)
    assert_same(saved, found)
    assert jax.random.key_impl(found.key) == jax.random.key_impl(saved.key)
    assert not any(leaf.committed for leaf in jax.tree.leaves(found))


def test_a_key_keeps_its_implementation():
    tree = {"key": jax.random.key(1, impl="rbg"), "keys": jax.random.split(jax.random.key(2), 3)}
    assert_same(tree, again(tree))


def test_numpy_stays_numpy():
    tree = {"wide": np.arange(3.0), "jax": jnp.arange(3.0)}
    found = again(tree)
    assert isinstance(found["wide"], np.ndarray) and isinstance(found["jax"], jax.Array)
    assert_same(tree, found)


arrays = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(dtype),
    st.lists(st.integers(1, 3), max_size=2).map(tuple),
    st.sampled_from(["float32", "bool", "int8", "bfloat16"]).map(jnp.dtype),
    st.integers(0, 9),
)
trees = st.recursive(
    arrays,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(trees)
def test_law_there_and_back(tree):
    assert_same(tree, again(tree))
    assert difference(tree, tree) == ""


def test_copies_stay_when_the_arrays_are_donated():
    tree = {"x": jnp.arange(1000.0)}
    copies = host_copies(named_leaves(tree))
    step = functools.partial(jax.jit, donate_argnums=0)(lambda t: jax.tree.map(lambda x: x * 0, t))
    jax.block_until_ready(step(tree))
    assert (copies["x"] == np.arange(1000.0)).all()


def test_sharded_within_one_process_is_gathered():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, jax.P("d")))
    assert (host_copies({"x": x})["x"] == np.arange(8.0)).all()


def test_only_what_is_committed_says_where_it_is():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.NamedSharding(mesh, jax.P("d"))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    leaves = {
        "cut": jax.device_put(jnp.arange(8.0), cut),
        "one": jax.device_put(jnp.arange(8.0), one),
        "shape": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=cut),
        "key": jax.device_put(jax.random.key(0), jax.NamedSharding(mesh, jax.P())),
        "free": jnp.arange(8.0),
        "bare": jax.ShapeDtypeStruct((8,), jnp.float32),
        "numpy": np.arange(8.0),
    }
    found = placements(leaves)
    assert sorted(found) == ["cut", "key", "one", "shape"]
    assert found["cut"] == found["shape"] == cut and found["one"] == one
    assert placements(jax.eval_shape(lambda: {"x": jnp.arange(8.0)})) == {}


def test_alone_nothing_is_gathered_and_all_is_copied():
    leaves = {"x": jnp.arange(8.0), "n": np.arange(3)}
    assert gathered(leaves) == leaves
    copies = own_copies(leaves)
    assert all(type(copy) is np.ndarray for copy in copies.values())
    assert (copies["x"] == leaves["x"]).all()


def test_another_rank_is_told_once_for_each_leaf():
    assert difference(state(), state()) == ""
    assert difference(state(rank=8), state(rank=4)) == (
        "it has rank 8, this config asks 4 at 'params/k/kernel' (and 2 more)"
    )
    assert "(and" not in difference(state(rank=8, names="q"), state(rank=4, names="q"))


def test_another_optimizer_other_leaves_other_dtype():
    text = difference(state(), state(optax.sgd(1e-3)))
    assert text.startswith("it holds 'opt_state/") and "which this config has not (and" in text
    text = difference(state(optax.sgd(1e-3)), state())
    assert text.startswith("it lacks 'opt_state/") and "more)" in text
    text = difference(state(names="q"), state(names="qv"))
    assert text == "it lacks 'params/v/kernel/A' (and 1 more)"
    text = difference(state(names="q"), state(names="q", dtype=jnp.bfloat16))
    assert text.startswith("it has float32[6, 8], this config asks bfloat16[6, 8] at ")
    both = difference(delta(rank=8, names="qk"), delta(rank=4, names="qv"))
    assert both.count(";") == 2 and "rank 8" in both and "lacks" in both and "holds" in both


def test_what_has_no_name_of_its_own_is_told():
    with pytest.raises(LoraxError, match="'a/0' is a float: expected a tree of arrays"):
        named_leaves({"a": [1.0]})
    with pytest.raises(LoraxError, match="two arrays are named 'a/b'"):
        named_leaves({"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})
