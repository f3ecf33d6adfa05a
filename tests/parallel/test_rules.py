"""Rules from paths to specs: total, the first match wins, and every mistake names its leaf."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from lorax.core.errors import LoraxError
from lorax.parallel.mesh import make_mesh
from lorax.parallel.rules import REPLICATED, divides, names_of, specs, ways

MESH = make_mesh(1, 2, 2, devices=jax.devices()[:4])


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_one_table_serves_stacked_and_single_layers():
    base = {
        "layer_0": {"up": {"kernel": shape(4, 8), "bias": shape(8)}},
        "layers": {"up": {"kernel": shape(3, 4, 8), "bias": shape(3, 8)}},
    }
    rules = ((r".*/up/kernel", P("fsdp", "tensor")), (r".*/bias", P("tensor")))
    assert specs(base, rules, MESH) == {
        "layer_0/up/bias": P("tensor"),
        "layer_0/up/kernel": P("fsdp", "tensor"),
        "layers/up/bias": P(None, "tensor"),
        "layers/up/kernel": P(None, "fsdp", "tensor"),
    }


def test_the_first_match_wins():
    rules = ((r"a", P("fsdp")), (r".*", P()))
    assert specs({"a": shape(4), "b": shape(4)}, rules, MESH) == {"a": P("fsdp"), "b": P(None)}
    assert specs({"a": shape(4)}, rules[::-1], MESH) == {"a": P(None)}


def test_any_tree_can_be_replicated():
    state = nnx.state(nnx.Linear(4, 8, rngs=nnx.Rngs(0)))
    assert specs(state, REPLICATED, MESH) == {"bias": P(None), "kernel": P(None, None)}
    assert specs([np.ones(3), (np.float32(1),)], REPLICATED, MESH) == {"0": P(None), "1/0": P()}


@pytest.mark.parametrize(
    ("base", "rules", "message"),
    [
        (
            {"a": shape(4), "b": shape(4), "c": shape(4)},
            ((r"b", P()),),
            "no rule covers 2 of the leaves: 'a', 'c'; expected one for every leaf: add one, or "
            "end with ('.*', PartitionSpec()), which replicates the rest",
        ),
        (
            {"head": shape(4, 50257)},
            ((r".*", P("fsdp", "tensor")),),
            "axis 1 of 'head' has length 50257, which tensor=2 does not divide: expected a "
            "multiple of 2, the nearest 50256 or 50258; or make the product of these mesh axes 1, "
            "the nearest that divides",
        ),
        (
            {"wide": shape(6)},
            ((r".*", P(("fsdp", "tensor"))),),
            "axis 0 of 'wide' has length 6, which fsdp=2 × tensor=2 does not divide: expected a "
            "multiple of 4, the nearest 4 or 8; or make the product of these mesh axes 3, the "
            "nearest that divides",
        ),
        (
            {"tiny": shape(1)},
            ((r".*", P("fsdp")),),
            "axis 0 of 'tiny' has length 1, which fsdp=2 does not divide: expected a multiple of "
            "2, the nearest 2; or make the product of these mesh axes 1, the nearest that divides",
        ),
        (
            {"a": shape(4)},
            ((r"a", P("model")),),
            "rule 'a' names the axis 'model': expected one of 'data', 'fsdp', 'tensor', the axes "
            "of the mesh",
        ),
        (
            {"a": shape(4)},
            ((r"a", P("fsdp", "tensor")),),
            "rule 'a' has 2 entries and 'a' has shape (4,): expected at most one an axis; put a "
            "rule for this leaf before it",
        ),
    ],
)
def test_a_mistake_names_its_leaf(base, rules, message):
    with pytest.raises(LoraxError) as error:
        specs(base, rules, MESH)
    assert str(error.value) == message


def test_a_rule_must_be_a_pattern():
    with pytest.raises(LoraxError, match=re.escape("rule '(' is not a regular expression")):
        specs({"a": shape(4)}, ((r"(", P()),), MESH)


@given(st.integers(1, 40), st.sampled_from([None, "fsdp", "tensor", ("fsdp", "tensor"), "data"]))
def test_what_is_refused_is_what_does_not_divide(length, entry):
    parts = ways(entry, MESH)
    assert parts == 2 ** len([name for name in names_of(entry) if name != "data"])
    assert divides((length,), P(entry), MESH) == (length % parts == 0)
    if length % parts:
        with pytest.raises(LoraxError) as error:
            specs({"x": shape(length)}, ((r"x", P(entry)),), MESH)
        product = int(re.search(r"these mesh axes (\d+)", str(error.value)).group(1))
        assert length % product == 0
        near = re.search(r"the nearest ([\d or]+);", str(error.value)).group(1).split(" or ")
        assert all(int(n) % parts == 0 and abs(int(n) - length) < parts for n in near)
    else:
        assert specs({"x": shape(length)}, ((r"x", P(entry)),), MESH) == {"x": P(entry)}
