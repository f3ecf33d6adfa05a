"""One tree, base and delta: the base does not move, and the step is that of the delta alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax

BASE = {"w": jax.random.normal(jax.random.key(0), (6, 4)), "b": jnp.arange(4.0)}
X = jax.random.normal(jax.random.key(1), (5, 6))
ADAPTER = lorax.LoRA(rank=2, where=("w",), initializer="orthogonal")  # both gradients from start
APPLY = lorax.adapt(lambda base, x: x @ base["w"] + base["b"], ADAPTER, on_fallback="error")
DELTA = APPLY.init(jax.random.key(2), BASE, X)
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))


def loss(tree):
    """Steep in base and delta alike, so that clipping sees both if it is let."""
    return 30.0 * jnp.mean((APPLY(tree["base"], tree["delta"], X) - 3.0) ** 2)


def bits(tree):
    """The leaves as bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


SLOPE = jax.jit(jax.grad(loss))


def train(tx, tree, slope, steps):
    """`tree` after `steps` steps of `tx` along `slope`, and the final state."""

    @jax.jit
    def step(tree, state, slope):
        updates, state = tx.update(slope, state, tree)
        return optax.apply_updates(tree, updates), state

    state = tx.init(tree)
    for _ in range(steps):
        tree, state = step(tree, state, slope(tree))
    return tree, state


def test_base_is_bit_identical_after_100_steps_and_the_step_is_that_of_two_trees():
    tree = {"base": BASE, "delta": DELTA}
    one, state = train(lorax.freeze_base(TX), tree, SLOPE, 100)
    assert bits(one["base"]) == bits(BASE)
    own = lambda delta: SLOPE({"base": BASE, "delta": delta})["delta"]
    two, alone = train(TX, DELTA, own, 100)
    assert bits(one["delta"]) == bits(two) != bits(DELTA)
    assert jax.tree.structure(state) == jax.tree.structure(alone)
    assert bits(state) == bits(alone)
    assert float(loss(one)) < 0.5 * float(loss(tree))


def test_state_bytes_are_those_of_the_delta():
    size = lambda state: sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    frozen = lorax.freeze_base(TX).init({"base": BASE, "delta": DELTA})
    moments = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(DELTA))
    assert size(frozen) == size(TX.init(DELTA)) == moments + 4  # and one step count


def test_gradients_of_the_base_do_not_enter_the_norm_that_clips():
    """Unlike `optax.chain(clip, masked)`, whose clipping divides by the base's norm too."""
    tree = {"base": jnp.full(3, 1.0), "delta": jnp.full(1, 1.0)}
    slope = {"base": jnp.full(3, 2.0), "delta": jnp.full(1, 2.0)}
    clip = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    fixed = lorax.freeze_base(clip)
    updates, _ = fixed.update(slope, fixed.init(tree), tree)
    np.testing.assert_allclose(updates["delta"], [-1.0], rtol=1e-6)
    everything, _ = clip.update(slope, clip.init(tree), tree)
    np.testing.assert_allclose(everything["delta"], [-0.5], rtol=1e-6)  # 2 / |(2, 2, 2, 2)|


def test_contrast_masked_hands_the_raw_gradient_to_the_base():
    """Why `freeze_base` exists: the obvious optax spelling moves the base."""
    tree = {"base": BASE, "delta": DELTA}
    masked = optax.masked(optax.sgd(1e-3), {"base": False, "delta": True})
    moved, _ = train(masked, tree, SLOPE, 1)
    slope = SLOPE(tree)["base"]
    np.testing.assert_allclose(moved["base"]["w"], BASE["w"] + slope["w"], rtol=1e-5, atol=1e-5)
    kept, _ = train(lorax.freeze_base(optax.sgd(1e-3)), tree, SLOPE, 1)
    assert bits(kept["base"]) == bits(BASE) != bits(moved["base"])


def test_a_negative_zero_of_the_base_keeps_its_sign_outside_jit():
    tree = {"base": jnp.array([-0.0, 1.0]), "delta": jnp.ones(1)}
    tx = lorax.freeze_base(optax.sgd(0.1))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, tree), tx.init(tree), tree)
    assert bits(optax.apply_updates(tree, updates)["base"]) == bits(tree["base"])


def test_extra_arguments_reach_the_inner_transformation():
    def update(updates, state, params=None, *, factor):
        return jax.tree.map(lambda g: factor * g, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = lorax.freeze_base(inner)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    tree = {"base": jnp.ones(2), "delta": jnp.ones(2)}
    updates, _ = tx.update(tree, tx.init(tree), tree, factor=3.0)
    np.testing.assert_array_equal(updates["delta"], 3.0 * np.ones(2))
    np.testing.assert_array_equal(updates["base"], np.zeros(2))


@pytest.mark.parametrize(
    ("tree", "got"),
    [
        ({"params": 1.0}, "['params']"),
        ({"base": 1.0}, "['base']"),
        ({"base": 1.0, "delta": 1.0, "ema": 1.0}, "['base', 'delta', 'ema']"),
        ((1.0, 2.0), "tuple"),
    ],
)
def test_a_tree_of_another_form_is_told_in_one_line(tree, got):
    tx = lorax.freeze_base(optax.sgd(0.1))
    for call in (lambda: tx.init(tree), lambda: tx.update(tree, optax.EmptyState(), None)):
        with pytest.raises(lorax.LoraxError) as error:
            call()
        text = str(error.value)
        assert got in text and "keys 'base' and 'delta'" in text and "\n" not in text


def test_something_that_is_no_optimiser_is_told_in_one_line():
    with pytest.raises(lorax.LoraxTypeError, match="tx is a float: expected an optax.Gradient"):
        lorax.freeze_base(1e-3)
