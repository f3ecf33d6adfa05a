"""LoftQ: Q + s A B is nearer W than Q alone, and the delta is an ordinary one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters.loftq import loftq
from lorax.core.packed import is_packed
from lorax.ops.quantize import quantizer

pytest.importorskip("qwix")

KEYS = jax.random.split(jax.random.key(0), 3)
BASE = {
    "layers": {"up": {"kernel": jax.random.normal(KEYS[0], (2, 16, 12))}},
    "layer_0": {"out": {"kernel": jax.random.normal(KEYS[1], (12, 8)).astype(jnp.bfloat16)}},
    "head": jax.random.normal(KEYS[2], (8, 3)),
}
UP, OUT = "layers/up/kernel", "layer_0/out/kernel"
NF4 = quantizer("nf4", block=4)
X = jax.random.normal(jax.random.key(1), (5, 16))


def program(base, x):
    """Two stacked matrices, of which the second starts from the first again, and two more."""
    step = lambda x, w: (x, jnp.tanh(x @ w))
    hidden = jax.lax.scan(step, x, base["layers"]["up"]["kernel"])[1].sum(0)
    return jnp.tanh(hidden @ base["layer_0"]["out"]["kernel"].astype(x.dtype)) @ base["head"]


ROLES = lorax.roles(program, BASE, X)
ADAPTER = lorax.LoRA(rank=3, alpha=5.0, where=(UP, OUT), scaling="rslora")


def dense(base, delta, path, adapter=ADAPTER):
    """The matrices of a leaf with the delta, in float32."""
    merged = adapter.merge(lorax.dequantize(base), delta)
    for name in path.split("/"):
        merged = merged[name]
    return np.asarray(merged, np.float32)


@pytest.fixture(scope="module")
def started():
    return loftq(ADAPTER, BASE, NF4, roles=ROLES)


def test_the_error_is_true_and_well_below_that_of_plain_quantisation(started):
    assert set(started.error) == set(started.plain) == {UP, OUT}
    w = np.asarray(BASE["layers"]["up"]["kernel"])
    got = np.linalg.norm(dense(started.base, started.delta, UP) - w) / np.linalg.norm(w)
    assert got == pytest.approx(started.error[UP], rel=1e-3)
    alone = np.linalg.norm(np.asarray(lorax.dequantize(lorax.quantize(
        BASE, "nf4", block=4))["layers"]["up"]["kernel"]) - w) / np.linalg.norm(w)  # fmt: skip
    assert alone == pytest.approx(started.plain[UP], rel=1e-5)
    for path in (UP, OUT):
        assert started.error[path] < 0.8 * started.plain[path]


def test_more_turns_are_never_worse_and_one_turn_is_the_best_of_its_rank(started):
    once = loftq(ADAPTER, BASE, NF4, iterations=1, roles=ROLES)
    assert all(started.error[path] <= once.error[path] for path in (UP, OUT))
    w = np.asarray(BASE["layers"]["up"]["kernel"])
    rest = w - dense(once.base, jax.tree.map(jnp.zeros_like, once.delta), UP)
    lost = np.linalg.svd(rest, compute_uv=False)[:, 3:]
    optimum = np.sqrt((lost**2).sum()) / np.linalg.norm(w)
    assert once.error[UP] == pytest.approx(optimum, rel=1e-4)


def test_stacked_matrices_are_those_of_each_alone():
    once = loftq(ADAPTER, BASE, NF4, iterations=1, roles=ROLES)
    alone = lorax.LoRA(rank=3, alpha=5.0, where=(UP,), scaling="rslora")
    one = {"layers": {"up": {"kernel": BASE["layers"]["up"]["kernel"][1]}}}
    first = loftq(alone, one, NF4, iterations=1)
    product = lambda f: np.asarray(f.A) @ np.asarray(f.B)
    np.testing.assert_allclose(product(first.delta[UP]), product(once.delta[UP])[1], atol=1e-5)


def test_the_program_starts_near_the_base_and_trains_on(started):
    apply = jax.jit(lorax.adapt(program, ADAPTER, on_fallback="error"))
    target = program(BASE, X)
    distance = lambda delta: float(jnp.linalg.norm(apply(started.base, delta, X) - target))
    plain = lorax.quantize(BASE, "nf4", block=4)
    zero = jax.tree.map(jnp.zeros_like, started.delta)
    alone = float(jnp.linalg.norm(apply(plain, zero, X) - target))
    assert distance(started.delta) < 0.8 * alone
    loss = jax.jit(
        jax.value_and_grad(lambda d: jnp.mean((apply(started.base, d, X) - target) ** 2))
    )
    delta, losses = started.delta, []
    for _ in range(20):
        value, slope = loss(delta)
        losses.append(float(value))
        delta = jax.tree.map(lambda d, g: d - 0.02 * g, delta, slope)
    assert losses[-1] < losses[0]


def test_leaves_that_are_not_quantised_are_drawn_or_left(started):
    assert started.base["head"] is BASE["head"] and is_packed(
        started.base["layer_0"]["out"]["kernel"]
    )
    both = lorax.LoRA(rank=2, where=(UP, "head"))
    with pytest.raises(lorax.LoraxError, match="'head' is adapted and not quantised.*key="):
        loftq(both, BASE, NF4, iterations=1, roles=ROLES)
    key = jax.random.key(3)
    found = loftq(both, BASE, NF4, iterations=1, roles=ROLES, key=key)
    wanted = both.init(key, BASE, ROLES)["head"]
    np.testing.assert_array_equal(found.delta["head"].A, wanted.A)
    assert set(found.error) == {UP}


def test_mistakes(started):
    wrong = {
        "adapter is a Full: expected a LoRA": (lorax.Full(), BASE, NF4),
        "initializer='pissa' counts": (lorax.LoRA(where=(UP,), initializer="pissa"), BASE, NF4),
        "quantize is 'nf4': expected a function": (ADAPTER, BASE, "nf4"),
        "is quantised already": (ADAPTER, started.base, NF4),
        "none of the 2 adapted leaves is quantised": (ADAPTER, BASE, lambda path, leaf: leaf),
    }
    for words, (adapter, base, quantize) in wrong.items():
        with pytest.raises(lorax.LoraxError, match=words) as caught:
            loftq(adapter, base, quantize, roles=ROLES, key=jax.random.key(0))
        assert "\n" not in str(caught.value)
    for iterations in (0, 1.5, True):
        with pytest.raises(lorax.LoraxError, match="iterations is .*: expected"):
            loftq(ADAPTER, BASE, NF4, iterations=iterations, roles=ROLES)
