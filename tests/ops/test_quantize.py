"""What is quantised, how small it becomes, and what is refused in one line."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core import paths
from lorax.core.packed import is_packed
from lorax.models import LLAMA_7B, Llama
from lorax.ops.quantize import quantizer, stored_bytes

pytest.importorskip("qwix")


def tree(fan_in=64):
    keys = jax.random.split(jax.random.key(0), 3)
    layer = {
        "query": {"kernel": jax.random.normal(keys[0], (2, fan_in, 8)), "bias": jnp.ones((2, 8))}
    }
    return {
        "params": {
            "layers": layer,
            "embed": {"embedding": jax.random.normal(keys[1], (16, 64))},
            "lm_head": {"kernel": jax.random.normal(keys[2], (64, 16))},
            "steps": jnp.arange(3),
        }
    }


@pytest.mark.parametrize(("kind", "worst"), [("int8", 0.01), ("nf4", 0.16)])
def test_the_matrices_of_the_layers_are_near_what_they_were(kind, worst):
    base = tree()
    packed = lorax.quantize(base, kind)
    leaves = paths.flatten(packed)
    assert [path for path, leaf in leaves.items() if is_packed(leaf)] == [
        "params/layers/query/kernel"
    ]
    again = paths.flatten(lorax.dequantize(packed))
    for path, leaf in paths.flatten(base).items():
        assert (leaves[path].shape, leaves[path].dtype) == (leaf.shape, leaf.dtype)
        error = np.abs(np.asarray(again[path], np.float64) - np.asarray(leaf)).max()
        assert error == 0 if "query/kernel" not in path else 0 < error < worst * jnp.abs(leaf).max()


def test_llama_7b_takes_three_tenths_of_its_16_bits_all_told():
    shapes = jax.eval_shape(Llama(LLAMA_7B).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    share = {kind: stored_bytes(lorax.quantize(shapes, kind)) for kind in ("nf4", "int8")}
    assert share["nf4"] <= 0.30 * stored_bytes(shapes)
    assert share["int8"] <= 0.53 * stored_bytes(shapes)
    assert stored_bytes(shapes) == 2 * sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_leaf_by_leaf_is_the_same():
    each, base = quantizer("nf4"), tree()
    one_by_one = {path: each(path, leaf) for path, leaf in paths.flatten(base).items()}
    whole = paths.flatten(lorax.quantize(base, "nf4"))
    for got, want in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "int3"}, "kind"),
        ({"where": ("nothing",)}, "matches none"),
        ({"where": (".*/lm_head/.*",), "block": 48}, "input axis of 64.*blocks of 48"),
        ({"where": (".*/embed/embedding",), "block": 64}, "input axis of 16.*set block=16"),
        ({"where": ("params/steps",)}, "'params/steps' has dtype int32"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    arguments = {"kind": "nf4"} | arguments
    with pytest.raises(lorax.LoraxError, match=message) as error:
        lorax.quantize(tree(), **arguments)
    assert "\n" not in str(error.value)


def test_vectors_and_what_is_quantised_already_are_refused():
    with pytest.raises(lorax.LoraxError, match=r"shape \(3,\): expected a matrix"):
        lorax.quantize({"a": jnp.ones(3)}, "int8", where=("a",))
    with pytest.raises(lorax.LoraxError, match="quantised already"):
        lorax.quantize(lorax.quantize(tree(), "int8"), "int8")


def test_without_qwix_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(lorax.LoraxError, match=r"pip install 'lorax-flax\[quant\]'") as error:
        lorax.quantize(tree(), "int8")
    assert "\n" not in str(error.value)
