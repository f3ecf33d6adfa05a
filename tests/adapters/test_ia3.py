"""IA3: activations times one plus what learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lorax
from tests.adapters.matrix_programs import KEY, PLAIN, STACKED, check_laws, count
from tests.moved import moved

ADAPTER = lorax.IA3(where=("first/kernel",), feedforward=("second/kernel",))


@pytest.fixture(scope="module")
def plain():
    return check_laws(PLAIN, ADAPTER)


def test_outputs_with_their_bias_and_inputs_are_rescaled(plain):
    fn, base, x = PLAIN
    delta = moved(plain)
    keys, stream = (1 + np.asarray(own["gain"]) for own in delta.values())
    hidden = np.tanh((x @ base["first"]["kernel"] + base["first"]["bias"]) * keys)
    wanted = np.tanh(hidden * stream @ base["second"]["kernel"] + base["second"]["bias"])
    found = lorax.adapt(fn, ADAPTER, on_fallback="error")(base, delta, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        ADAPTER.merge(base, delta)["second"]["bias"], base["second"]["bias"]
    )


def test_counts_are_outputs_and_inputs(plain):
    assert count(plain) == 8 + 8
    stacked = check_laws(
        STACKED, lorax.IA3(where=("up/kernel",), feedforward=("down/kernel",)), slopes=False
    )
    assert count(stacked) == 2 * 8 + 2 * 8
    assert stacked["up/kernel"]["gain"].shape == stacked["down/kernel"]["gain"].shape == (2, 2, 4)


def test_one_side_may_be_all():
    base = PLAIN[1]
    for adapter in (
        lorax.IA3(where=("first/kernel",), feedforward=()),
        lorax.IA3(where=(), feedforward=("second/kernel",)),
    ):
        assert count(adapter.init(KEY, base)) == 8
        assert lorax.from_json(adapter.to_json()) == adapter


def test_defaults_are_keys_values_and_the_last_of_each_mlp():
    layer = {name: {"kernel": jnp.ones((2, 2))} for name in ("query", "key", "value")}
    base = {"attention": layer, "mlp": {n: {"kernel": jnp.ones((2, 3))} for n in ("up", "down")}}
    delta = lorax.IA3().init(KEY, base)
    assert set(delta) == {"attention/key/kernel", "attention/value/kernel", "mlp/down/kernel"}
    assert lorax.IA3(exclude=("mlp/down/kernel",)).init(KEY, base).keys() < delta.keys()


def test_a_zero_gain_keeps_every_bit_in_bfloat16(plain):
    _, base, _ = PLAIN
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)
    base["first"]["bias"] = base["first"]["bias"].at[0].set(-0.0)
    merged = ADAPTER.merge(base, plain)
    bits = lambda tree: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    assert bits(merged) == bits(base)


def test_a_quantised_kernel_is_rescaled_without_being_stored(plain):
    fn, base, x = PLAIN
    packed = lorax.quantize(base, "int8", where=(".*/kernel",))
    delta, run = moved(plain), lorax.adapt(fn, ADAPTER, on_fallback="error")
    wanted = run(lorax.dequantize(packed), delta, x)
    np.testing.assert_allclose(run(packed, delta, x), wanted, rtol=1e-4, atol=1e-5)


def _experts(base, x):
    return jnp.einsum("ecd,edf->ecf", x, base["w"])


def _window(base, x):
    return lax.conv_general_dilated(
        x, base["w"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )


W = ("w",)


@pytest.mark.parametrize(
    ("fn", "shape", "x", "adapter", "message"),
    [
        (
            *(_experts, (3, 5, 4), jnp.ones((3, 2, 5)), lorax.IA3(where=W, feedforward=())),
            "'w' stacks experts, which one product enumerates: expected",
        ),
        (
            lambda base, i: base["w"][i] @ base["w"].T,
            *((7, 4), jnp.arange(3), lorax.IA3(where=W, feedforward=())),
            "'w' is looked up: expected",
        ),
        (
            *(_window, (3, 2, 4), jnp.ones((1, 5, 2)), lorax.IA3(where=(), feedforward=W)),
            "'w' is a convolution, whose inputs",
        ),
    ],
)
def test_a_leaf_without_activations_of_its_own_is_refused(fn, shape, x, adapter, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        lorax.adapt(fn, adapter).init(KEY, {"w": jnp.ones(shape)}, x)
    assert "\n" not in str(error.value)


def test_outputs_of_a_convolution_are_rescaled():
    base, x = {"w": jax.random.normal(KEY, (3, 2, 4))}, jax.random.normal(KEY, (1, 5, 2))
    adapted = lorax.adapt(_window, lorax.IA3(where=W, feedforward=()), on_fallback="error")
    delta = moved(adapted.init(KEY, base, x))
    wanted = _window(base, x) * (1 + delta["w"]["gain"])
    np.testing.assert_allclose(adapted(base, delta, x), wanted, rtol=1e-5, atol=1e-6)


def test_mistakes_are_told_in_one_line(plain):
    _, base, _ = PLAIN
    odd = {"k": {"kernel": jnp.ones((4, 2, 3)), "bias": jnp.ones(6)}}
    roles = {"k/kernel": lorax.Roles((), (0,), (1, 2))}
    both = lorax.IA3(where=("first/kernel",), feedforward=(".*/kernel",))
    for call, message in (
        (lambda: lorax.IA3(where=(), feedforward=()), "where is empty"),
        (lambda: lorax.IA3(where="key"), "where is 'key'"),
        (lambda: lorax.IA3().init(KEY, base), "matches none of 4 leaves"),
        (lambda: both.init(KEY, base), "is selected by where='first/kernel' and by feedforward="),
        (lambda: ADAPTER.merge(base, {}), "delta is empty"),
        (lambda: ADAPTER.merge(plain, base), "are they swapped"),
        (
            lambda: lorax.IA3(where=("k/kernel",), feedforward=()).init(KEY, odd, roles),
            r"'k/bias' has shape \(6,\) but the outputs of the kernel beside it \(2, 3\)",
        ),
    ):
        with pytest.raises(lorax.LoraxError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
