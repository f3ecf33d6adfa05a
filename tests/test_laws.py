"""The laws of design §5 as one table: adapters × programs × dtypes.

A new adapter or program is done when its row is green.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.core import paths
from tests.law_table import (
    ADAPTERS,
    AS_CLOSE,
    CLOSER,
    EVALUATED,
    EVERY,
    FACTORED,
    LEAF_KINDS,
    METHODS,
    MORE_METHODS,
    NUMBERS,
    RANK,
    SLOW_METHODS,
    SUBSPACES,
    may_form,
)
from tests.moved import moved
from tests.programs import PROGRAMS, Program, cast

EXACT = {"bf16_compute": "dense"}  # the same parameters, computed in float32
DTYPES = ("float32", pytest.param("bfloat16", marks=pytest.mark.runs))


@functools.cache
def row(name: str, dtype: str = "float32") -> Program:
    """One program of the table in one dtype."""
    return PROGRAMS[name]() if dtype == "float32" else cast(row(name), jnp.dtype(dtype))


def bits(tree: Any) -> list[bytes]:
    """The leaves as bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def allowed(program: Program, adapter: lorax.Adapter) -> str:
    """What may happen where a leaf has no factored form."""
    return "error" if program.factors and not may_form(adapter) else "allow"


def start(program: Program, adapter: lorax.Adapter, **kwargs: Any) -> tuple[Any, Any]:
    """The adapted program and a first delta."""
    apply = lorax.adapt(program.fn, adapter, on_fallback=allowed(program, adapter), **kwargs)
    return apply, jax.tree.map(lambda x: x, _first(program, adapter))


@functools.cache
def _first(program: Program, adapter: lorax.Adapter) -> Any:
    """A first delta, compiled once for all laws."""
    apply = lorax.adapt(program.fn, adapter, on_fallback=allowed(program, adapter))
    return jax.jit(apply.init)(jax.random.key(1), program.base, program.x)


