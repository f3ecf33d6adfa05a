"""How A and B start: the distributions, the decompositions, and a base that nobody writes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters import lora_init

KEY = jax.random.key(0)
MATRIX = lorax.Roles((), (0,), (1,))
LOOKUP = lorax.Roles((), (0,), (1,), "gather")
# kinds of leaves: (shape, roles); fan-in is the product of the inputs, the stack left out
KINDS = {
    "dense": ((24, 20), MATRIX),
    "transposed": ((20, 24), lorax.Roles((), (1,), (0,))),
    "heads": ((24, 4, 5), lorax.Roles((), (0,), (1, 2))),
    "joined": ((4, 6, 20), lorax.Roles((), (0, 1), (2,))),
    "conv": ((3, 2, 4, 20), lorax.Roles((), (0, 1, 2), (3,), "conv")),
    "stacked": ((3, 24, 20), lorax.Roles((0,), (1,), (2,))),
    "stacked heads": ((3, 24, 4, 5), lorax.Roles((0,), (1,), (2, 3))),
    "experts last": ((24, 20, 3), lorax.Roles((2,), (0,), (1,))),
}
FAN_IN, FAN_OUT = 24, 20


def leaf(shape, seed=3):
    """A weight."""
    return jax.random.normal(jax.random.key(seed), shape)


def adapter(initializer="kaiming", rank=4, **kwargs):
    """LoRA on the one leaf."""
    return lorax.LoRA(rank=rank, alpha=6.0, where=("w",), initializer=initializer, **kwargs)


def start(lora, shape, roles=MATRIX, key=KEY):
    """(base, delta) of one leaf."""
    base = {"w": leaf(shape)}
    return base, lora.init(key, base, {"w": roles})


def factors(*args, **kwargs):
    """A and B as numpy arrays."""
    delta = start(*args, **kwargs)[1]["w"]
    return np.asarray(delta.A, np.float64), np.asarray(delta.B, np.float64)


def matrices(x, roles):
    """A leaf of any kind as a stack of matrices."""
    order = (*roles.stack, *roles.inputs, *roles.outputs)
    return np.asarray(x, np.float64).transpose(order).reshape(-1, FAN_IN, FAN_OUT)


def products(delta, roles):
    """A B of every stacked matrix."""
    rank = delta.rank
    a = np.asarray(delta.A, np.float64).reshape(-1, FAN_IN, rank)
    return a @ np.asarray(delta.B, np.float64).reshape(-1, rank, FAN_OUT)


def test_kaiming_is_uniform_within_one_over_root_fan_in():
    a, b = factors(adapter(), (400, 20))
    bound = 1 / math.sqrt(400)
    assert np.abs(a).max() <= bound
    assert not b.any()
    # Kolmogorov-Smirnov: the largest gap to the uniform distribution, at the 0.1 % level
    ordered = np.sort(a.ravel() / bound)
    gap = np.abs((ordered + 1) / 2 - (np.arange(a.size) + 0.5) / a.size).max()
    assert gap < 1.95 / math.sqrt(a.size)


@pytest.mark.parametrize("rank", [2, 8])
def test_gaussian_has_deviation_one_over_rank(rank):
    a, b = factors(adapter("gaussian", rank), (2000, 20))
    np.testing.assert_allclose(a.std(), 1 / rank, rtol=0.05)
    assert abs(a.mean()) < 5 / rank / math.sqrt(a.size)
    assert (np.abs(a) > 2 / rank).mean() == pytest.approx(0.0455, abs=0.01)
    assert not b.any()


@pytest.mark.parametrize("initializer", ["kaiming", "gaussian"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_slice_has_the_deviation_of_the_unstacked_twin(kind, initializer):
    """Counting the stack as fan-in would make A too small by the root of the layers."""
    shape, roles = KINDS[kind]
    wide = dict.fromkeys(roles.inputs[:1], 40)  # enough numbers to estimate a deviation
    shape = tuple(size * wide.get(i, 1) for i, size in enumerate(shape))
    a, b = factors(adapter(initializer), shape, roles)
    fan_in = FAN_IN * 40
    want = 1 / math.sqrt(3 * fan_in) if initializer == "kaiming" else 1 / 4
    for one in a.reshape(-1, fan_in, 4):
        np.testing.assert_allclose(one.std(), want, rtol=0.05)
    assert not b.any()


def test_slices_of_a_stack_are_drawn_independently():
    a, _ = factors(adapter("gaussian"), (3, 500, 20), KINDS["stacked"][1])
    correlation = np.corrcoef(a.reshape(3, -1)) - np.eye(3)
    assert np.abs(correlation).max() < 5 / math.sqrt(2000)


@pytest.mark.parametrize("kind", ["dense", "conv", "stacked heads", "experts last"])
def test_orthogonal_has_two_factors_and_no_product(kind):
    shape, roles = KINDS[kind]
    base, delta = start(adapter("orthogonal"), shape, roles)
    assert np.any(delta["w"].A) and np.any(delta["w"].B)
    assert not products(delta["w"], roles).any()

    def loss(delta):
        return jnp.sum(jnp.sin(adapter("orthogonal").merge(base, delta)["w"]))

    slope = jax.jit(jax.grad(loss))(delta)["w"]
    assert np.any(slope.A) and np.any(slope.B)


def test_orthogonal_has_peft_s_size_and_wants_an_even_rank():
    a, b = factors(adapter("orthogonal"), (2000, 2000))
    used = [np.abs(a).max(axis=0) > 0, np.abs(b).max(axis=1) > 0]
    np.testing.assert_array_equal(used[0], ~used[1])
    assert used[0].sum() == 2
    np.testing.assert_allclose(a[:, used[0]].std(), 0.1, rtol=0.05)
    np.testing.assert_allclose(b[used[1]].std(), 0.1, rtol=0.05)
    with pytest.raises(lorax.LoraxError, match="at 'w' has rank 3: expected an even rank; use 4"):
        start(adapter("orthogonal", 3), (24, 20))


@pytest.mark.parametrize("initializer", ["kaiming", "gaussian"])
def test_a_lookup_starts_with_a_at_zero_and_b_normal(initializer):
    a, b = factors(adapter(initializer), (50, 2000), LOOKUP)
    assert not a.any()
    np.testing.assert_allclose([b.std(), b.mean()], [1.0, 0.0], rtol=0.05, atol=0.05)


def test_the_lookup_of_a_program_is_found_by_its_use():
    base = {"table": leaf((9, 6)), "w": leaf((6, 4))}
    fn = lambda base, ids: base["table"][ids] @ base["w"]
    apply = lorax.adapt(fn, lorax.LoRA(rank=2, where=(".*",)))
    delta = apply.init(KEY, base, jnp.arange(3))
    assert not np.any(delta["table"].A) and np.any(delta["table"].B)
    assert np.any(delta["w"].A) and not np.any(delta["w"].B)


@functools.cache
def decomposed(initializer, kind):
    """(base, delta, A0 and B0) of a decomposition, made under jit."""
    shape, roles = KINDS[kind]
    base, lora = {"w": leaf(shape)}, adapter(initializer)
    delta = jax.jit(lambda base: lora.init(KEY, base, {"w": roles}))(base)
    return base, delta, jax.jit(lora.derive)(base, delta)["w"]


@pytest.mark.parametrize("kind", KINDS)
def test_pissa_starts_at_the_best_approximation_of_every_matrix(kind):
    """Eckart and Young: scale · A0 B0 is the truncated singular value decomposition."""
    base, _, first = decomposed("pissa", kind)
    roles = KINDS[kind][1]
    u, s, vt = np.linalg.svd(matrices(base["w"], roles), full_matrices=False)
    best = (u[:, :, :4] * s[:, None, :4]) @ vt[:, :4]
    scale = adapter("pissa").scale_of("w")
    np.testing.assert_allclose(scale * products(first, roles), best, atol=1e-4)
    a = np.asarray(first.A, np.float64).reshape(-1, FAN_IN, 4)
    b = np.asarray(first.B, np.float64).reshape(-1, 4, FAN_OUT)
    balanced = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=2)
    np.testing.assert_allclose(*balanced, rtol=1e-4)  # sqrt(S / scale) in both


@pytest.mark.parametrize("kind", ["dense", "conv", "stacked heads"])
def test_olora_starts_with_orthonormal_rows_that_span_the_first_outputs(kind):
    """PEFT: Q R = W0ᵀ (out × in), B = Q[:, :r], A = R[:r], in our orientation transposed."""
    base, _, first = decomposed("olora", kind)
    roles = KINDS[kind][1]
    b = np.asarray(first.B, np.float64).reshape(-1, 4, FAN_OUT)
    unit = b @ b.swapaxes(1, 2)
    np.testing.assert_allclose(unit, np.broadcast_to(np.eye(4), unit.shape), atol=1e-5)
    w = matrices(base["w"], roles)
    projected = w @ b.swapaxes(1, 2) @ b
    np.testing.assert_allclose(products(first, roles), projected, atol=1e-4)
    np.testing.assert_allclose(projected[:, :4], w[:, :4], atol=1e-4)  # the first r rows are kept


@pytest.mark.parametrize("initializer", lora_init.DECOMPOSITIONS)
def test_a_decomposition_trains_as_the_published_method_on_a_residual_base(initializer):
    """The delta starts at zero; with A0 and B0 added it is A and B beside W0 - scale · A0 B0."""
    base, delta, first = decomposed(initializer, "dense")
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(delta))
    lora = adapter(initializer)
    scale = lora.scale_of("w")
    residual = base["w"] - scale * first.A @ first.B
    loss = lambda w: jnp.sum(jnp.sin(w))

    @jax.jit
    def slopes(delta):
        own = jax.grad(lambda delta: loss(lora.merge(base, delta)["w"]))(delta)["w"]
        a, b = first.A + delta["w"].A, first.B + delta["w"].B
        return own, jax.grad(lambda a, b: loss(residual + scale * a @ b), (0, 1))(a, b)

    for step in (0.0, 0.1):
        own, (a, b) = slopes(jax.tree.map(lambda leaf, step=step: leaf + step, delta))
        np.testing.assert_allclose(own.A, a, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(own.B, b, rtol=1e-3, atol=1e-3)
        assert np.any(a) and np.any(b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("initializer", "kind"),
    [(name, kind) for name in lora_init.DECOMPOSITIONS for kind in ("heads", "conv", "stacked")]
    + [(name, "stacked heads") for name in lora_init.DRAWS],
)
def test_merging_at_the_start_is_bit_equal_jitted_and_eager(initializer, kind, dtype):
    shape, roles = KINDS[kind]
    base = {"w": leaf(shape).astype(dtype)}
    init = lambda base: adapter(initializer).init(KEY, base, {"w": roles})
    merge = adapter(initializer).merge
    for delta in (init(base), jax.jit(init)(base)):
        for run in (merge, jax.jit(merge)):
            merged = run(base, delta)["w"]
            assert merged.dtype == jnp.dtype(dtype)
            assert np.asarray(merged).tobytes() == np.asarray(base["w"]).tobytes()


@pytest.mark.parametrize("initializer", lora_init.DECOMPOSITIONS)
def test_a_rank_above_the_smaller_side_is_refused(initializer):
    start(adapter(initializer, FAN_OUT), (FAN_IN, FAN_OUT))
    with pytest.raises(lorax.LoraxError, match="'w' has rank 21: expected at most 20.*24 × 20"):
        start(adapter(initializer, FAN_OUT + 1), (FAN_IN, FAN_OUT))


@pytest.mark.parametrize("initializer", lora_init.INITIALIZERS)
def test_the_base_is_neither_written_nor_donated(initializer):
    base, delta = start(adapter(initializer), (FAN_IN, FAN_OUT))
    array, before = base["w"], np.asarray(base["w"]).tobytes()
    moved = jax.tree.map(lambda x: x + 0.1, delta)
    merged = adapter(initializer).merge(base, moved)
    assert base["w"] is array and not array.is_deleted()
    assert np.asarray(array).tobytes() == before != np.asarray(merged["w"]).tobytes()
    assert merged["w"].unsafe_buffer_pointer() != array.unsafe_buffer_pointer()


@pytest.mark.parametrize("initializer", lora_init.INITIALIZERS)
def test_draws_depend_on_key_and_path_and_decompositions_on_neither(initializer):
    base = {"w": leaf((24, 20)), "v": leaf((24, 20))}
    lora = lorax.LoRA(rank=4, where=(".*",), initializer=initializer)
    first, again, other = (lora.init(jax.random.key(k), base) for k in (0, 0, 1))
    side = lambda delta, path="w": np.asarray(delta[path].A).tobytes()
    assert side(first) == side(again)
    drawn = initializer in lora_init.DRAWS
    assert (side(first) != side(other)) == drawn == (side(first) != side(first, "v"))


@pytest.mark.parametrize("name", ["kaiming", "gaussian", "orthogonal"])
def test_init_scale_multiplies_the_random_numbers_alone(name):
    one = lorax.LoRA(rank=2, where=("w",), initializer=name)
    three = dataclasses.replace(one, init_scale=3.0)
    base, key = {"w": jnp.ones((4, 5))}, jax.random.key(0)
    plain, scaled = one.init(key, base)["w"], three.init(key, base)["w"]
    np.testing.assert_allclose(scaled.A, 3 * plain.A, rtol=1e-6)
    np.testing.assert_allclose(scaled.B, 3 * plain.B, rtol=1e-6)
    assert np.array_equal(three.merge(base, {"w": scaled})["w"], base["w"])
