"""Programs inside programs: factors are sliced and split as W0 is, and rules keep their meaning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lorax
from tests.jaxprs import equations
from tests.programs import PROGRAMS

ADAPTER = lorax.LoRA(rank=2, alpha=3.0, where=("w",))


def _start(fn, base, x, **kwargs):
    apply = lorax.adapt(fn, ADAPTER, on_fallback="error", **kwargs)
    delta = apply.init(jax.random.key(0), base, x)
    return apply, jax.tree.map(lambda leaf: leaf + 0.1, delta)


def test_scan_slices_the_factors_and_restacks_nothing():
    base, x = {"w": jnp.ones((5, 4, 4)) * 0.1}, jnp.ones((2, 4))
    fn = lambda base, x: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, base["w"])[0]
    apply, delta = _start(fn, base, x)
    eqns = list(equations(jax.make_jaxpr(apply)(base, delta, x).jaxpr))
    (scan,) = (eqn for eqn in eqns if eqn.primitive.name == "scan")
    shapes = [v.aval.shape for v in scan.invars]
    assert (5, 4, 4) in shapes and (5, 4, 2) in shapes and (5, 2, 4) in shapes
    made = {eqn.primitive.name for eqn in eqns}
    assert not made & {"concatenate", "stack", "dynamic_update_slice", "transpose", "copy"}


def test_a_scan_over_another_axis_than_the_first():
    base, x = {"w": jax.random.normal(jax.random.key(3), (4, 5, 4))}, jnp.ones((2, 4))
    step = lambda x, w: (jnp.tanh(x @ w), None)
    fn = lambda base, x: lax.scan(step, x, jnp.moveaxis(base["w"], 1, 0), reverse=True)[0]
    apply, delta = _start(fn, base, x)
    assert delta["w"].roles == lorax.Roles((1,), (0,), (2,))
    want = fn(ADAPTER.merge(base, delta), x)
    np.testing.assert_allclose(apply(base, delta, x), want, rtol=1e-5)


def test_remat_keeps_its_policy():
    base, x = {"w": jnp.eye(4)}, jnp.ones((2, 4))
    policy = jax.checkpoint_policies.dots_saveable
    fn = lambda base, x: jax.checkpoint(lambda w, x: jnp.sin(x @ w), policy=policy)(base["w"], x)
    apply, delta = _start(fn, base, x)
    eqns = list(equations(jax.make_jaxpr(apply)(base, delta, x).jaxpr))
    (remat,) = (eqn for eqn in eqns if "policy" in eqn.params)
    assert remat.params["policy"] is policy


def test_a_carried_leaf_is_merged_once_and_says_so():
    base, x = {"w": jnp.eye(4)}, jnp.ones((2, 4))

    def fn(base, x):
        return lax.fori_loop(0, 2, lambda _, c: (c[0] @ c[1], c[1] * 1.0), (x, base["w"]))[0]

    delta = jax.tree.map(lambda leaf: leaf + 0.1, ADAPTER.init(jax.random.key(0), base))
    with pytest.warns(lorax.LoraxWarning, match=r"'w' \((while|scan)\)"):
        out = lorax.adapt(fn, ADAPTER)(base, delta, x)
    np.testing.assert_allclose(out, fn(ADAPTER.merge(base, delta), x), rtol=1e-5)


@pytest.mark.parametrize(("name", "factor"), [("custom_vjp", 0.5), ("custom_jvp", 3.0)])
def test_an_author_s_derivative_is_kept(name, factor):
    program = PROGRAMS[name]()
    apply, delta = _start(program.fn, program.base, program.x)
    plain = lambda base, x: x @ base["w"]
    slope = lambda fn: jax.grad(lambda d: fn(d).sum())(delta)
    ours = slope(lambda d: apply(program.base, d, program.x))
    bare = slope(lambda d: plain(ADAPTER.merge(program.base, d), program.x))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(bare), strict=True):
        np.testing.assert_allclose(a, factor * b, rtol=1e-4)
    report = lorax.report(program.fn, ADAPTER, program.base, program.x)
    assert "author's rule" in report.rows[0].why and report.rows[0].how == "factored"
    forward = str(jax.make_jaxpr(apply)(program.base, delta, program.x))
    assert "f32[3,2]" in forward  # (tokens, rank): factored where it is only evaluated


def test_shardings_that_an_inner_jit_asked_for_are_kept():
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rows = NamedSharding(mesh, P("data", None))
    inner = jax.jit(lambda w, x: x @ w, out_shardings=rows)
    base, x = {"w": jnp.eye(4)}, jnp.ones((2, 4))
    apply, delta = _start(lambda base, x: inner(base["w"], x), base, x)
    out = jax.jit(apply)(base, delta, x)
    assert out.sharding.is_equivalent_to(rows, out.ndim)


def test_constants_of_an_inner_program_are_found():
    table = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    inner = jax.jit(lambda w: jnp.asarray(table) @ w)
    base = {"w": jnp.eye(4)}
    apply, delta = _start(lambda base, x: inner(base["w"]) + x, base, jnp.zeros(()))
    want = table @ ADAPTER.merge(base, delta)["w"]
    np.testing.assert_allclose(apply(base, delta, jnp.zeros(())), want, rtol=1e-5)
