"""The counter counts what was put there: spikes, and nothing for noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.analysis.intruders import intruders, total
from tests.analysis.imported import from_peft

MATRIX = lorax.Roles((), (0,), (1,))


def weights(fan_in=24, fan_out=40, seed=0):
    """W with singular values from 10 down to 1, and all of its left and right singular vectors.

    The last ones of the longer side have no value: W does not read, or write, there.
    """
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (fan_in, fan_out))
    least = min(fan_in, fan_out)
    w = left[:, :least] @ np.diag(np.linspace(10, 1, least)) @ right[:, :least].T
    return jnp.asarray(w, jnp.float32), left, right


def spike(left, right, size):
    """A LoRA of rank 1 that writes `size` along `right`."""
    factors = lorax.Factors(
        jnp.asarray(size * left[:, None], jnp.float32),
        jnp.asarray(right[None, :], jnp.float32),
        MATRIX,
    )
    return lorax.LoRA(1, 1.0, where=("w",)), {"w": factors}


def test_one_spike_above_the_kth_value_is_one_intruder():
    w, left, right = weights()
    adapter, delta = spike(left[:, -1], right[:, -1], 30.0)
    found = intruders(adapter, {"w": w}, delta)
    assert list(found["w"].count) == [1] and total(found) == 1
    assert found["w"].likeness.shape == (1, 10) and found["w"].likeness[0, 0] < 0.1
    np.testing.assert_allclose(found["w"].likeness[0, 1:], 1.0, atol=1e-4)
    whole = {"w": w + delta["w"].A @ delta["w"].B}
    assert total(intruders(lorax.Full(), {"w": w}, whole, roles={"w": MATRIX})) == 1


def test_a_spike_below_the_kth_value_is_not_looked_at():
    w, left, right = weights()
    adapter, delta = spike(left[:, -1], right[:, -1], 5.0)  # σ_10 is 6.5
    assert total(intruders(adapter, {"w": w}, delta)) == 0
    assert total(intruders(adapter, {"w": w}, delta, k=24)) == 1


def test_the_directions_are_those_of_the_output():
    """A new input direction that writes where W wrote already is none."""
    w, left, right = weights(40, 24)
    adapter, delta = spike(left[:, -1], right[:, 3], 30.0)
    assert total(intruders(adapter, {"w": w}, delta)) == 0


def test_small_noise_of_full_rank_is_none():
    w, *_ = weights()
    noise = jax.random.normal(jax.random.key(0), w.shape)
    noise *= 0.01 * jnp.linalg.norm(w) / jnp.linalg.norm(noise)
    found = intruders(lorax.Full(), {"w": w}, {"w": w + noise}, roles={"w": MATRIX})
    assert total(found) == 0 and np.all(found["w"].likeness > 0.9)


def test_an_untrained_adapter_has_none_even_strictly():
    base = {"w": weights()[0].astype(jnp.bfloat16)}
    adapter = lorax.LoRA(rank=2, where=("w",))
    found = intruders(adapter, base, adapter.init(jax.random.key(0), base), epsilon=0.999)
    assert total(found) == 0


def test_stacked_leaves_and_chains():
    w, left, right = weights()
    base = {"w": jnp.stack([w, w, w]), "head": w[:6, :6]}
    _, delta = spike(left[:, -1], right[:, -1], 30.0)
    sizes = jnp.array([1.0, 0.0, 1.0])[:, None, None]
    stacked = lorax.Factors(delta["w"].A * sizes, jnp.stack([delta["w"].B] * 3),
                            lorax.Roles((0,), (1,), (2,)))  # fmt: skip
    adapter = lorax.Chain(lorax.LoRA(1, 1.0, where=("w",)), lorax.Full(("head",)))
    found = intruders(
        adapter, base, ({"w": stacked}, {"head": base["head"]}), roles={"head": MATRIX}
    )
    assert list(found["w"].count) == [1, 0, 1] and total(found) == 2
    assert found["head"].likeness.shape == (1, 6)


def test_bad_input():
    w, left, right = weights()
    adapter, delta = spike(left[:, -1], right[:, -1], 30.0)
    with pytest.raises(lorax.LoraxError, match="k is 0: expected at least 1"):
        intruders(adapter, {"w": w}, delta, k=0)
    for epsilon in (0.0, 1.5, float("nan")):
        with pytest.raises(lorax.LoraxError, match="epsilon is .*: expected a cosine"):
            intruders(adapter, {"w": w}, delta, epsilon=epsilon)
    with pytest.raises(lorax.LoraxError, match="no matrix among the 1 leaves of Full"):
        intruders(lorax.Full(), {"b": w[0]}, {"b": w[0]})


def test_an_imported_adapter():
    adapter, base, delta = from_peft("gpt2_c_attn")
    found = intruders(adapter, base, delta)
    stored, after = (lorax.core.paths.flatten(x) for x in (base, adapter.merge(base, delta)))
    for path, leaf in found.items():
        old, new = (np.linalg.svd(np.float64(x[path]))[2] for x in (stored, after))
        new = new[: leaf.likeness.shape[1]]
        old = old[: min(stored[path].shape)]
        np.testing.assert_allclose(leaf.likeness[0], np.abs(new @ old.T).max(1), atol=1e-3)
