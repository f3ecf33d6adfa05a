"""Where everything of a step lies, and that what is put there comes back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import lorax
from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.parallel.layout import Layout, single
from lorax.parallel.mesh import make_mesh
from lorax.parallel.rules import REPLICATED
from lorax.train.step import init_state, make_step

MESH = make_mesh(1, 2, 2, devices=jax.devices()[:4])
RULES = ((r"w", P("fsdp", "tensor")), (r"b", P("tensor")))
LAYOUT = Layout(MESH, RULES, 0)
BASE = {"w": np.arange(32, dtype=np.float32).reshape(4, 8) / 32, "b": np.ones(8, np.float32)}
LORA = lorax.LoRA(rank=2, where=("w",))
ADAPTER = lorax.Chain(LORA, lorax.BitFit(where=("b",)))
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def specs(tree):
    return jax.tree.map(lambda sharding: sharding.spec, tree)


def state():
    delta = ADAPTER.init(jax.random.key(0), BASE)
    return init_state(delta, TX, jax.random.key(1))


def test_one_device_has_everything_as_it_is():
    layout, tree = single(), {"a": np.arange(3)}
    assert layout.place(tree, layout.base(tree)) is tree is layout.whole(tree)
    assert layout.batch(tree) is tree and layout.rows == (0, 1)
    assert layout.batches is layout.delta(tree, tree) is layout.shardings(None, tree) is None


def test_the_optimizers_numbers_lie_as_the_factors_that_they_belong_to():
    found = LAYOUT.state(state(), BASE)
    lies = specs(found.delta)
    assert (lies[0]["w"].A, lies[0]["w"].B) == (P("fsdp", None), P(None, "tensor"))
    assert lies[1] == {"b": P("tensor")}
    adam = found.opt_state[1][0]
    assert adam.mu == adam.nu == found.delta
    assert adam.count.spec == found.step.spec == found.key.spec == P()
    assert specs(LAYOUT.base(BASE)) == {"w": P("fsdp", "tensor"), "b": P("tensor")}
    assert LAYOUT.batches.spec == P(("data", "fsdp"))


def test_numbers_of_another_shape_than_the_factor_are_whole():
    tx = optax.adafactor(1e-2, min_dim_size_to_factor=1)
    found = LAYOUT.state(
        init_state(LORA.init(jax.random.key(0), BASE), tx, jax.random.key(0)), BASE
    )
    whole = {s.spec for s in jax.tree.leaves(found.opt_state)}
    assert whole == {P()}


def test_a_prepared_base_has_its_factors_beside_it():
    pissa = lorax.LoRA(rank=2, where=("w",), initializer="pissa")
    delta = pissa.init(jax.random.key(0), BASE)
    prepared = pissa.prepare(BASE, delta)
    found = LAYOUT.base(prepared)
    assert specs(found.base) == specs(LAYOUT.base(BASE))
    assert specs(found.derived) == specs(LAYOUT.delta(delta, BASE))
    placed = LAYOUT.place(prepared, found)
    assert placed.derived["w"].A.sharding.spec == P("fsdp", None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Codes:
    """Has what a quantised leaf has, see `lorax.core.packed`."""

    qvalue: jax.Array
    scale: jax.Array
    zero_point: None = None
    qtype: str = dataclasses.field(default="int8", metadata={"static": True})
    shape = property(lambda self: self.qvalue.shape)
    ndim = property(lambda self: self.qvalue.ndim)
    dtype = property(lambda self: jnp.dtype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("scales", "lies"),
    [
        ((1, 8), P(None, "tensor")),
        ((2, 8), P("fsdp", "tensor")),  # runs of two
        ((1, 1), P(None, None)),
    ],
)
def test_codes_lie_as_their_matrix_and_scales_where_they_divide(scales, lies):
    base = {"w": Codes(jnp.ones((4, 8), jnp.int8), jnp.ones(scales)), "b": jnp.ones(8)}
    found = LAYOUT.base(base)
    assert (found["w"].qvalue.spec, found["w"].scale.spec) == (P("fsdp", "tensor"), lies)
    assert LAYOUT.place(base, found)["w"].qvalue.sharding == found["w"].qvalue
    assert (
        LAYOUT.delta({"w": LORA.init(jax.random.key(0), base)["w"]}, base)["w"].A.spec[0] == "fsdp"
    )


def test_what_is_put_somewhere_comes_back_bit_by_bit():
    begun = state()
    placed = LAYOUT.place(begun, LAYOUT.state(begun, BASE))
    assert placed.delta[0]["w"].A.sharding.spec == P("fsdp", None)
    back = LAYOUT.whole(placed)
    assert jax.tree.structure(back) == jax.tree.structure(begun)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(begun), strict=True):
        data = jax.random.key_data if jnp.issubdtype(y.dtype, jax.dtypes.prng_key) else np.asarray
        assert (np.asarray(data(x)) == np.asarray(data(y))).all()
    everywhere = LAYOUT.place(BASE, NamedSharding(MESH, P()))
    assert all(x.is_fully_replicated for x in jax.tree.leaves(everywhere))


def test_a_batch_is_cut_along_its_rows():
    tokens = np.arange(24, dtype=np.int32).reshape(4, 6)
    batch = LAYOUT.batch(Batch(tokens, tokens[:, 0], tokens > 3))
    assert batch.inputs.sharding.spec == P(("data", "fsdp")) and batch.segments is None
    assert {shard.data.shape for shard in batch.inputs.addressable_shards} == {(2, 6)}
    assert (np.asarray(batch.inputs) == tokens).all() and batch.targets.shape == (4,)
    assert LAYOUT.rows == (0, 1)
    with pytest.raises(LoraxError) as error:
        LAYOUT.batch(tokens[:3])
    assert str(error.value) == (
        "a batch of 3 rows on a mesh that cuts it into 2: expected a multiple of 2; change the "
        "batch, or data and fsdp of the mesh"
    )


def test_a_step_keeps_its_state_where_it_was():
    def loss(delta, base, batch, key):
        apply = lorax.adapt(lambda p, x: x @ p["w"] + p["b"], ADAPTER)
        return (apply(base, delta, batch) ** 2).mean(), {"examples": jnp.float32(len(batch))}

    rows = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    ends = []
    for layout in (single(), LAYOUT, Layout(MESH, REPLICATED)):
        begun = state()
        lie = layout.shardings(begun, BASE)
        step = make_step(loss, TX, shardings=lie)
        now = layout.place(begun, lie and lie[0])
        base = layout.place(BASE, lie and lie[1])
        for _ in range(3):
            now, metrics = step(now, base, layout.batch(rows))
        if lie:
            assert jax.tree.map(lambda x: x.sharding, now) == lie[0]
        ends.append((float(metrics["loss"]), layout.whole(now.delta)))
    for value, delta in ends[1:]:
        np.testing.assert_allclose(value, ends[0][0], rtol=1e-6)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), delta, ends[0][1])
