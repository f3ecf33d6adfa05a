"""The spectrum of ΔW, against a dense SVD and against published adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.analysis.spectra import spectra
from tests.analysis.imported import mnli

ROLES = lorax.Roles((), (0,), (1,))


def test_values_are_those_of_the_dense_update():
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = jax.random.normal(keys[0], (3, 6, 2)), jax.random.normal(keys[1], (3, 2, 5))
    factors = lorax.Factors(a, b, lorax.Roles((0,), (1,), (2,)))
    found = spectra(lorax.LoRA(rank=2, alpha=6.0, where=("w",)), {"w": factors})["w"]
    dense = 3.0 * np.einsum("nir,nro->nio", np.float64(a), np.float64(b))
    want = np.linalg.svd(dense, compute_uv=False)[:, :2]
    np.testing.assert_allclose(found.values, want, rtol=1e-5)
    np.testing.assert_allclose(found.frobenius, np.linalg.norm(dense, axis=(1, 2)), rtol=1e-5)
    assert (found.rank, found.scale, list(found.numerical_rank)) == (2, 3.0, [2, 2, 2])


def test_ranks_of_known_spectra():
    a, b = jnp.eye(4), jnp.diag(jnp.array([2.0, 2.0, 2.0, 0.0]))
    adapter = lorax.LoRA(rank=4, alpha=4.0, where=("w",))
    found = spectra(adapter, {"w": lorax.Factors(a, b, ROLES)})["w"]
    np.testing.assert_allclose(found.stable_rank, [3.0], rtol=1e-5)
    np.testing.assert_allclose(found.effective_rank, [3.0], rtol=1e-5)
    assert list(found.numerical_rank) == [3]


def test_an_untrained_adapter_has_rank_zero():
    adapter = lorax.LoRA(rank=2, where=("w",))
    found = spectra(adapter, adapter.init(jax.random.key(0), {"w": jnp.ones((4, 4))}))["w"]
    assert found.stable_rank == found.effective_rank == found.numerical_rank == 0


def test_members_without_factors_are_passed_over():
    base = {"w": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    adapter = lorax.Chain(lorax.LoRA(rank=2, where=("w",)), lorax.BitFit())
    assert list(spectra(adapter, adapter.init(jax.random.key(0), base))) == ["w"]
    with pytest.raises(lorax.LoraxError, match="BitFit has no low-rank factors"):
        spectra(lorax.BitFit(), lorax.BitFit().init(jax.random.key(0), base))


def test_the_published_mnli_adapter():
    found = spectra(*mnli())
    assert len(found) == 24
    first = next(s for n, s in found.items() if ".0." in n and "query" in n)
    np.testing.assert_allclose(first.frobenius, 4.8136, rtol=1e-4)
    np.testing.assert_allclose(first.stable_rank, 1.59, rtol=5e-3)
    total = np.sqrt(sum(float(s.frobenius[0]) ** 2 for s in found.values()))
    np.testing.assert_allclose(total, 22.901, rtol=1e-4)


def test_factors_that_are_made_of_other_numbers():
    base = {"w": jax.random.normal(jax.random.key(0), (6, 5))}
    adapter = lorax.AdaLoRA(rank=3, target_rank=2, where=("w",))
    delta = jax.tree.map(lambda x: x + 0.1, adapter.init(jax.random.key(1), base))
    found = spectra(adapter, delta, base)["w"]
    update = np.asarray(adapter.merge(base, delta)["w"] - base["w"], np.float64)
    np.testing.assert_allclose(found.values[0], np.linalg.svd(update)[1][:3], rtol=1e-3, atol=1e-5)
