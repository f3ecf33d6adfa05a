"""TinyLoRA: a few numbers, or one, for a whole model."""

import jax
import numpy as np
import pytest

import lorax
from tests.adapters.matrix_programs import KEY, PLAIN, STACKED, check_laws, count
from tests.moved import moved


@pytest.fixture(scope="module")
def shared():
    return check_laws(PLAIN, lorax.TinyLoRA(rank=2, numbers=5))


def test_merge_is_lora_xs_with_a_sum_of_random_matrices(shared):
    _, base, _ = PLAIN
    adapter, delta = lorax.TinyLoRA(rank=2, numbers=5), moved(shared)
    where = tuple(delta["leaves"])
    whole = lorax.LoRAXS(rank=2, alpha=2.0, where=where)
    squares = {}
    prepared = adapter.prepare(base, delta)
    for path, (_, p) in prepared.derived.items():
        roles = delta["leaves"][path].roles
        r = np.einsum("u,uij->ij", delta["v"], p)
        squares[path] = lorax.Learnt({"R": r.astype("float32")}, roles)
    found, wanted = adapter.merge(prepared, delta), whole.merge(base, squares)
    for module in ("first", "second"):
        np.testing.assert_allclose(
            found[module]["kernel"], wanted[module]["kernel"], rtol=1e-4, atol=1e-5
        )


def test_one_number_may_be_all_that_learns():
    fn, base, x = PLAIN
    adapter = lorax.TinyLoRA(numbers=1)
    assert count(lorax.adapt(fn, adapter).init(KEY, base, x)) == 1
    assert lorax.report(fn, adapter, base, x).trainable == 1


@pytest.mark.runs
def test_a_vector_a_matrix():
    adapter = lorax.TinyLoRA(rank=2, numbers=3, shared=False)
    delta = check_laws(STACKED, adapter, slopes=False)
    assert count(delta) == 2 * 2 * 3
    assert delta["up/kernel"]["v"].shape == (2, 3)


def test_random_matrices_depend_on_seed_and_path_and_have_variance_one_over_rank():
    base = {name: np.eye(20, dtype="float32") for name in ("a", "b")}
    adapter = lorax.TinyLoRA(rank=20, numbers=50, where=("a", "b"))
    found = adapter.derive(base, adapter.init(KEY, base))
    (_, a), (_, b) = found.values()
    np.testing.assert_allclose(np.var(a), 1 / 20, rtol=0.05)
    assert np.abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05
    one = lorax.TinyLoRA(rank=20, numbers=50, where=("b",))
    np.testing.assert_array_equal(one.derive(base, one.init(KEY, base))["b"][1], b)


def test_the_delta_of_a_shared_vector_survives_a_file(shared, tmp_path):
    from lorax.io.checkpoint import load_adapter, save_adapter

    adapter, delta = lorax.TinyLoRA(rank=2, numbers=5), moved(shared)
    save_adapter(tmp_path / "adapter", adapter, delta)
    loaded, back = load_adapter(tmp_path / "adapter")
    assert loaded == adapter
    np.testing.assert_array_equal(back["v"], delta["v"])
    assert jax.tree.structure(back) == jax.tree.structure(delta)


def test_mistakes_are_told_in_one_line(shared):
    _, base, _ = PLAIN
    alone = lorax.TinyLoRA(numbers=5, shared=False, where=(".*/kernel",)).init(KEY, base)
    for call, message in (
        (lambda: lorax.TinyLoRA(numbers=0), "numbers is 0: expected at least 1"),
        (lambda: lorax.TinyLoRA(numbers=1.5), "numbers is 1.5: expected an integer"),
        (lambda: lorax.TinyLoRA(shared=1), "shared is 1: expected True or False"),
        (lambda: lorax.TinyLoRA(numbers=4).merge(base, shared), "no pair of 'v' .4,. and 'leaves'"),
        (lambda: lorax.TinyLoRA(numbers=5).merge(base, alone), "no pair of 'v'"),
        (lambda: lorax.TinyLoRA(numbers=5).merge(shared, base), "are base and delta swapped"),
        (
            lambda: lorax.TinyLoRA(rank=9, where=("first/kernel",)).init(KEY, base),
            "TinyLoRA at 'first/kernel' has rank 9",
        ),
    ):
        with pytest.raises(lorax.LoraxError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
