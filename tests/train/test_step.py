"""The step: pure, donated, blind to the base; the optimizer's state is that of A and B alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.data.batch import Batch
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.models.mlp import MLP
from lorax.train.losses import classification_loss, next_token_loss
from lorax.train.optim import adamw
from lorax.train.schedules import schedule
from lorax.train.step import init_state, make_step

MODEL = MLP((16, 16, 4))
KEY = jax.random.key(2)
X = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
Y = np.arange(8) % 4


def setting(adapter, tx):
    base = MODEL.init(jax.random.key(0), X)
    apply = lorax.adapt(MODEL.apply, adapter)

    def loss(delta, base, batch, key):
        logits = apply(base, delta, batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean(), {"noise": jax.random.normal(key)}

    delta = apply.init(jax.random.key(1), base, X)
    return base, delta, init_state(delta, tx, jax.random.key(2)), loss


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def constants(jaxpr):
    """All arrays that a program holds inside, at any depth."""
    closed = [jaxpr]
    while closed:
        now = closed.pop()
        yield from getattr(now, "consts", ())
        inner = getattr(now, "jaxpr", now)
        for eqn in inner.eqns:
            for value in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
            ):
                if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
                    closed.append(value)


ADAPTERS = [
    lorax.LoRA(rank=2),
    lorax.Full(),
    lorax.Chain(lorax.LoRA(rank=2, where=(".*dense_0/kernel",)), lorax.BitFit()),
]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_loss_falls_and_base_is_bit_identical_after_100_steps(adapter):
    tx = adamw(1e-2)
    base, _, state, loss = setting(adapter, tx)
    before = jax.tree.map(lambda x: np.array(x, copy=True), base)
    step, losses = make_step(loss, tx), []
    for _ in range(100):
        state, metrics = step(state, base, (X, Y))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert equal(before, base)
    assert int(state.step) == 100


def test_no_base_array_is_a_constant_of_the_step():
    tx = adamw(1e-2)
    base, _, state, loss = setting(lorax.LoRA(rank=2), tx)
    step = make_step(loss, tx)
    program = jax.make_jaxpr(step)(state, base, (X, Y))
    smallest = min(leaf.size for leaf in jax.tree.leaves(base))
    assert all(np.size(constant) < smallest for constant in constants(program))
    # the check itself sees a captured base
    captured = jax.make_jaxpr(lambda state: step(state, base, (X, Y)))(state)
    assert any(np.size(constant) >= smallest for constant in constants(captured))
    # base and batch come in as arguments, and only the state and scalars go out
    outputs = [aval.shape for aval in program.out_avals]
    kept = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert sorted(outputs)[-len(kept) :] == sorted(kept) or set(outputs) == {(), *kept}
    assert not {leaf.shape for leaf in jax.tree.leaves(base)} & set(outputs)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_optimizer_state_is_exactly_that_of_the_delta(adapter):
    tx = optax.adamw(1e-3)
    _, delta, state, _ = setting(adapter, tx)
    needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(delta)) + 4
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)) == needed
    scheduled = adamw(schedule("cosine", 1e-3, 10)).init(delta)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(scheduled)) == needed + 4


def test_state_is_donated_but_the_callers_arrays_stay():
    tx = adamw(1e-2)
    base, delta, state, loss = setting(lorax.LoRA(rank=2), tx)
    make_step(loss, tx)(state, base, (X, Y))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.delta))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((delta, base)))


def test_same_key_gives_the_same_run_and_each_step_its_own_key():
    tx = adamw(1e-2)
    runs = []
    for _ in range(2):
        base, _, state, loss = setting(lorax.LoRA(rank=2), tx)
        step, noises = make_step(loss, tx), []
        for _ in range(3):
            state, metrics = step(state, base, (X, Y))
            noises.append(float(metrics["noise"]))
        runs.append((noises, state.delta))
    assert len(set(runs[0][0])) == 3
    assert runs[0][0] == runs[1][0] and equal(runs[0][1], runs[1][1])


def test_metrics_are_the_global_norms():
    tx = optax.sgd(0.5)
    base, delta, state, loss = setting(lorax.LoRA(rank=2), tx)
    key = jax.random.fold_in(jax.random.key(2), 0)
    grads = jax.grad(lambda d: loss(d, base, (X, Y), key)[0])(delta)
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads))))
    _, metrics = make_step(loss, tx, optax.constant_schedule(0.5))(state, base, (X, Y))
    np.testing.assert_allclose(metrics["l2_grads"], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["l2_updates"], 0.5 * norm, rtol=1e-5)
    assert float(metrics["learning_rate"]) == 0.5


def test_a_batch_in_parts_is_the_same_step():
    tx, adapter = adamw(1e-2, 0.1), lorax.LoRA(rank=2)
    base, delta, *_ = setting(adapter, tx)
    loss = classification_loss(MODEL.apply, adapter, "error")
    batch = Batch(X, Y, np.array([True] * 4 + [False] * 3 + [True]))
    runs = []
    for parts in (1, 4):
        step, state = make_step(loss, tx, accumulate=parts), init_state(delta, tx, KEY)
        for _ in range(3):
            state, metrics = step(state, base, batch)
        runs.append((metrics, state.delta))
    assert runs[0][0].keys() == runs[1][0].keys() and float(runs[1][0]["examples"]) == 5
    for a, b in zip(jax.tree.leaves(runs[0]), jax.tree.leaves(runs[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_bfloat16_compute_trains_float32_factors_and_repeats_bit_for_bit():
    config = LlamaConfig(32, 16, 1, 2, 1, 24, dtype="bfloat16", param_dtype="bfloat16")
    model, adapter = Llama(config), lorax.LoRA(rank=2, dropout=0.1)
    draw, tx = np.random.default_rng(0), adamw(2e-2, loraplus=2.0)
    tokens = draw.integers(0, 32, (4, 9)).astype(np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((4, 8), bool))
    shapes = jax.eval_shape(model.init, KEY, batch.inputs)
    base = jax.tree.map(lambda x: jnp.asarray(0.3 * draw.normal(size=x.shape), x.dtype), shapes)
    delta = lorax.adapt(model.apply, adapter).init(KEY, base, batch.inputs)
    loss = next_token_loss(model.apply, adapter, "error", label_smoothing=0.05, chunk=8)
    grads = jax.eval_shape(jax.grad(loss, has_aux=True), delta, base, batch, KEY)[0]
    state, step, runs = init_state(delta, tx, KEY), make_step(loss, tx, accumulate=2), []
    for tree in (delta, grads, optax.tree.get(state, "mu"), optax.tree.get(state, "nu")):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}
    for _ in range(2):
        state, losses = init_state(delta, tx, KEY), []
        for _ in range(20):
            state, metrics = step(state, base, batch)
            losses.append(float(metrics["loss"]))
        runs.append((losses, state))
    assert runs[0][0][-1] < 0.8 * runs[0][0][0]
    assert runs[0][0] == runs[1][0]
    assert equal(runs[0][1].delta, runs[1][1].delta)
    assert equal(runs[0][1].opt_state, runs[1][1].opt_state)
