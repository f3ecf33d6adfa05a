"""A fingerprint tells any two bases apart, and one base from itself in no form."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType

import lorax
from lorax import LoraxError
from lorax.io import fingerprint as module
from lorax.io.fingerprint import fingerprint

X = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int4", "int8", "uint32", "bool")


def test_it_is_short_and_the_same_forever():
    """A changed number would refuse every run that is under way."""
    base = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int8(3)}}
    assert fingerprint(base) == fingerprint(base) == "7831f5866ed81f1b"


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15)
@given(data=st.data())
def test_law_one_element_more_or_less(dtype, data):
    x = (np.arange(12).reshape(3, 4) % 2).astype(jnp.dtype(dtype))
    place = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 3)))
    other = x.copy()
    other[place] = 1 - int(other[place])
    assert fingerprint({"x": x}) != fingerprint({"x": other})


def test_the_last_bit_counts_and_the_sign_of_zero():
    nudged = X.copy()
    nudged[3, 4] = np.nextafter(nudged[3, 4], np.float32(9))
    zeros = np.zeros(3, np.float32)
    assert fingerprint({"x": X}) != fingerprint({"x": nudged})
    assert fingerprint({"x": zeros}) != fingerprint({"x": -zeros})
    wide = np.arange(3.0)
    assert fingerprint({"x": wide}) != fingerprint({"x": np.nextafter(wide, 9)})


@settings(max_examples=30)
@given(st.lists(st.integers(0, 95), min_size=2, max_size=2, unique=True))
def test_law_two_elements_swapped(places):
    swapped = X.copy().reshape(-1)
    swapped[places] = swapped[places[::-1]]
    assert fingerprint({"x": X}) != fingerprint({"x": swapped.reshape(X.shape)})


def test_names_shapes_and_dtypes_count():
    forms = [
        {"x": X},
        {"y": X},
        {"x": {"x": X}},
        {"x": X, "y": X},
        {"x": X.T},
        {"x": X.reshape(12, 8)},
        {"x": X.reshape(-1)},
        {"x": X[None]},
        {"x": X.view(np.int32)},
        {"x": X.view(np.uint32)},
        {"x": X.astype(np.float16)},
        {"x": X[:0]},
        {"x": X[:, :0]},
        {},
    ]
    assert len({fingerprint(form) for form in forms}) == len(forms)


def test_two_leaves_exchanged():
    assert fingerprint({"x": X, "y": -X}) != fingerprint({"x": -X, "y": X})


def test_order_host_and_what_is_no_array_do_not_count():
    mine = fingerprint({"x": X, "y": -X})
    assert fingerprint({"y": jnp.asarray(-X), "x": jnp.asarray(X), "name": "gpt2"}) == mine


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("a", "b"), ("b", None), (None, "a"), (("a", "b"), None), ()])
def test_law_sharding_does_not_count(kind, spec):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(kind, kind))
    x = jax.device_put(X, jax.NamedSharding(mesh, jax.P(*spec)))
    assert fingerprint({"x": x}) == fingerprint({"x": X})


@settings(max_examples=10)
@given(st.integers(1, 100))
def test_law_it_does_not_matter_how_much_is_done_at_once(elements):
    whole = fingerprint({"x": X, "s": np.float32(1)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", elements)
        assert fingerprint({"x": X, "s": np.float32(1)}) == whole


def test_keys_and_complex_numbers():
    assert fingerprint({"k": jax.random.key(1)}) != fingerprint({"k": jax.random.key(2)})
    z = np.array([1 + 2j, 3 - 1j], np.complex64)
    assert fingerprint({"z": z}) == fingerprint({"z": jnp.asarray(z)})
    assert fingerprint({"z": z}) != fingerprint({"z": z.conj()})


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base_is_its_codes_and_scales(kind):
    pytest.importorskip("qwix")
    draw = lambda seed: np.random.default_rng(seed).normal(size=(2, 64, 8)).astype(np.float32)
    base = lambda x: lorax.quantize({"layers": {"kernel": x}, "scale": X}, kind)
    mine = fingerprint(base(draw(0)))
    assert mine == fingerprint(base(draw(0))) != fingerprint(base(draw(1)))
    assert mine != fingerprint(base(2 * draw(0)))  # the same codes
    mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))
    cut = jax.NamedSharding(mesh, jax.P(None, None, "a"))
    spread = lambda x: jax.device_put(x, cut) if x.ndim == 3 else x
    assert fingerprint(jax.tree.map(spread, base(draw(0)))) == mine


def test_two_leaves_of_one_path():
    with pytest.raises(LoraxError, match="share the path .a/b."):
        fingerprint({"a": {"b": X}, "a/b": X})
