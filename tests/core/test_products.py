"""Products of an implicit leaf equal products of the merged one, whatever the axes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import lorax
from lorax.core.implicit import with_leaves


@st.composite
def dots(draw):
    """Dimension numbers, sizes and roles of a random dot with the leaf on a random side."""
    n_batch, n_sum = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    n_free, n_other = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    size = lambda n: [draw(st.integers(1, 4)) for _ in range(n)]
    batch, summed, free, other = size(n_batch), size(n_sum), size(n_free), size(n_other)
    leaf_order = draw(st.permutations(range(n_batch + n_sum + n_free)))
    x_order = draw(st.permutations(range(n_batch + n_sum + n_other)))
    side = draw(st.integers(0, 1))
    flipped = draw(st.booleans())  # roles learnt from a use that contracts the other side
    return batch, summed, free, other, list(leaf_order), list(x_order), side, flipped


def _program(case):
    """(fn of (base, x), shape of the leaf, shape of x, roles of the leaf)."""
    batch, summed, free, other, leaf_order, x_order, side, flipped = case
    b, s, f = len(batch), len(summed), len(free)
    shapes = [[*batch, *summed, *free], [*batch, *summed, *other]]
    orders = [leaf_order, x_order]
    where = [{axis: position for position, axis in enumerate(order)} for order in orders]
    leaf_shape, x_shape = ([shapes[i][axis] for axis in orders[i]] for i in (0, 1))
    numbers = [(tuple(w[b + i] for i in range(s)), tuple(w[i] for i in range(b))) for w in where]
    if side == 1:  # the leaf is the right operand
        numbers = numbers[::-1]
    dims = ((numbers[0][0], numbers[1][0]), (numbers[0][1], numbers[1][1]))

    def fn(base, x):
        operands = (base["w"], x) if side == 0 else (x, base["w"])
        return lax.dot_general(*operands, dims)

    at = where[0]
    stack, inputs, outputs = (
        tuple(sorted(at[axis] for axis in group))
        for group in (range(b), range(b, b + s), range(b + s, b + s + f))
    )
    roles = lorax.Roles(stack, *((outputs, inputs) if flipped else (inputs, outputs)))
    return fn, tuple(leaf_shape), tuple(x_shape), roles


@settings(max_examples=30, derandomize=True)
@given(dots())
def test_dot_rule_over_random_dimension_numbers(case):
    fn, leaf_shape, x_shape, roles = _program(case)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        base = {"w": jnp.asarray(rng.normal(size=leaf_shape))}
        x = jnp.asarray(rng.normal(size=x_shape))
        adapter = lorax.LoRA(rank=1, alpha=0.7, where=("w",))
        delta = adapter.init(jax.random.key(0), base, {"w": roles})
        delta = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), delta)
        factored = lorax.adapt(fn, adapter, on_fallback="error")
        merged = lorax.adapt(fn, adapter, engine="merged")

        @jax.jit
        def both(delta):
            slope = lambda apply: jax.value_and_grad(lambda d: jnp.sum(jnp.sin(apply(base, d, x))))(
                delta
            )
            outputs = factored(base, delta, x), merged(base, delta, x)
            return outputs, slope(factored), slope(merged)

        (out, want), *slopes = both(delta)
        assert want.dtype == jnp.float64
        np.testing.assert_allclose(out, want, rtol=1e-10, atol=1e-10)
        for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
        if not case[-1]:
            assert lorax.roles(fn, base, x)["w"] == roles


def test_two_adapted_operands_of_one_product():
    base = {"a": jnp.ones((3, 4)), "b": jnp.eye(4, 5)}
    adapter = lorax.LoRA(rank=1, where=("a", "b"))
    fn = lambda base, x: x @ (base["a"] @ base["b"])
    roles = {"a": lorax.Roles((), (0,), (1,)), "b": lorax.Roles((), (0,), (1,))}
    delta = jax.tree.map(lambda x: x + 0.3, adapter.init(jax.random.key(0), base, roles))
    x = jnp.arange(6.0).reshape(2, 3)
    with pytest.warns(lorax.LoraxWarning, match=r"'a' \(dot_general\)"):
        out = lorax.adapt(fn, adapter)(base, delta, x)
    np.testing.assert_allclose(out, fn(adapter.merge(base, delta), x), rtol=1e-5)


def test_no_product_as_large_as_the_leaf_is_formed():
    """Nothing with the shape of W0 is made in the forward or the backward pass."""
    base = {"w": jnp.zeros((40, 50))}
    fn = lambda base, x: (x @ base["w"]).sum()
    apply = lorax.adapt(fn, lorax.LoRA(rank=2, where=("w",)))
    x = jnp.ones((2, 3, 40))
    delta = apply.init(jax.random.key(0), base, x)
    text = str(jax.make_jaxpr(jax.grad(apply, argnums=1))(base, delta, x))
    made = [line.split("=")[0] for line in text.splitlines() if " = " in line]
    assert not any("f32[40,50]" in name or "f32[50,40]" in name for name in made)
    assert any("f32[6,2]" in name for name in made)  # (tokens, rank), leading axes flattened


def test_scale_multiplies_the_small_product():
    base = {"w": jnp.zeros((40, 50))}
    apply = lorax.adapt(lambda base, x: x @ base["w"], lorax.LoRA(rank=2, alpha=3.0, where=("w",)))
    x = jnp.ones((2, 3, 40))
    delta = apply.init(jax.random.key(0), base, x)
    jaxpr = jax.make_jaxpr(apply)(base, delta, x).jaxpr
    scaled = [eqn.outvars[0].aval.shape for eqn in jaxpr.eqns if eqn.primitive.name == "mul"]
    assert [math.prod(shape) for shape in scaled] == [6 * 2]


def test_bfloat16_factors_stay_float32_and_meet_operands_in_bfloat16():
    base = {"w": jnp.zeros((8, 6), jnp.bfloat16)}
    apply = lorax.adapt(lambda base, x: x @ base["w"], lorax.LoRA(rank=2, where=("w",)))
    x = jnp.ones((3, 8), jnp.bfloat16)
    delta = apply.init(jax.random.key(0), base, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(delta)} == {jnp.dtype("float32")}
    jaxpr = jax.make_jaxpr(jax.grad(lambda d: apply(base, d, x).sum()))(delta).jaxpr
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype("bfloat16")}, eqn


PRECISIONS = ["highest", ("default", "highest"), lax.DotAlgorithmPreset.F32_F32_F32]


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_program_s_precision_reaches_the_low_rank_products(precision):
    base, x = {"w": jnp.ones((4, 6))}, jnp.ones((3, 4))
    fn = lambda base, x: jnp.dot(x, base["w"], precision=precision)
    _agree(fn, base, x)
    asked = lambda fn: {
        eqn.params["precision"] if isinstance(precision, lax.DotAlgorithmPreset)
        else lax.Precision.HIGHEST in (eqn.params["precision"] or ())
        for eqn in jax.make_jaxpr(fn)(x).jaxpr.eqns if eqn.primitive.name == "dot_general"
    }  # fmt: skip
    adapter = lorax.LoRA(rank=2, where=("w",))
    delta = adapter.init(jax.random.key(0), base)
    ours = asked(lambda x: lorax.adapt(fn, adapter)(base, delta, x))
    assert len(ours) == 1 and ours == asked(lambda x: fn(base, x))


def test_a_convolution_with_a_precision():
    fn = lambda base, x: lax.conv_general_dilated(
        x, base["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=("default", "highest"),
    )  # fmt: skip
    _agree(fn, {"w": jnp.ones((3, 3, 2, 4))}, jnp.ones((1, 5, 5, 2)))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float8_e4m3fn])
def test_operands_that_cannot_hold_a_factor(dtype):
    x = jnp.arange(8).reshape(2, 4).astype(dtype)
    fn = lambda base, x: lax.dot(x, base["w"], preferred_element_type=jnp.float32)
    _agree(fn, {"w": jnp.ones((4, 6))}, x)


def _agree(fn, base, x):
    adapter = lorax.LoRA(rank=2, where=("w",))
    apply = lorax.adapt(fn, adapter, on_fallback="error")
    delta = jax.tree.map(lambda d: d + 0.1, apply.init(jax.random.key(0), base, x))
    want = fn(adapter.merge(base, delta), x)
    np.testing.assert_allclose(apply(base, delta, x), want, rtol=1e-5)


class _Gains(lorax.Adapter):
    """Rescales one side of `w`; a stand-in."""

    def __init__(self, side: str, roles: lorax.Roles):
        self.side, self.roles = side, roles

    def init(self, key, base, roles=None):
        axes = (*self.roles.stack, *getattr(self.roles, self.side))
        return {"w": jax.random.normal(key, [base["w"].shape[axis] for axis in axes])}

    def merge(self, base, delta):
        return with_leaves(base, self.leaves(base, delta))

    def leaves(self, base, delta):
        return {"w": lorax.Rescaled(1 + delta["w"], self.side, self.roles)}


MATRIX, STACK = lorax.Roles((), (0,), (1,)), lorax.Roles((0,), (1,), (2,))


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize(
    ("fn", "shape", "roles", "x"),
    [
        (lambda b, x: x @ b["w"], (4, 3), MATRIX, (2, 4)),
        (lambda b, x: x @ b["w"].T, (4, 3), MATRIX, (2, 3)),
        (lambda b, x: b["w"][jnp.arange(3)] * x, (4, 3), MATRIX, (3, 3)),
        (lambda b, x: jnp.einsum("ebd,edf->ebf", x, b["w"]), (2, 4, 3), STACK, (2, 5, 4)),
        (
            lambda b, x: lax.scan(lambda h, w: (jnp.sin(h @ w), None), x, b["w"])[0],
            (3, 4, 4),
            STACK,
            (2, 4),
        ),
        (lambda b, x: x @ b["w"][:, 1:] * b["w"][:, :2].sum(), (4, 3), MATRIX, (2, 4)),
    ],
    ids=["right", "transposed", "lookup", "experts", "scan", "sliced_and_merged"],
)
def test_a_gain_goes_where_its_axes_are(fn, shape, roles, x, side):
    base = {"w": jax.random.normal(jax.random.key(0), shape)}
    x = jax.random.normal(jax.random.key(1), x)
    adapter = _Gains(side, roles)
    delta = adapter.init(jax.random.key(2), base)
    apply = lorax.adapt(fn, adapter, on_fallback="allow")
    want = lambda delta: fn(adapter.merge(base, delta), x)
    np.testing.assert_allclose(apply(base, delta, x), want(delta), rtol=1e-5, atol=1e-5)
    slopes = (jax.grad(lambda d, f=f: jnp.sin(f(d)).sum())(delta) for f in (
        want, lambda delta: apply(base, delta, x)
    ))  # fmt: skip
    np.testing.assert_allclose(*(slope["w"] for slope in slopes), rtol=1e-4, atol=1e-5)
