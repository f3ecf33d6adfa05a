"""What the projection benchmark times is right, and its verdicts follow from its figures."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from experiments.benchmarks import _measure as measure
from experiments.benchmarks import _projection_step as steps
from experiments.benchmarks import _projection_transform as transform
from experiments.benchmarks import projection

TINY = steps.Shape(features=(8, 4), inputs=12, batch=4, steps=3, dim=10, units=2)


@pytest.mark.parametrize("length", [2, 64, 512])
def test_every_peer_is_the_walsh_hadamard_matrix(length):
    x = np.random.default_rng(0).normal(size=length).astype(np.float32)
    wanted = scipy.linalg.hadamard(length) @ x
    np.testing.assert_allclose(transform.reference(x), wanted, rtol=1e-12, atol=1e-6)
    for name, peer in transform.PEERS.items():
        np.testing.assert_allclose(peer(jnp.asarray(x)), wanted, atol=1e-4, err_msg=name)


@pytest.mark.runs
def test_transforms_are_compared_both_ways(tmp_path):
    found = transform.compared(256, 2, None, tmp_path)
    for direction in ("forward", "vjp"):
        assert found[direction]["errors"]["ours"] <= transform.ERROR
        assert set(found[direction]["over_ours"]) == set(transform.PEERS)
        assert found[direction]["ours_over_floor"]["median"] > 0


def test_what_is_wrong_is_not_timed():
    with pytest.raises(RuntimeError, match="kronecker_128"):
        transform.check({"ours": 1e-7, "kronecker_128": 1e-3})
    with pytest.raises(RuntimeError, match="nan"):
        transform.check({"ours": float("nan")})


def test_the_fastest_factor_of_each_length_is_named():
    (found,) = transform.factors([1024], [8, 32], 2)
    assert found["best"] in (8, 32)
    assert found["over_best"][str(found["best"])]["median"] == 1


def test_a_python_without_torch_ends_the_benchmark_with_its_exit_code():
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(RuntimeError, match="exit code 1"):
            transform.Torch(sys.executable)


@pytest.mark.runs
def test_steps_of_projections_are_compared_with_the_direct_step():
    kinds = {"sparse_leaf": steps.KINDS["sparse_leaf"]}
    found = steps.compared(TINY, 2, kinds, steps.SLOW)
    assert found["total"] == 12 * 8 + 8 + 8 * 4 + 4
    assert set(found["over_direct"]) == {"sparse_leaf", "dense"}
    assert set(found["milliseconds_a_step"]) == {"direct", "sparse_leaf", "dense"}


@pytest.mark.runs
def test_packed_projections_learn_what_they_learn_alone():
    (found,) = steps.packed(TINY, 2, ["sparse"])
    assert found["largest_relative_difference_of_losses"] <= steps.GATE
    assert set(found["alone_over"]) == {"side_by_side", "in_turn"}
    with pytest.raises(RuntimeError, match=r"differ.* by 0\.5"):
        steps.gate({"alone": [[2.0], [2.0]], "side_by_side": [2.0, 3.0], "in_turn": [2.0, 2.0]})


def test_a_target_is_held_by_the_median():
    spread = lambda median: {"median": median, "low": 0.1, "high": 9.0}
    part = {
        "errors": {"ours": 3e-7},
        "over_ours": {"butterfly": spread(1.8), "kronecker_128": spread(3.4)},
    }
    over_direct = {"sparse": spread(1.4), "fastfood": spread(2.6)}
    result = {
        "transform": [{"length": 2**16, "forward": part, "vjp": part}],
        "step": {"over_direct": over_direct},
    }
    checks = projection.targets(result)
    held = {check["what"]: check["held"] for check in checks}
    assert held == {
        **{f"{way}, L = 2^16: error": True for way in ("forward", "vjp")},
        **{f"{way}, L = 2^16: butterfly over ours": True for way in ("forward", "vjp")},
        **{f"{way}, L = 2^16: kronecker_128 over ours": False for way in ("forward", "vjp")},
        "step: sparse over direct": True,
        "step: fastfood over direct": False,
    }
    text = measure.table(checks)
    assert "| step: fastfood over direct | 2.6 | 0.1 to 9.0 | <= 2.5 | **no** |" in text
