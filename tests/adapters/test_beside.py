"""What adds beside the parameters changes none of them."""

import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters.beside import Beside
from lorax.core.adapter import Adapter

BASE = {"params": {"w": jnp.arange(6.0).reshape(2, 3)}, "statistics": {"mean": jnp.ones(3)}}


class _Adds(Beside, Adapter):
    def init(self, key, base, roles=None):
        return {"own": jnp.zeros(3)}

    def additions(self, base, delta):
        return {"additions/below/own": delta["own"]}


def test_merge_adds_the_collection_and_hands_on_the_same_leaves():
    adapter = _Adds()
    delta = {"own": jnp.ones(3)}
    merged = adapter.merge(BASE, delta)
    assert merged["params"]["w"] is BASE["params"]["w"]
    assert merged["statistics"]["mean"] is BASE["statistics"]["mean"]
    assert merged["additions"] == {"below": {"own": delta["own"]}}
    assert adapter.leaves(BASE, delta) == {} and "additions" not in BASE


def test_of_a_quantised_base_merge_forms_every_leaf():
    base = {"params": {"w": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8)}}
    packed = lorax.quantize(base, "int8", where=(".*/w",))
    merged = _Adds().merge(packed, {"own": jnp.ones(3)})
    np.testing.assert_array_equal(merged["params"]["w"], lorax.dequantize(packed)["params"]["w"])


def test_merged_twice_is_told_in_one_line():
    once = _Adds().merge(BASE, {"own": jnp.ones(3)})
    with pytest.raises(lorax.LoraxError, match="has 'additions/below/own' already") as error:
        _Adds().merge(once, {"own": jnp.ones(3)})
    assert "\n" not in str(error.value)
