"""W0 and ΔW as matrices are what `merge` makes of them, however the axes lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.analysis.updates import as_matrices, changes, lora_members
from tests.analysis.imported import from_peft

STACKED = lorax.Roles(stack=(1,), inputs=(0, 3), outputs=(2,))
MATRIX = lorax.Roles((), (0,), (1,))


def drawn(delta, seed=0):
    """A delta away from its start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), delta)


@pytest.mark.parametrize("initializer", ["kaiming", "pissa"])
def test_factors_give_what_merge_adds(initializer):
    base = {"w": jax.random.normal(jax.random.key(0), (4, 3, 5, 2))}
    adapter = lorax.LoRA(rank=2, alpha=3.0, where=("w",), initializer=initializer)
    delta = drawn(adapter.init(jax.random.key(1), base, {"w": STACKED}))
    ((path, w, change),) = changes(adapter, adapter.prepare(base, delta), delta)
    want = np.asarray(base["w"]).transpose(1, 0, 3, 2).reshape(3, 8, 5)
    assert path == "w" and np.array_equal(w, want)
    merged = np.asarray(adapter.merge(base, delta)["w"]).transpose(1, 0, 3, 2).reshape(3, 8, 5)
    np.testing.assert_allclose(w + change, merged, rtol=1e-5, atol=1e-5)


def test_a_16_bit_base_is_read_in_32_bits_and_nothing_is_rounded_to_16():
    base = {"w": jnp.ones((4, 4), jnp.bfloat16)}
    for adapter in (lorax.LoRA(rank=2, where=("w",)), lorax.Full()):
        delta = jax.tree.map(lambda x: x + 1e-4, adapter.init(jax.random.key(0), base))
        ((_, w, change),) = changes(adapter, base, delta, {"w": MATRIX})
        assert w.dtype == change.dtype == jnp.float32
        assert 0 < float(jnp.abs(change).max()) < 2**-9  # lost in bfloat16, where 1 + 2^-9 is 1


def test_whole_leaves_are_matrices_where_roles_say_so():
    base = {"bias": jnp.ones((2, 4)), "layers": jnp.ones((3, 4, 4)), "w": jnp.ones((2, 4))}
    adapter = lorax.Full()
    delta = adapter.init(jax.random.key(0), base)
    roles = {"bias": lorax.Roles((0,), (), (1,), "other"), "layers": lorax.Roles((0,), (1,), (2,))}
    found = {path: w.shape for path, w, _ in changes(adapter, base, delta, roles)}
    assert found == {"layers": (3, 4, 4)}
    with pytest.raises(lorax.LoraxError, match="no matrix among the 3 leaves of Full: .* roles="):
        list(changes(adapter, base, delta))
    with pytest.raises(lorax.LoraxError, match="roles of 'w' are .*: expected each of its 2 axes"):
        list(changes(adapter, base, delta, {"w": STACKED}))


def test_the_biases_of_a_stack_are_no_matrix():
    adapter, base, delta = from_peft("gpt2_bias_all", scan=True)
    assert isinstance(adapter, lorax.Chain)
    assert all(path.endswith("kernel") for path, *_ in changes(adapter, base, delta))


def test_members_of_nested_chains():
    base = {"v": jnp.ones((4, 4)), "w": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    first, second = (lorax.LoRA(rank=2, where=(name,)) for name in "vw")
    adapter = lorax.Chain(first, lorax.Chain(second, lorax.BitFit()))
    delta = adapter.init(jax.random.key(0), base)
    found = lora_members(adapter, delta)
    assert [(member, list(part)) for member, part in found] == [(first, ["v"]), (second, ["w"])]
    assert {path for path, *_ in changes(adapter, base, delta)} == {"v", "w"}


def test_what_is_no_delta_of_the_adapter_is_refused():
    base = {"w": jnp.ones((4, 4))}
    adapter = lorax.LoRA(rank=2, where=("w",))
    delta = adapter.init(jax.random.key(0), base)
    with pytest.raises(lorax.LoraxTypeError, match="delta of a LoRA is a dict: expected .path"):
        lora_members(adapter, base)
    with pytest.raises(lorax.LoraxError, match="delta of a Chain of 1 is a dict: expected a tuple"):
        lora_members(lorax.Chain(adapter), delta)
    with pytest.raises(lorax.LoraxTypeError, match="expected an adapter"):
        lora_members(delta, adapter)
    with pytest.raises(lorax.LoraxError, match="swapped"):
        list(changes(adapter, delta, base))
    with pytest.raises(lorax.LoraxError, match="BitFit has no low-rank factors"):
        lora_members(lorax.BitFit(), {})


def test_an_imported_adapter_layer_by_layer_and_stacked():
    layers, stacked = (
        {path: (w, change) for path, w, change in changes(*from_peft("gpt2_all_conv1d", scan))}
        for scan in (False, True)
    )
    assert len(layers) > len(stacked) > 0
    for path, pair in stacked.items():
        for n in range(len(pair[0])):
            for all_layers, one in zip(
                pair, layers[path.replace("layers", f"layer_{n}")], strict=True
            ):
                np.testing.assert_allclose(all_layers[n], one[0], rtol=1e-5, atol=1e-6)


def test_matrices_of_a_leaf():
    leaf = jnp.arange(24, dtype=jnp.float16).reshape(2, 3, 4)
    found = as_matrices(leaf, lorax.Roles((0,), (2,), (1,)))
    assert found.dtype == jnp.float32 and np.array_equal(found, np.swapaxes(leaf, 1, 2))
