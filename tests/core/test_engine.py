"""`adapt`: the contract of its arguments, its traces and its errors."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax

BASE = {
    "first": jax.random.normal(jax.random.key(0), (4, 6)),
    "second": jax.random.normal(jax.random.key(1), (6, 3)),
    "steps": jnp.asarray(3),
}
X = jnp.ones((2, 4))
ADAPTER = lorax.LoRA(rank=2, where=("first", "second"))


def program(base, x, activation="tanh", *, scale=1.0, deterministic=True):
    """Python values choose the branch, as in Flax modules."""
    assert isinstance(deterministic, bool) and isinstance(scale, float)
    hidden = getattr(jnp, activation)(x @ base["first"])
    return {"logits": hidden @ base["second"] * scale, "steps": base["steps"], "name": None}


def _moved(apply):
    delta = apply.init(jax.random.key(2), BASE, X)
    return jax.tree.map(lambda leaf: leaf + 0.1, delta)


def test_python_values_stay_python_values_and_trees_keep_their_form():
    apply = lorax.adapt(program, ADAPTER, on_fallback="error")
    delta = _moved(apply)
    out = apply(BASE, delta, X, "sin", scale=2.0, deterministic=False)
    want = program(ADAPTER.merge(BASE, delta), X, "sin", scale=2.0, deterministic=False)
    assert out["name"] is None and out["steps"] == 3
    np.testing.assert_allclose(out["logits"], want["logits"], rtol=1e-5)


def test_the_signature_is_that_of_the_program():
    apply = lorax.adapt(program, ADAPTER)
    assert list(inspect.signature(apply).parameters) == [
        "base", "delta", "x", "activation", "scale", "deterministic",
    ]  # fmt: skip
    assert apply.__name__ == "adapted_program"
    jitted = jax.jit(apply, static_argnames=("activation", "scale", "deterministic"))
    delta = _moved(apply)
    np.testing.assert_allclose(
        jitted(BASE, delta, X, "cos")["logits"], apply(BASE, delta, X, "cos")["logits"], rtol=1e-5
    )


def test_calls_in_and_outside_jit_agree_and_do_not_depend_on_order():
    apply = lorax.adapt(program, ADAPTER, on_fallback="error")
    delta = _moved(apply)
    jitted = jax.jit(apply)
    outputs = [fn(BASE, delta, X)["logits"] for fn in (jitted, apply, jitted, apply)]
    for out in outputs[1:]:
        np.testing.assert_allclose(out, outputs[0], rtol=1e-6)


def test_shapes_suffice_for_init():
    apply = lorax.adapt(program, ADAPTER)
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    for ours, theirs in zip(
        jax.tree.leaves(apply.init(jax.random.key(2), BASE, shape)),
        jax.tree.leaves(apply.init(jax.random.key(2), BASE, X)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_no_array_of_the_base_is_a_constant_of_the_step():
    apply = lorax.adapt(program, ADAPTER)
    delta = _moved(apply)
    loss = lambda delta, base, x: (apply(base, delta, x)["logits"] ** 2).sum()
    step = jax.jit(lambda base, delta, x: jax.value_and_grad(loss)(delta, base, x))
    closed = jax.make_jaxpr(step)(BASE, delta, X)
    held = list(closed.consts)
    for eqn in closed.jaxpr.eqns:
        held += [c for p in eqn.params.values() for c in getattr(p, "consts", ())]
    assert not [c for c in held if jnp.shape(c) in {(4, 6), (6, 3)}]
    compiled = step.lower(BASE, delta, X).compile()
    sizes = compiled.memory_analysis()
    read = {k: BASE[k] for k in ("first", "second")}  # jit prunes what a program never reads
    given = sum(leaf.nbytes for leaf in jax.tree.leaves((read, delta, X)))
    assert sizes.argument_size_in_bytes == given


def test_gradient_with_respect_to_base_and_input_flow_too():
    """Nothing is stopped: who asks for the gradient of the base gets the right one."""
    apply = lorax.adapt(program, ADAPTER, on_fallback="error")
    delta = _moved(apply)
    total = lambda fn: lambda *args: fn(*args)["logits"].sum()
    weights = {k: BASE[k] for k in ("first", "second")}
    ours = jax.grad(lambda w, x: total(apply)(BASE | w, delta, x), argnums=(0, 1))(weights, X)
    merged = lambda w, x: total(program)(ADAPTER.merge(BASE | w, delta), x)
    theirs = jax.grad(merged, argnums=(0, 1))(weights, X)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_forward_mode_and_second_derivatives():
    apply = lorax.adapt(program, ADAPTER, on_fallback="error")
    merged = lorax.adapt(program, ADAPTER, engine="merged")
    delta = _moved(apply)
    tangent = jax.tree.map(jnp.ones_like, delta)

    def curvature(fn):
        loss = lambda d: jnp.sin(fn(BASE, d, X)["logits"]).sum()
        return jax.jvp(jax.grad(loss), (delta,), (tangent,))[1]

    ours, theirs = curvature(apply), curvature(merged)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_leaves_that_are_no_arrays_belong_to_the_program():
    base = {"w": jnp.eye(3), "activation": jnp.tanh, "name": "tanh"}
    fn = lambda base, x: base["activation"](x @ base["w"])
    apply = lorax.adapt(fn, lorax.LoRA(rank=1, where=("w",)), on_fallback="error")
    x = jnp.ones((2, 3))
    delta = apply.init(jax.random.key(0), base, x)
    np.testing.assert_array_equal(apply(base, delta, x), fn(base, x))


def test_a_sharded_base_gives_the_same_numbers():
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    base = BASE | {
        "first": jax.device_put(BASE["first"], NamedSharding(mesh, P(None, "model"))),
        "second": jax.device_put(BASE["second"], NamedSharding(mesh, P("model", None))),
        "steps": jax.device_put(BASE["steps"], NamedSharding(mesh, P())),
    }
    x = jax.device_put(X, NamedSharding(mesh, P("data", None)))
    apply = lorax.adapt(program, ADAPTER, on_fallback="error")
    delta = _moved(apply)
    want = apply(BASE, delta, X)["logits"]
    np.testing.assert_allclose(jax.jit(apply)(base, delta, x)["logits"], want, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"engine": "fused"}, lorax.LoraxError, "engine is 'fused': expected one of 'factored'"),
        ({"on_fallback": "raise"}, lorax.LoraxError, "on_fallback is 'raise': expected one of"),
        ({"fn": 3}, lorax.LoraxTypeError, "fn is a int: expected a function"),
        ({"adapter": lorax.LoRA}, lorax.LoraxTypeError, "expected an adapter such as LoRA"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(change, error, message):
    arguments = {"fn": program, "adapter": ADAPTER} | change
    with pytest.raises(error, match=message) as caught:
        lorax.adapt(arguments.pop("fn"), arguments.pop("adapter"), **arguments)
    assert "\n" not in str(caught.value)


def test_a_fallback_is_an_error_a_warning_or_nothing():
    fn = lambda base, x: x @ jnp.exp(base["w"])
    base, adapter = {"w": jnp.zeros((3, 2))}, lorax.LoRA(rank=1, where=("w",))
    delta = jax.tree.map(lambda leaf: leaf + 0.2, adapter.init(jax.random.key(0), base))
    x = jnp.ones((2, 3))
    with pytest.raises(lorax.LoraxError, match="'w' enters 'exp', which has no factored form"):
        lorax.adapt(fn, adapter, on_fallback="error")(base, delta, x)
    with pytest.warns(lorax.LoraxWarning, match=r"merged 1 adapted leaves.*'w' \(exp\)"):
        warned = lorax.adapt(fn, adapter)(base, delta, x)
    quiet = lorax.adapt(fn, adapter, on_fallback="allow")(base, delta, x)
    want = fn(adapter.merge(base, delta), x)
    np.testing.assert_allclose(warned, want, rtol=1e-6)
    np.testing.assert_allclose(quiet, want, rtol=1e-6)


def test_an_nnx_model_in_training_keeps_its_own_state():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.linear(x))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    fn = lambda params, rest, x: nnx.merge(graph, params, rest)(x)
    adapter = lorax.LoRA(rank=1)
    apply = lorax.adapt(fn, adapter, on_fallback="error")
    delta = apply.init(jax.random.key(0), params, rest, X)
    assert list(delta) == ["linear/kernel"]
    np.testing.assert_allclose(apply(params, delta, rest, X), fn(params, rest, X), rtol=1e-6)
    whole = lambda state, x: nnx.merge(graph, state)(x)
    state = nnx.state(Net(nnx.Rngs(0)))
    assert len(lorax.report(whole, adapter, state, X).merged) == 0


@pytest.mark.parametrize(
    "adapter",
    [
        lorax.LoRA(rank=1, where=("params/.*kernel",)),
        lorax.LoRA(rank=1),
        lorax.Full(("params/.*kernel",)),
        lorax.Chain(lorax.LoRA(rank=1), lorax.BitFit()),
    ],
    ids=repr,
)
def test_swapped_arguments_are_told_in_one_line(adapter):
    base = {"params": {"up": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}}
    x, key = jnp.ones((2, 3)), jax.random.key(0)
    fn = lambda base, x: x @ base["params"]["up"]["kernel"] + base["params"]["up"]["bias"]
    apply = lorax.adapt(fn, adapter)
    delta = apply.init(key, base, x)
    apply.init(jax.random.PRNGKey(0), base, x)
    calls = {
        "key is a tree of parameters .*swapped": lambda: apply.init(base, key, x),
        "are they swapped|base and delta swapped": lambda: apply(delta, base, x),
        "are they swapped|base and delta swapped?": lambda: adapter.merge(delta, base),
        "key is 3: expected a PRNG key": lambda: apply.init(3, base, x),
        "key is float32 of shape": lambda: apply.init(x, base, x),
    }
    for words, call in calls.items():
        with pytest.raises(lorax.LoraxError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
