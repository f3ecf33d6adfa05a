"""LoKr: the Kronecker product of two small matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorax
from lorax.adapters.lokr import split
from lorax.core.leaf import LowRank, Shift
from tests.adapters.matrix_programs import KEY, PLAIN, STACKED, check_laws, count
from tests.moved import moved

WIDE = lorax.Roles((), (0,), (1,))


def _adapted(adapter, shape, roles=WIDE):
    leaf = jnp.zeros(shape)
    arrays = {n: jnp.zeros(s) for n, s in adapter.shapes("w", leaf, roles).items()}
    learnt = moved(lorax.Learnt(arrays, roles))
    return learnt, adapter.adapted("w", leaf, learnt, None)


def test_it_keeps_the_laws_whole():
    adapter = lorax.LoKr(rank=4, alpha=3.0)
    delta = check_laws(PLAIN, adapter, "allow")
    assert {name: x.shape for name, x in delta["first/kernel"].arrays.items()} == {
        "W1": (2, 2),
        "W2": (3, 4),
    }
    assert count(delta) == (2 * 2 + 3 * 4) + (2 * 2 + 4 * 2)


@pytest.mark.runs
def test_it_keeps_the_laws_factored():
    delta = check_laws(STACKED, lorax.LoKr(rank=1, alpha=3.0, factor=2), slopes=False)
    assert count(delta) == 2 * ((2 * 2 + (3 + 4)) + (2 * 2 + (4 + 3)))


@pytest.mark.parametrize(("rank", "kind"), [(1, LowRank), (3, Shift)])
def test_merge_is_the_equation(rank, kind):
    adapter = lorax.LoKr(rank=rank, alpha=3.0, where=("w",))
    learnt, leaf = _adapted(adapter, (12, 20))  # 3 · 4 and 4 · 5
    assert isinstance(leaf, kind)
    second = learnt["W2"] if rank >= 2.5 else learnt["A2"] @ learnt["B2"]
    wanted = 3.0 / rank * np.kron(np.asarray(learnt["W1"]), np.asarray(second))
    base = {"w": jnp.zeros((12, 20))}
    np.testing.assert_allclose(adapter.merge(base, {"w": learnt})["w"], wanted, atol=1e-5)
    assert getattr(leaf, "why", "") == ("" if rank == 1 else _WHY)


_WHY = "LoKr's factors would be larger than the leaf"


def test_factors_are_of_the_smaller_rank_either_way():
    adapter = lorax.LoKr(rank=2, where=("w",), factor=4)
    for shape in ((16, 40), (42, 16)):  # 4 · 4 and 4 · 10, 3 · 14 and 4 · 4
        learnt, leaf = _adapted(adapter, shape)
        assert leaf.factors.rank == 2 * min(learnt["W1"].shape)
        wanted = 8.0 * np.kron(learnt["W1"], np.asarray(learnt["A2"] @ learnt["B2"]))
        found = adapter.merge({"w": jnp.zeros(shape)}, {"w": learnt})["w"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_stack_has_a_product_each():
    roles = lorax.Roles((1,), (2,), (0,))
    adapter = lorax.LoKr(rank=4, where=("w",))
    learnt, leaf = _adapted(adapter, (6, 3, 8), roles)
    for layer in range(3):
        wanted = 4.0 * np.kron(learnt["W1"][layer], learnt["W2"][layer]).T
        np.testing.assert_allclose(leaf.update[:, layer], wanted, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 3000), st.sampled_from((-1, 1, 2, 3, 8, 50)))
@settings(max_examples=60)
def test_a_side_is_split_in_two(side, factor):
    first, second = split(side, factor)
    assert first * second == side
    if factor > 0 and side % factor == 0:
        assert first == factor
    else:
        most = side if factor < 0 else factor
        assert first <= second and first <= most
        better = range(first + 1, min(most, int(side**0.5)) + 1)
        assert all(side % number for number in better)


@pytest.mark.parametrize(
    ("side", "factor", "parts"),
    [(256, -1, (16, 16)), (128, -1, (8, 16)), (127, -1, (1, 127)), (128, 4, (4, 32))],
)
def test_known_splits(side, factor, parts):
    assert split(side, factor) == parts


def test_the_first_matrix_starts_at_zero():
    adapter = lorax.LoKr(rank=16, where=("w",))
    delta = adapter.init(KEY, {"w": jax.ShapeDtypeStruct((10000, 10000), "float32")})["w"]
    assert not delta["W1"].any() and delta["W1"].shape == (100, 100)
    for name, fan in (("A2", 100), ("B2", 16)):
        np.testing.assert_allclose(np.var(delta[name]), 1 / (3 * fan), rtol=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lorax.LoKr(factor=0), "factor is 0: expected at least 1, or -1"),
        (lambda: lorax.LoKr(factor="2"), "factor is '2': expected an integer"),
        (
            lambda: lorax.LoKr(rank=1, factor=2, where=(".*/kernel",)).merge(
                PLAIN[1], lorax.LoKr(rank=4, where=(".*/kernel",)).init(KEY, PLAIN[1])
            ),
            "expected a Learnt of W1, A2, B2",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
