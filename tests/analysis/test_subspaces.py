"""φ has its closed forms: itself, chance, the projection metric; and the start is drawn again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorax
from lorax.analysis.subspaces import chance, directions, first_delta, phi, similarity
from tests.analysis.imported import from_peft, mnli

MATRIX = lorax.Roles((), (0,), (1,))
STACKED = lorax.Roles((0,), (1,), (2,))


def columns(seed, dimension, count, stacked=()):
    """Orthonormal columns, uniform in direction."""
    draw = np.random.default_rng(seed).normal(size=(*stacked, dimension, count))
    return np.linalg.qr(draw)[0]


def adapted(seed, rank, *, shape=(12, 10), stacked=3, alpha=4.0):
    """A LoRA on one stacked leaf, every number drawn."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(stacked, shape[0], rank)).astype(np.float32)
    b = rng.normal(size=(stacked, rank, shape[1])).astype(np.float32)
    return lorax.LoRA(rank, alpha, where=("w",)), {"w": lorax.Factors(a, b, STACKED)}


def test_a_subspace_is_like_itself_and_its_parts():
    adapter, delta = adapted(0, 4)
    for factor, dimension in (("A", 12), ("B", 10)):
        found = similarity(adapter, delta, adapter, delta, factor=factor)["w"]
        assert found.phi.shape == (3, 4, 4) and found.dimension == dimension
        np.testing.assert_allclose(found.phi, np.ones((3, 4, 4)), rtol=1e-5)


def test_it_depends_on_the_span_alone():
    """Any A R with R invertible spans what A does: φ at full i and j is 1, whatever the rank of B's
    gauge; and orthogonal spans have φ = 0."""
    adapter, delta = adapted(0, 4)
    turn = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    other = {"w": lorax.Factors(delta["w"].A @ turn, delta["w"].B, STACKED)}
    found = similarity(adapter, delta, adapter, other)["w"].phi
    np.testing.assert_allclose(found[:, -1, -1], 1.0, rtol=1e-4)
    assert np.all(found[:, 0, 0] < 0.999)
    basis = columns(0, 10, 8)
    np.testing.assert_allclose(phi(basis[:, :4], basis[:, 4:]), np.zeros((4, 4)), atol=1e-12)


def test_the_paper_reads_the_right_singular_vectors_of_its_a():
    adapter, delta = adapted(0, 3)
    other_adapter, other_delta = adapted(1, 5)
    found = similarity(adapter, delta, other_adapter, other_delta)["w"]
    assert found.phi.shape == (3, 3, 5)
    for n in range(3):
        theirs = [np.float64(d["w"].A[n].T) for d in (delta, other_delta)]  # (r, in), as printed
        u, v = (np.linalg.svd(a, full_matrices=False)[2].T for a in theirs)
        for i, j in ((1, 1), (2, 5), (3, 4)):
            want = np.linalg.norm(u[:, :i].T @ v[:, :j]) ** 2 / min(i, j)
            np.testing.assert_allclose(found.phi[n, i - 1, j - 1], want, rtol=1e-4)


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(6, 20), st.integers(0, 99))
def test_the_projection_metric(i, j, dimension, seed):
    u, v = columns(seed, dimension, i), columns(seed + 1, dimension, j)
    cosines = np.linalg.svd(u.T @ v, compute_uv=False)
    p = min(i, j)
    squared = p - np.sum(cosines**2)
    found = phi(u, v)[-1, -1]
    assert abs(found - (1 - squared / p)) < 1e-5
    assert -1e-9 < found < 1 + 1e-9


@pytest.mark.parametrize(("i", "j", "dimension"), [(8, 64, 256), (1, 1, 64), (16, 8, 128)])
def test_chance(i, j, dimension):
    draws = (4000,) if i == 1 else (15,)
    found = phi(columns(0, dimension, i, draws), columns(1, dimension, j, draws))
    want = chance(i, j, dimension)
    assert want == max(i, j) / dimension
    assert abs(found[:, -1, -1].mean() / want - 1) < 0.05


def test_chance_of_the_whole_grid():
    """First factors of two seeds are independent."""
    adapter = lorax.LoRA(rank=4, where=("w",))
    shapes = {"w": jax.ShapeDtypeStruct((400, 64, 16), jnp.float32)}
    one, other = (adapter.init(jax.random.key(k), shapes, {"w": STACKED}) for k in (0, 1))
    found = similarity(adapter, one, adapter, other)["w"]
    assert found.chance.shape == (4, 4) and found.chance[1, 3] == 4 / 64
    # the mean of 400; the single cell (1, 1) varies by sqrt(2) of itself
    np.testing.assert_allclose(found.phi.mean(0)[3, 3], found.chance[3, 3], rtol=0.05)
    np.testing.assert_allclose(found.phi.mean(0), found.chance, rtol=0.3)


def test_a_factor_of_zeros_has_no_direction():
    adapter = lorax.LoRA(rank=2, where=("w",))
    delta = adapter.init(jax.random.key(0), {"w": jnp.ones((6, 6))})
    assert np.all(np.isnan(similarity(adapter, delta, adapter, delta, factor="B")["w"].phi))
    a = jnp.zeros((6, 3)).at[:, 1].set(1.0)  # rank 1 of 3
    padded = {"w": lorax.Factors(a, jnp.zeros((3, 6)), MATRIX)}
    found = similarity(lorax.LoRA(3, where=("w",)), padded, adapter, delta)["w"].phi[0]
    assert np.array_equal(np.isnan(found), [[False, False], [True, True], [True, True]])


