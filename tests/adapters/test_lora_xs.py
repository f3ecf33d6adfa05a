"""LoRA-XS: an r × r matrix between the singular vectors of the base."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from tests.adapters.matrix_programs import KEY, PLAIN, STACKED, check_laws, count
from tests.moved import moved


@pytest.fixture(scope="module")
def plain():
    return check_laws(PLAIN, lorax.LoRAXS(rank=3, alpha=6.0))


def test_merge_is_the_equation(plain):
    _, base, _ = PLAIN
    delta = moved(plain)
    merged = lorax.LoRAXS(rank=3, alpha=6.0).merge(base, delta)
    for name, learnt in delta.items():
        module = name.split("/")[0]
        w0 = np.asarray(base[module]["kernel"], np.float64)
        u, s, vt = np.linalg.svd(w0, full_matrices=False)
        sign = np.sign(u[np.abs(u).argmax(0), np.arange(len(s))])
        u, vt = u * sign, vt * sign[:, None]
        wanted = 2.0 * (u[:, :3] * s[:3]) @ np.asarray(learnt["R"], np.float64) @ vt[:3]
        change = np.asarray(merged[module]["kernel"], np.float64) - w0
        np.testing.assert_allclose(change, wanted, rtol=1e-3, atol=1e-4)


def test_counts_are_the_square_of_the_rank_whatever_the_leaf(plain):
    assert count(plain) == 2 * 3**2
    stacked = check_laws(STACKED, lorax.LoRAXS(rank=2), slopes=False)
    assert count(stacked) == 2 * 2 * 2**2
    assert stacked["up/kernel"]["R"].shape == (2, 2, 2)


def test_what_r_means_does_not_hang_on_the_signs_of_the_decomposition(plain, monkeypatch):
    _, base, _ = PLAIN
    adapter = lorax.LoRAXS(rank=3)
    usual, svd = adapter.derive(base, plain), jnp.linalg.svd

    def turned(w, **kwargs):
        u, s, vt = svd(w, **kwargs)
        return -u, s, -vt

    monkeypatch.setattr(jnp.linalg, "svd", turned)
    jax.tree.map(np.testing.assert_array_equal, adapter.derive(base, plain), usual)


def test_prepare_decomposes_once_and_a_quantised_base_serves(plain):
    _, base, _ = PLAIN
    adapter, delta = lorax.LoRAXS(rank=3), moved(plain)
    prepared = adapter.prepare(base, delta)
    assert set(prepared.derived) == set(delta)
    assert "svd" not in str(jax.make_jaxpr(adapter.merge)(prepared, delta))
    packed = lorax.quantize(base, "int8", where=(".*/kernel",))
    loose = adapter.merge(packed, delta)["first"]["kernel"]
    exact = adapter.merge(lorax.dequantize(packed), delta)["first"]["kernel"]
    np.testing.assert_allclose(loose, exact, rtol=1e-5, atol=1e-5)


def test_an_override_has_its_own_rank_and_scale():
    where = {"first/kernel": {"rank": 2, "alpha": 8}, "second/kernel": {}}
    adapter = lorax.LoRAXS(rank=4, alpha=4.0, where=where)
    delta = adapter.init(KEY, PLAIN[1])
    assert [own["R"].shape[0] for own in delta.values()] == [2, 4]
    assert [leaf.scale for leaf in adapter.leaves(PLAIN[1], delta).values()] == [4.0, 1.0]
    assert lorax.from_json(adapter.to_json()) == adapter


def test_mistakes_are_told_in_one_line(plain):
    _, base, _ = PLAIN
    wrong = {name: dataclasses.replace(own, arrays={}) for name, own in plain.items()}
    for call, message in (
        (
            lambda: lorax.LoRAXS(rank=7, where=("first/kernel",)).init(KEY, base),
            "LoRAXS at 'first/kernel' has rank 7: expected at most 6",
        ),
        (lambda: lorax.LoRAXS(rank=3).merge(base, wrong), "expected a Learnt of R"),
        (lambda: lorax.LoRAXS(rank=2).merge(base, plain), "has R .3, 3. but this LoRAXS needs"),
    ):
        with pytest.raises(lorax.LoraxError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
