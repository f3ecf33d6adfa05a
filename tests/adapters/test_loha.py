"""LoHa: the product, entry by entry, of two low-rank products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.leaf import LowRank, Shift
from tests.adapters.matrix_programs import KEY, PLAIN, STACKED, check_laws, count
from tests.moved import moved

LARGE = "LoHa's factors of rank 4 would be larger than the leaf"


@pytest.fixture(scope="module")
def whole():
    return check_laws(PLAIN, lorax.LoHa(rank=2, alpha=3.0), "allow")


@pytest.mark.runs
def test_small_ranks_are_factored_and_keep_the_laws():
    delta = check_laws(STACKED, lorax.LoHa(rank=1, alpha=3.0), slopes=False)
    assert count(delta) == 2 * 2 * ((6 + 8) + (8 + 6))


def test_merge_is_the_equation(whole):
    _, base, _ = PLAIN
    adapter, delta = lorax.LoHa(rank=2, alpha=3.0), moved(whole)
    merged = adapter.merge(base, delta)
    assert count(delta) == 2 * 2 * ((6 + 8) + (8 + 4))
    for name, learnt in delta.items():
        a1, b1, a2, b2 = (np.asarray(learnt[n], np.float64) for n in ("A1", "B1", "A2", "B2"))
        module = name.split("/")[0]
        change = np.asarray(merged[module]["kernel"], np.float64) - base[module]["kernel"]
        np.testing.assert_allclose(change, 1.5 * (a1 @ b1) * (a2 @ b2), rtol=1e-4, atol=1e-5)
    assert np.linalg.matrix_rank(change, tol=1e-5) > 2  # more than two factors of rank 2 have


@pytest.mark.parametrize("stacked", [False, True])
def test_factors_and_the_whole_update_agree(stacked):
    shape = (3, 5, 4) if stacked else (5, 4)
    roles = lorax.Roles((1,), (2,), (0,)) if stacked else lorax.Roles((), (0,), (1,))
    leaf = jnp.zeros(shape)
    adapter = lorax.LoHa(rank=2, where=("w",))
    delta = moved(adapter.init(KEY, {"w": leaf}, {"w": roles}))
    whole = adapter.adapted("w", leaf, delta["w"], None)
    assert isinstance(whole, Shift) and whole.why == LARGE
    learnt = {name: np.asarray(array, np.float64) for name, array in delta["w"].arrays.items()}
    update = 8.0 * (learnt["A1"] @ learnt["B1"]) * (learnt["A2"] @ learnt["B2"])
    update = update.transpose(2, 0, 1) if stacked else update  # out, stack, in
    np.testing.assert_allclose(whole.update, update, rtol=1e-4, atol=1e-4)


def test_a_report_names_what_is_formed(whole):
    fn, base, x = PLAIN
    rows = lorax.report(fn, lorax.LoHa(rank=2), base, x).merged
    assert [row.path for row in rows] == ["first/kernel", "second/kernel"]
    assert rows[0].why == LARGE
    with pytest.raises(lorax.LoraxError, match="has no factored form .LoHa's factors"):
        lorax.adapt(fn, lorax.LoHa(rank=2), on_fallback="error")(base, whole, x)
    found = lorax.LoHa(rank=1, where=(".*/kernel",))
    (leaf, _) = found.leaves(base, found.init(KEY, base)).values()
    assert isinstance(leaf, LowRank) and leaf.scale == 16.0


def test_one_matrix_of_the_four_starts_at_zero():
    delta = lorax.LoHa(rank=16, where=("w",)).init(KEY, {"w": jnp.zeros((400, 900))})["w"]
    assert not delta["A2"].any()
    for name, fan in (("A1", 400), ("B1", 16), ("B2", 16)):
        np.testing.assert_allclose(np.var(delta[name]), 1 / (3 * fan), rtol=0.05)
        assert np.abs(delta[name]).max() <= 1 / np.sqrt(fan)


def test_mistakes_are_told_in_one_line(whole):
    _, base, _ = PLAIN
    packed = lorax.quantize({"w": jax.random.normal(KEY, (16, 16))}, "int8", where=("w",))
    for call, message in (
        (lambda: lorax.LoHa(rank=0), "rank is 0"),
        (lambda: lorax.LoHa(rank=3).merge(base, whole), "has A1 .6, 2. but this LoHa needs"),
        (lambda: lorax.LoHa().merge(whole, base), "are they swapped"),
        (
            lambda: lorax.LoHa(rank=4, where=("w",)).init(KEY, packed),
            "'w' is quantised and LoHa of this rank moves the whole leaf",
        ),
    ):
        with pytest.raises(lorax.LoraxError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
