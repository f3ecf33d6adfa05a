"""LoRA-FA: a LoRA whose A never learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from tests.adapters.matrix_programs import KEY, PLAIN, STACKED, check_laws, count
from tests.moved import moved

RANK = 3


@pytest.fixture(scope="module")
def plain():
    return check_laws(PLAIN, lorax.LoRAFA(rank=RANK, alpha=2.0))


def test_it_is_a_lora_with_a_frozen_a(plain):
    _, base, _ = PLAIN
    adapter, delta = lorax.LoRAFA(rank=RANK, alpha=2.0), moved(plain)
    prepared = adapter.prepare(base, delta)
    frozen = prepared.derived
    whole = {p: lorax.Factors(frozen[p], own["B"], own.roles) for p, own in delta.items()}
    lora = lorax.LoRA(rank=RANK, alpha=2.0).merge(base, whole)
    jax.tree.map(np.testing.assert_array_equal, adapter.merge(prepared, delta), lora)


@pytest.mark.runs
def test_counts_are_rank_times_outputs():
    assert count(check_laws(STACKED, lorax.LoRAFA(rank=RANK), slopes=False)) == 2 * RANK * (8 + 6)


def test_a_depends_on_seed_and_path_alone(plain):
    _, base, _ = PLAIN
    adapter = lorax.LoRAFA(rank=RANK)
    whole = adapter.derive(base, plain)
    one = {"second/kernel": plain["second/kernel"]}
    few = lorax.LoRAFA(rank=RANK, where=("second/kernel",)).derive(base, one)
    np.testing.assert_array_equal(few["second/kernel"], whole["second/kernel"])
    other = lorax.LoRAFA(rank=RANK, seed=1).derive(base, plain)
    assert np.abs(other["first/kernel"] - whole["first/kernel"]).max() > 0.01


@pytest.mark.parametrize(
    ("initializer", "variance"), [("kaiming", 1 / (3 * 256)), ("gaussian", 1 / 64**2)]
)
def test_a_is_drawn_as_loras_is(initializer, variance):
    base = {"w": jnp.zeros((256, 8))}
    adapter = lorax.LoRAFA(rank=64, where=("w",), initializer=initializer)
    a = adapter.derive(base, adapter.init(KEY, base))["w"]
    np.testing.assert_allclose(np.var(a), variance, rtol=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lorax.LoRAFA(initializer="pissa"), "initializer is 'pissa': expected one of"),
        (lambda: lorax.LoRAFA(alpha=0), "alpha is 0.0"),
        (lambda: lorax.LoRAFA().merge(PLAIN[1], {}), "delta is empty"),
        (
            lambda: lorax.LoRAFA(rank=2).merge(
                PLAIN[1], lorax.LoRAFA(rank=3, where=(".*/kernel",)).init(KEY, PLAIN[1])
            ),
            "has B .3, 8. but this LoRAFA needs .2, 8.",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