def relative(a: Any, b: Any) -> float:
    """The largest difference of two trees, relative to the largest entry of the second."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        worst = max(worst, float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-6)))
    return worst


def objective(apply: Any, base: Any, x: Any) -> Any:
    """A smooth scalar of the outputs, for gradients."""
    return lambda delta: jnp.sum(jnp.sin(apply(base, delta, x).astype(jnp.float32)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "name"),
    [("lora", name) for name in EVERY]
    + [(kind, name) for kind in (*FACTORED[1:], "full") for name in LEAF_KINDS]
    + SUBSPACES
    + SLOW_METHODS,
)
def test_law_1_and_2_starts_at_base_and_keeps_the_spec(kind, name, dtype):
    program = row(name, dtype)
    adapter = ADAPTERS[kind](where=program.where)
    _, delta = start(program, adapter)
    merge = jax.jit(adapter.merge)  # one compilation; eager merges are tested in tests/adapters
    merged = merge(program.base, delta)
    assert bits(merged) == bits(program.base)
    assert jax.tree.structure(merged) == jax.tree.structure(program.base)
    later = merge(program.base, moved(delta))
    for old, new in zip(jax.tree.leaves(program.base), jax.tree.leaves(later), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
    assert bits(later) != bits(program.base)


@pytest.mark.parametrize(
    ("kind", "name"),
    EVALUATED
    + SLOW_METHODS
    + [
        pytest.param("pissa", name, marks=pytest.mark.runs)
        for name in EVERY
        if name not in LEAF_KINDS
    ],
)
def test_law_3_and_9_factored_equals_merged_without_fallback(kind, name):
    program = row(name)
    adapter = ADAPTERS[kind](where=program.where)
    apply, delta = start(program, adapter)
    merged = lorax.adapt(program.fn, adapter, engine="merged")
    delta = moved(delta)
    tolerance = 2e-2 if name == "bf16_compute" else 1e-5
    run = lambda fn: jax.jit(fn)(program.base, delta, program.x)
    assert relative(run(apply), run(merged)) < tolerance
    slope = lambda fn: jax.jit(jax.grad(objective(fn, program.base, program.x)))(delta)
    assert relative(slope(apply), slope(merged)) < 10 * tolerance


@pytest.mark.runs
@pytest.mark.parametrize(
    ("kind", "name"), [("lora", name) for name in EVERY] + [r for r in METHODS if r[0] in CLOSER]
)
def test_law_3_in_bfloat16_factored_is_the_closer(kind, name):
    exact, program = row(EXACT.get(name, name)), row(name, "bfloat16")
    adapter = ADAPTERS[kind](where=program.where)
    apply, first = start(program, adapter)
    base = jax.tree.map(lambda x: x.astype(jnp.float32), program.base)
    x = program.x.astype(exact.x.dtype)
    reference = jax.jit(lorax.adapt(exact.fn, adapter, engine="merged"))
    engines = jax.jit(apply), jax.jit(lorax.adapt(program.fn, adapter, engine="merged"))
    squares, size = [0.0, 0.0], 0.0
    for seed in range(8):  # rounding is noise: the law is about its size, not about one draw
        delta = moved(first, 0.02, seed)
        want = np.asarray(reference(base, delta, x), np.float64)
        size += np.sum(want**2)
        for i, fn in enumerate(engines):
            got = np.asarray(fn(program.base, delta, program.x), np.float64)
            squares[i] += np.sum((got - want) ** 2)
    factored, merged = np.sqrt(squares)
    assert factored <= 0.05 * np.sqrt(size)
    merged *= 1.05 if (kind, name) in AS_CLOSE else 1.0
    assert factored < merged or (not program.factors and factored == merged)


@pytest.mark.parametrize(("kind", "name"), EVALUATED + METHODS + MORE_METHODS)
def test_law_4_7_and_10_state_rank_and_base_after_training(kind, name):
    program = row(name)
    adapter = ADAPTERS[kind](where=program.where)
    apply, delta = start(program, adapter)
    before = bits(program.base)
    tx = optax.adam(1e-2)
    state = tx.init(delta)
    learned = sum(leaf.size for leaf in jax.tree.leaves(delta))
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert moments == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(delta)) + 4
    loss = objective(apply, program.base, program.x)

    @jax.jit
    def step(delta, state):
        updates, state = tx.update(jax.grad(loss)(delta), state)
        return optax.apply_updates(delta, updates), state

    for _ in range(3):
        delta, state = step(delta, state)
    assert bits(program.base) == before
    if kind not in NUMBERS:
        assert learned == getattr(adapter, "dim", getattr(adapter, "numbers", learned))
        return
    numbers, limit = NUMBERS[kind]
    new = paths.flatten(jax.jit(adapter.merge)(program.base, delta))
    count = 0
    for path, own in delta.get("lora", delta).items():  # where DoRA has its pairs
        old, roles = paths.flatten(program.base)[path], own.roles
        n, fan_in, fan_out = roles.matrix(old.shape)
        count += n * numbers(fan_in, fan_out)
        order = (*roles.stack, *roles.inputs, *roles.outputs)
        change = np.asarray(new[path], np.float64) - np.asarray(old, np.float64)
        change = change.transpose(order).reshape(n, fan_in, fan_out)
        ranks = np.linalg.matrix_rank(change, tol=1e-5 * max(1.0, np.abs(change).max()))
        assert (ranks <= limit).all() and ranks.max() >= 1
    assert count == learned


@pytest.mark.parametrize("name", EVERY)
def test_law_5_draws_depend_on_the_path_alone(name):
    program = row(name)
    adapter = lorax.LoRA(rank=RANK, where=program.where)
    apply, whole = start(program, adapter)
    assert bits(whole) == bits(apply.init(jax.random.key(1), program.base, program.x))
    if len(whole) > 1:
        kept = list(whole)[1:]
        fewer = lorax.LoRA(rank=RANK, where=tuple(map(_literally, kept)))
        _, some = start(program, fewer)
        assert list(some) == kept
        assert bits(some) == bits({path: whole[path] for path in kept})
        draws = {np.asarray(f.A).tobytes() for f in whole.values()}
        assert len(draws) == len(whole)  # equal shapes draw different numbers


def _literally(path: str) -> str:
    import re

    return re.escape(path)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_is_derived_needs_the_shapes_of_a_delta_alone(kind):
    program = row("dense")
    adapter = ADAPTERS[kind](where=program.where)
    _, delta = start(program, adapter)
    shapes = jax.eval_shape(lambda: delta)
    assert bits(adapter.prepare(program.base, shapes)) == bits(adapter.prepare(program.base, delta))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_law_6_vmaps_over_delta_and_reruns_bit_identically(name, dtype):
    program = row(name, dtype)
    apply, first = start(program, lorax.LoRA(rank=RANK, where=program.where))
    deltas = [moved(first, size) for size in (0.1, 0.2, 0.3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *deltas)
    many = jax.jit(jax.vmap(apply, in_axes=(None, 0, None)))
    if name == "experts_ragged":  # JAX itself cannot vmap a ragged product over its matrices
        with pytest.raises(NotImplementedError, match="ragged_dot vmap"):
            many(program.base, stacked, program.x)
        return
    together = many(program.base, stacked, program.x)
    one = jax.jit(apply)
    alone = jnp.stack([one(program.base, delta, program.x) for delta in deltas])
    rounding = 1e-5 if dtype == "float32" and name != "bf16_compute" else 3e-2
    assert relative(together, alone) < rounding
    again = jnp.stack([one(program.base, delta, program.x) for delta in deltas])
    assert bits(again) == bits(alone)


@pytest.mark.parametrize(("kind", "name"), EVALUATED + SLOW_METHODS)
def test_law_8_a_saved_adapter_trains_on(kind, name, tmp_path):
    from lorax.io.checkpoint import load_adapter, save_adapter

    program = row(name)
    adapter = ADAPTERS[kind](where=program.where)
    _, delta = start(program, adapter)
    delta = moved(delta, 0.1)
    save_adapter(tmp_path / "adapter", adapter, delta)
    loaded, back = load_adapter(tmp_path / "adapter")
    assert loaded == adapter and bits(back) == bits(delta)
    assert jax.tree.structure(back) == jax.tree.structure(delta)
    apply = lorax.adapt(program.fn, loaded, on_fallback=allowed(program, loaded))
    target = 0.5 * jax.jit(apply)(program.base, back, program.x).astype(jnp.float32)

    def loss(delta: Any) -> jax.Array:
        out = apply(program.base, delta, program.x).astype(jnp.float32)
        return jnp.mean((out - target) ** 2)

    tx = optax.adam(1e-2)

    @jax.jit
    def step(delta, state):
        value, slope = jax.value_and_grad(loss)(delta)
        updates, state = tx.update(slope, state)
        return optax.apply_updates(delta, updates), state, value

    state, losses = tx.init(back), []
    for _ in range(10):
        back, state, value = step(back, state)
        losses.append(float(value))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_law_8_an_adapter_is_its_description(kind):
    adapter = ADAPTERS[kind](where=("a", ".*/b"))
    assert lorax.from_json(adapter.to_json()) == adapter
    assert hash(lorax.from_json(adapter.to_json())) == hash(adapter)


@pytest.mark.parametrize("name", EVERY)
def test_law_9_the_report_says_what_fell_back(name):
    program = row(name)
    adapter = lorax.LoRA(rank=RANK, where=program.where)
    report = lorax.report(program.fn, adapter, program.base, program.x)
    _, delta = start(program, adapter)
    assert report.trainable == sum(leaf.size for leaf in jax.tree.leaves(delta))
    assert bool(report.merged) != program.factors
    adapted = {r.path for r in report.rows if r.how != "frozen"}
    assert adapted == set(delta)
    assert all(r.uses >= 1 for r in report.rows if r.path in adapted)