def test_the_first_delta_is_drawn_again_without_the_base():
    base = {
        "embed": jnp.ones((9, 6)),
        "layers": {"up": jnp.ones((2, 6, 8)), "down": jnp.ones((2, 8, 6))},
        "bias": jnp.ones(4),
    }
    roles = {
        "embed": lorax.Roles((), (0,), (1,), "gather"),
        "layers/up": STACKED,
        "layers/down": lorax.Roles((0,), (2,), (1,)),
        "bias": lorax.Roles((), (), (0,), "other"),
    }
    key = jax.random.key(3)
    for lora in (
        lorax.LoRA(rank=2, exclude=("bias", "embed")),
        lorax.LoRA(rank=2, where={"layers/.*": {"rank": 3}, "embed": {}}, initializer="gaussian"),
    ):
        for adapter in (lora, lorax.Chain(lora, lorax.BitFit())):
            first = adapter.init(key, base, roles)
            learnt = jax.tree.map(lambda x: x + 1, first)
            again = first_delta(adapter, key, learnt)
            assert jax.tree.structure(again) == jax.tree.structure(first)
            mine, wanted = (d[0] if isinstance(d, tuple) else d for d in (again, first))
            assert jax.tree.all(jax.tree.map(np.array_equal, mine, wanted))


def test_similarity_at_the_start_is_one_line():
    adapter, delta = adapted(0, 4)
    other_adapter, other_delta = adapted(1, 5)
    keys = jax.random.split(jax.random.key(0))
    first = first_delta(adapter, keys[0], delta), first_delta(other_adapter, keys[1], other_delta)
    found = similarity(adapter, first[0], other_adapter, first[1])["w"].phi
    assert found.shape == (3, 4, 5) and np.all((found > 0) & (found < 1))
    same = similarity(adapter, first[0], adapter, first_delta(adapter, keys[0], delta))["w"].phi
    np.testing.assert_allclose(same, 1.0, rtol=1e-5)


@pytest.mark.parametrize("initializer", ["pissa", "olora"])
def test_factors_counted_from_the_base_need_it(initializer):
    base = {"w": jax.random.normal(jax.random.key(0), (8, 6))}
    adapter = lorax.LoRA(rank=2, where=("w",), initializer=initializer)
    delta = adapter.init(jax.random.key(1), base)
    found = directions(adapter, delta, base=adapter.prepare(base, delta))["w"][0]
    start = adapter.derive(base, delta)["w"].A
    np.testing.assert_allclose(found @ (found.T @ start), start, atol=1e-5)
    with pytest.raises(lorax.LoraxError, match=f"'{initializer}' counts .* pass base="):
        directions(adapter, delta)


def test_bad_input():
    adapter, delta = adapted(0, 2)
    with pytest.raises(lorax.LoraxError, match="factor is 'C': expected one of 'A', 'B'"):
        similarity(adapter, delta, adapter, delta, factor="C")
    elsewhere = lorax.LoRA(2, where=("v",)), {"v": delta["w"]}
    with pytest.raises(lorax.LoraxError, match="no leaf in common: one has 'w' .* other 'v'"):
        similarity(adapter, delta, *elsewhere)
    with pytest.raises(lorax.LoraxError, match="'w' has A of 3 × 12 .* 3 × 11 .* one model"):
        similarity(adapter, delta, *adapted(0, 2, shape=(11, 10)))
    with pytest.raises(lorax.LoraxError, match="BitFit has no low-rank factors"):
        similarity(adapter, delta, lorax.BitFit(), {})
    with pytest.raises(lorax.LoraxError, match="BitFit has no low-rank factors"):
        first_delta(lorax.BitFit(), jax.random.key(0), {})


def test_imported_adapters():
    one, other = from_peft("llama_all_linear"), from_peft("llama_qv")
    found = similarity(one[0], one[2], other[0], other[2])
    assert found and all(path.endswith(("query/kernel", "value/kernel")) for path in found)
    for leaf in found.values():
        assert leaf.phi.shape[0] == 1 and np.all((leaf.phi >= 0) & (leaf.phi <= 1 + 1e-9))
    adapter, base, delta = from_peft("llama_pissa")
    for leaf in similarity(adapter, delta, adapter, delta, base=base).values():
        np.testing.assert_allclose(np.diagonal(leaf.phi[0]), 1.0, rtol=1e-5)


def test_the_published_mnli_adapter_against_chance():
    """Against factors it has nothing to do with: max(i, j) / 768 on average over 24 leaves."""
    adapter, delta = mnli()
    first = first_delta(adapter, jax.random.key(0), delta)
    found = similarity(adapter, delta, adapter, first)
    assert len(found) == 24
    mean = np.mean([leaf.phi[0, 7, 7] for leaf in found.values()])
    assert abs(mean * 768 / 8 - 1) < 0.1
    for factor in "AB":
        itself = similarity(adapter, delta, adapter, delta, factor=factor)
        assert all(abs(leaf.phi[0, -1, -1] - 1) < 1e-5 for leaf in itself.values())
