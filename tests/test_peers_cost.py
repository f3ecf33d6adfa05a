"""The peers' defects that show in the compiled program: copies, constants, wasted products.

Rows of `jax_lora_peers.md`, section 3; the others are in test_peers.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import lorax
from tests.jaxprs import constants, equations

KEY = jax.random.key(0)
F32 = jnp.float32
LAYERS, WIDTH, RANK, TOKENS = 5, 24, 2, 7
BASE = {"w": jax.random.normal(KEY, (LAYERS, WIDTH, WIDTH)) / 5}
X = jax.random.normal(jax.random.key(1), (TOKENS, WIDTH))
LORA = lorax.LoRA(rank=RANK, where=("w",))


def scanned(base, x):
    """Layers under scan."""
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, base["w"])[0]


def rematted(base, x):
    """The same with checkpointed layers."""
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return lax.scan(layer, x, base["w"])[0]


def gradient(fn, adapter=LORA, **kwargs):
    """The gradient with respect to the delta, of (base, delta, x)."""
    apply = lorax.adapt(fn, adapter, on_fallback="error", **kwargs)
    return jax.grad(lambda base, delta, x: jnp.sum(apply(base, delta, x) ** 2), argnums=1)


DELTA = lorax.adapt(scanned, LORA).init(KEY, BASE, X)
COPIES = ("concatenate", "dynamic_update_slice", "scatter", "pad", "stack", "copy", "gather")


@pytest.mark.parametrize("fn", [scanned, rematted])
def test_scan_neither_restacks_nor_copies_weights_and_factors(fn):
    """maxtext: 1194 MB restacked for each adapter of 6.1 MB."""
    large = {BASE["w"].shape, DELTA["w"].A.shape, DELTA["w"].B.shape}
    for program in (lorax.adapt(fn, LORA), gradient(fn)):
        jaxpr = jax.make_jaxpr(program)(BASE, DELTA, X).jaxpr
        made = {
            eqn.primitive.name
            for eqn in equations(jaxpr)
            for v in eqn.outvars
            if v.aval.shape in large
        }
        assert not made & set(COPIES), made
        (loop, *_) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
        assert {v.aval.shape for v in loop.invars} >= large  # sliced by the loop itself


@pytest.mark.parametrize("fn", [scanned, rematted])
def test_the_gradient_of_a_weight_is_never_formed(fn):
    """lx and quax: dW is formed, then zeroed."""

    def formed(slope):
        jaxpr = jax.make_jaxpr(slope)(BASE, DELTA, X).jaxpr
        products = (e for e in equations(jaxpr) if e.primitive.name in ("dot_general", "add_any"))
        return [e for e in products for v in e.outvars if v.aval.shape[-2:] == (WIDTH, WIDTH)]

    assert not formed(gradient(fn))
    assert formed(gradient(fn, engine="merged"))  # what is looked for is there where one merges


def _flops(engine):
    """Flops of the gradient over two unrolled layers, of the floor, and of the low-rank products.

    The floor: x W0 in both layers, and the cotangent of the second's input.
    """
    width, tokens, rank = 128, 64, 4
    base = {f"w{i}": jax.ShapeDtypeStruct((width, width), F32) for i in range(2)}
    x = jax.ShapeDtypeStruct((tokens, width), F32)
    fn = lambda base, x: (x @ base["w0"]) @ base["w1"]
    adapter = lorax.LoRA(rank=rank)
    roles = lorax.roles(fn, base, x)
    delta = jax.eval_shape(lambda base: adapter.init(KEY, base, roles), base)
    compiled = jax.jit(gradient(fn, adapter, engine=engine)).lower(base, delta, x).compile()
    floor = 3 * 2 * tokens * width**2
    # each layer: x A, (x A) B; then the cotangents of B, of x A and of A; in the second, of x
    low_rank = (5 + 6) * 2 * tokens * width * rank
    return compiled.cost_analysis()["flops"], floor, low_rank


def test_flops_are_at_the_floor_and_merging_costs_half_as_much_again():
    factored, floor, low_rank = _flops("factored")
    merged, _, _ = _flops("merged")
    assert floor < factored <= 1.1 * (floor + low_rank)
    assert merged > 1.4 * factored


def test_no_base_array_is_a_constant_of_the_step():
    """SkyRL: the base captured as a constant of the jitted step."""
    base = {"w": jnp.ones((2, 256, 256))}
    x = jnp.ones((2, 256))
    delta = lorax.adapt(scanned, LORA).init(KEY, base, x)
    step = jax.jit(gradient(scanned))
    held = list(constants(jax.make_jaxpr(step)(base, delta, x)))
    assert sum(np.size(array) for array in held) < 16
    captured = jax.jit(lambda delta, x: gradient(scanned)(base, delta, x))
    sizes = [len(step.lower(base, delta, x).as_text()), len(captured.lower(delta, x).as_text())]
    assert sizes[0] < 50_000 and sizes[0] < base["w"].nbytes / 8
    seen = list(constants(jax.make_jaxpr(captured)(delta, x)))
    assert sum(np.size(array) for array in seen) >= base["w"].size  # the check can fail


def test_merge_keeps_its_input_and_ten_round_trips_are_exact():
    """lx: input tree destroyed by default. maxtext: unmerge by subtraction in bfloat16."""
    base = {"w": BASE["w"].astype(jnp.bfloat16), "other": jnp.ones(3)}
    delta = jax.tree.map(lambda leaf: leaf + 0.3, DELTA)
    before, arrays = np.asarray(base["w"]).tobytes(), dict(base)
    merge = jax.jit(LORA.merge)
    merged = merge(base, delta)
    for _ in range(10):  # merging is never undone: the base is what it always was
        again = merge(base, delta)
        assert np.asarray(again["w"]).tobytes() == np.asarray(merged["w"]).tobytes()
    assert base["w"] is arrays["w"] and not base["w"].is_deleted()
    assert np.asarray(base["w"]).tobytes() == before != np.asarray(merged["w"]).tobytes()
    assert LORA.merge(base, delta)["other"] is base["other"]
    scanned(merged, X.astype(jnp.bfloat16))


def test_the_output_at_the_start_is_the_base_s_bit_for_bit():
    """levanter and openpi: ΔW is not zero at the start."""
    for initializer in ("kaiming", "gaussian"):
        adapter = lorax.LoRA(rank=RANK, initializer=initializer)
        for fn in (scanned, rematted):
            apply = lorax.adapt(fn, adapter, on_fallback="error")
            delta = apply.init(KEY, BASE, X)
            ours, theirs = jax.jit(apply)(BASE, delta, X), jax.jit(fn)(BASE, X)
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_factors_of_a_stack_start_as_those_of_one_layer():
    """magix, qwix and gemma: the layers are counted as fan-in; magix: scale α / in when stacked."""
    single = {"w": jax.ShapeDtypeStruct((400, 8), F32)}
    many = {"w": jax.ShapeDtypeStruct((3, 400, 8), F32)}
    alone = LORA.init(KEY, single)["w"].A
    stack = LORA.init(KEY, many, {"w": lorax.Roles((0,), (1,), (2,))})["w"].A
    np.testing.assert_allclose(stack.std(axis=(1, 2)), 3 * [float(alone.std())], rtol=0.1)
    assert LORA.scale_of("w") == 16.0 / RANK  # from the config, never from a shape


def test_one_tree_users_have_frozen_leaves_and_the_right_norm():
    """optax users: masked-out leaves move, and clipping counts frozen gradients."""
    tree = {"base": jnp.ones(2), "delta": jnp.ones(2)}
    tx = lorax.freeze_base(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)))
    updates, _ = tx.update(tree, tx.init(tree), tree)
    np.testing.assert_array_equal(updates["base"], np.zeros(2))
    np.testing.assert_allclose(jnp.linalg.norm(updates["delta"]), 1.0, rtol=1e-6)


def test_every_public_name_exists_and_has_a_docstring():
    """gemma: fuse is documented, and raises."""
    assert len(lorax.__all__) == len(set(lorax.__all__))
    for name in lorax.__all__:
        thing = getattr(lorax, name)
        assert thing.__doc__ and thing.__doc__.strip(), name
        public = (
            [m for m in vars(thing) if not m.startswith("_")] if isinstance(thing, type) else []
        )
        for method in public:
            if callable(getattr(thing, method)):
                assert getattr(thing, method).__doc__, f"{name}.{method}"
