"""VeRA: two vectors that learn a matrix, between random ones that everybody shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from tests.adapters.matrix_programs import KEY, PLAIN, STACKED, check_laws, count
from tests.moved import moved

RANK = 5


@pytest.fixture(scope="module")
def plain():
    return check_laws(PLAIN, lorax.VeRA(rank=RANK))


@pytest.fixture(scope="module")
def stacked():
    return check_laws(STACKED, lorax.VeRA(rank=RANK), slopes=False)


def test_counts_are_rank_and_outputs_a_matrix(plain, stacked):
    assert count(plain) == 2 * RANK + 8 + 4
    assert count(stacked) == 2 * (RANK + 8) + 2 * (RANK + 6)
    assert stacked["up/kernel"]["d"].shape == (2, RANK)
    assert stacked["up/kernel"]["b"].shape == (2, 2, 4)
    assert float(plain["first/kernel"]["d"][0]) == pytest.approx(0.1)


def test_merge_is_the_equation(plain):
    _, base, _ = PLAIN
    adapter, delta = lorax.VeRA(rank=RANK), moved(plain)
    prepared = adapter.prepare(base, delta)
    merged, frozen = adapter.merge(prepared, delta), prepared.derived
    for name, learnt in delta.items():
        a, b = (np.asarray(x, np.float64) for x in (frozen[name].A, frozen[name].B))
        wanted = a @ np.diag(learnt["d"]) @ b @ np.diag(learnt["b"])
        module = name.split("/")[0]
        change = np.asarray(merged[module]["kernel"], np.float64) - base[module]["kernel"]
        np.testing.assert_allclose(change, wanted, rtol=1e-4, atol=1e-5)


def test_one_draw_serves_every_leaf_and_every_layer(plain, stacked):
    adapter = lorax.VeRA(rank=RANK)
    small, large = adapter.derive(PLAIN[1], plain).values()  # (6, 8) and (8, 4)
    scale = lambda fan: np.sqrt(6 / fan)
    np.testing.assert_allclose(small.A / scale(6), large.A[:6] / scale(8), rtol=1e-6)
    np.testing.assert_array_equal(small.B[:, :4], large.B)
    np.testing.assert_array_less(np.abs(small.A), scale(6))
    np.testing.assert_array_less(np.abs(small.B), scale(RANK))
    shared = adapter.derive(STACKED[1], stacked)["up/kernel"]
    assert shared.A.shape == (6, RANK) and shared.B.shape == (RANK, 2, 4)
    np.testing.assert_array_equal(shared.A, small.A)
    np.testing.assert_array_equal(shared.B.reshape(RANK, 8), small.B)
    other = lorax.VeRA(rank=RANK, seed=1).derive(PLAIN[1], plain)["first/kernel"]
    assert np.abs(other.A - small.A).max() > 0.1


def test_the_draw_is_wide_and_uniform():
    base = {"w": jnp.zeros((300, 400))}
    adapter = lorax.VeRA(rank=64, where=("w",))
    frozen = adapter.derive(base, adapter.init(KEY, base))["w"]
    np.testing.assert_allclose(np.var(frozen.A), 2 / 300, rtol=0.05)
    np.testing.assert_allclose(np.var(frozen.B), 2 / 64, rtol=0.05)
    assert abs(np.mean(frozen.A)) < 0.005 and abs(np.mean(frozen.B)) < 0.005


def test_prepare_keeps_what_is_frozen_and_matrices_of_others_go_in(plain):
    _, base, _ = PLAIN
    adapter, delta = lorax.VeRA(rank=RANK), moved(plain)
    prepared = adapter.prepare(base, delta)
    assert "random_bits" not in str(jax.make_jaxpr(adapter.merge)(prepared, delta))
    assert "random_bits" in str(jax.make_jaxpr(adapter.merge)(base, delta))
    ones = jax.tree.map(jnp.ones_like, prepared.derived)
    merged = adapter.merge(lorax.Prepared(base, ones, adapter), delta)
    learnt = delta["first/kernel"]
    change = np.asarray(merged["first"]["kernel"] - base["first"]["kernel"])
    wanted = np.broadcast_to(learnt["d"].sum() * learnt["b"], (6, 8))
    np.testing.assert_allclose(change, wanted, rtol=1e-3, atol=1e-5)
    turned = jax.tree.map(jnp.transpose, ones)
    with pytest.raises(lorax.LoraxError, match=r"frozen A and B.*expected \(6, 5\) and \(5, 8\)"):
        adapter.merge(lorax.Prepared(base, turned, adapter), delta)
    fewer = {"first/kernel": ones["first/kernel"]}
    with pytest.raises(lorax.LoraxError, match="base was prepared without 'second/kernel'"):
        adapter.merge(lorax.Prepared(base, fewer, adapter), delta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lorax.VeRA(rank=0), "rank is 0"),
        (lambda: lorax.VeRA(d_initial=0.0), "d_initial is 0.0: expected a finite number other"),
        (lambda: lorax.VeRA(d_initial="x"), "d_initial is 'x'"),
        (lambda: lorax.VeRA(seed=-1), "seed is -1"),
        (lambda: lorax.VeRA(where={"w": {"alpha": 2}}), "override of .* is 'alpha'"),
        (lambda: lorax.VeRA(where=("b",)).init(KEY, {"b": jnp.ones(3)}), "VeRA needs an input"),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
