"""Roles come from use, never from the number of axes."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import lorax
from tests.programs import PROGRAMS

EXPECTED = {
    "dense": {"params/first/kernel": ((), (0,), (1,))},
    "dense_general": {
        "params/heads/kernel": ((), (0,), (1, 2)),
        "params/out/kernel": ((), (0, 1), (2,)),
    },
    "einsum": {"params/project/kernel": ((), (0,), (1, 2))},
    "embed_tied": {"params/embed/embedding": ((), (0,), (1,))},
    "conv": {"params/conv/kernel": ((), (0, 1, 2), (3,))},
    "conv_grouped": {"params/conv/kernel": ((), (0, 1, 2), (3,))},
    "attention": {
        "params/query/kernel": ((), (0,), (1, 2)),
        "params/out/kernel": ((), (0, 1), (2,)),
    },
    "scan_remat": {
        "params/layers/up/kernel": ((0,), (1,), (2,)),
        "params/layers/attention/out/kernel": ((0,), (1, 2), (3,)),
    },
    "fused_qkv": {"params/qkv": ((), (0,), (1,))},
    "equinox": {"layers/0/weight": ((), (1,), (0,))},
    "nnx": {"first/kernel": ((), (0,), (1,))},
    "transposed": {"w": ((), (1,), (0,))},
    "weight_on_the_left": {"w": ((), (1,), (0,))},
    "experts": {"w": ((0,), (1,), (2,))},
    "experts_routed": {"w": ((0,), (1,), (2,))},
    "experts_ragged": {"w": ((0,), (1,), (2,))},
    "fori_loop": {"w": ((0,), (1,), (2,))},
    "shared_in_scan": {"w": ((), (0,), (1,))},
    "shard_map": {"w": ((), (0,), (1,))},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_roles_of_the_program_table(name):
    program = PROGRAMS[name]()
    roles = lorax.roles(program.fn, program.base, program.x)
    for path, groups in EXPECTED[name].items():
        assert roles[path] == lorax.Roles(*groups), roles[path]


def test_kinds():
    base = {name: jnp.ones((4, 4)) for name in ("dot", "table", "added", "idle")}
    base |= {"kernel": jnp.ones((2, 2, 3, 4)), "ids": jnp.arange(3)}

    def program(base, x):
        rows = base["table"][base["ids"]]
        image = lax.conv_general_dilated(
            jnp.ones((1, 5, 5, 3)), base["kernel"], (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return (x + base["added"]) @ base["dot"], rows, image

    roles = lorax.roles(program, base, jnp.ones((4, 4)))
    kinds = {path: r.kind for path, r in roles.items()}
    assert kinds == {
        "dot": "dot", "table": "gather", "added": "other", "idle": "unused", "kernel": "conv",
        "ids": "other",
    }  # fmt: skip


def test_a_stacked_leaf_and_a_projection_of_one_shape_are_told_apart():
    base = {"layers": jnp.ones((4, 4, 4)), "heads": jnp.ones((4, 4, 4))}

    def program(base, x):
        x = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, base["layers"])[0]
        return jnp.einsum("bd,dhk->bhk", x, base["heads"])

    roles = lorax.roles(program, base, jnp.ones((2, 4)))
    assert roles["layers"] == lorax.Roles((0,), (1,), (2,))
    assert roles["heads"] == lorax.Roles((), (0,), (1, 2))


def test_uses_that_disagree_are_ambiguous_and_the_error_names_the_cure():
    base = {"w": jnp.ones((4, 2, 3))}

    def program(base, x):
        return jnp.einsum("bd,dhk->bhk", x, base["w"]), jnp.einsum(
            "bh,dhk->bdk", x[:, :2], base["w"]
        )

    x = jnp.ones((5, 4))
    roles = lorax.roles(program, base, x)
    assert roles["w"].kind == "ambiguous"
    adapter = lorax.LoRA(rank=1, where=("w",))
    with pytest.raises(
        lorax.LoraxError, match=r"roles of 'w' are ambiguous.*say which with adapter.init"
    ):
        lorax.adapt(program, adapter).init(jax.random.key(0), base, x)
    chosen = {"w": lorax.Roles((), (0,), (1, 2))}
    delta = adapter.init(jax.random.key(0), base, chosen)
    delta = jax.tree.map(lambda leaf: leaf + 0.1, delta)
    ours = lorax.adapt(program, adapter, on_fallback="error")(base, delta, x)
    theirs = program(adapter.merge(base, delta), x)
    for a, b in zip(ours, theirs, strict=True):
        assert jnp.allclose(a, b, rtol=1e-5)


def test_nothing_is_allocated_for_shapes_that_would_not_fit():
    base = {"w": jax.ShapeDtypeStruct((200_000, 200_000), jnp.float32)}
    x = jax.ShapeDtypeStruct((1_000_000, 200_000), jnp.float32)
    assert lorax.roles(lambda base, x: x @ base["w"], base, x)["w"] == lorax.Roles((), (0,), (1,))
