"""Factors lie as their leaf does, for every adapter, from shapes alone."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import lorax
from lorax.adapters.padded import Padded
from lorax.core.leaf import Factors, Roles
from lorax.parallel.factors import delta_specs
from lorax.parallel.mesh import make_mesh

MESH = make_mesh(1, 2, 2, devices=jax.devices()[:4])
BASE = {
    "layers/kernel": jnp.ones((3, 4, 8)),
    "embed": jnp.ones((8, 4)),
    "bias": jnp.ones(8),
}
SPECS = {
    "layers/kernel": P(None, "fsdp", "tensor"),
    "embed": P("tensor", "fsdp"),
    "bias": P("tensor"),
}
ROLES = {
    "layers/kernel": Roles((0,), (1,), (2,)),
    "embed": Roles((), (0,), (1,), "gather"),
    "bias": Roles((), (), (0,), "other"),
}
STACKED = Factors(P(None, "fsdp", None), P(None, None, "tensor"), ROLES["layers/kernel"])
LOOKED_UP = Factors(P("tensor", None), P(None, "fsdp"), ROLES["embed"])


def found(adapter, replicate_below=0):
    delta = jax.eval_shape(lambda: adapter.init(jax.random.key(0), BASE, ROLES))
    specs = delta_specs(delta, SPECS, MESH, replicate_below)
    is_spec = lambda node: isinstance(node, P)
    assert jax.tree.structure(specs, is_leaf=is_spec) == jax.tree.structure(delta)
    return specs


def test_a_has_the_inputs_and_b_the_outputs():
    lora = lorax.LoRA(rank=2, where=("layers/kernel", "embed"))
    assert found(lora) == {"layers/kernel": STACKED, "embed": LOOKED_UP}


def test_small_factors_are_whole_one_by_one():
    lora = lorax.LoRA(rank=2, where=("layers/kernel",))  # A has 24 numbers, B 48
    assert found(lora, 24)["layers/kernel"] == STACKED
    assert found(lora, 25)["layers/kernel"].A == P()
    assert found(lora, 48)["layers/kernel"].B == STACKED.B
    assert found(lora, 49)["layers/kernel"].B == P()


@pytest.mark.parametrize("initializer", ["gaussian", "pissa"])
def test_members_of_a_chain_and_of_a_pack(initializer):
    lora = lorax.LoRA(rank=2, where=("layers/kernel",), dropout=0.1, initializer=initializer)
    chain = lorax.Chain(lora, lorax.Full(where=("embed",)), lorax.BitFit())
    wanted = ({"layers/kernel": STACKED}, {"embed": P("tensor", "fsdp")}, {"bias": P("tensor")})
    assert found(chain) == wanted
    packed = found(Padded(chain))
    assert packed.delta == wanted
    assert packed.scale == packed.dropout == {"layers/kernel": P()}
    assert packed.offset == ({"layers/kernel": STACKED} if initializer == "pissa" else {})


def test_what_is_no_factor_and_no_leaf_is_whole():
    names = ("layers/kernel",)
    dora = found(lorax.DoRA(rank=2, where=names))
    assert dora == {"lora": {"layers/kernel": STACKED}, "magnitude": {"layers/kernel": P()}}
    xs = found(lorax.LoRAXS(rank=4, where=names))["layers/kernel"]
    assert xs.arrays == {"R": P()}
    below = {"layers/kernel": {"down": jnp.ones((3, 8, 4))}}  # as many axes as the leaf
    assert delta_specs(below, SPECS, MESH) == {"layers/kernel": {"down": P()}}


def test_numbers_of_all_leaves_are_whole():
    subspace = lorax.Subspace(dim=8, where=("layers/kernel",), layerwise=True)
    assert found(subspace) == {"theta": P(), "scales": P()}


def test_what_does_not_divide_is_whole():
    roles = Roles((), (0,), (1,))
    pair = Factors(jnp.ones((6, 2)), jnp.ones((2, 5)), roles)
    specs = {"w": P("tensor", "fsdp")}
    assert delta_specs({"w": pair}, specs, MESH) == {"w": Factors(P("tensor", None), P(), roles)}
    stacked = jax.tree.map(lambda x: x[None], pair)  # a pack of one
    assert delta_specs({"w": stacked}, specs, MESH) == {"w": Factors(P(), P(), roles)}
    assert delta_specs({"w": jnp.ones((6, 5))}, specs, MESH) == {"w": P()}
    assert delta_specs({"other": pair}, specs, MESH) == {"other": Factors(P(), P(), roles)}
