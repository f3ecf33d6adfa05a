"""BitFit: the biases, all of them, and nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 5))


class _Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="norm")(nn.Dense(6, name="first")(x))
        return nn.Dense(4, name="bias_like")(nn.tanh(x))


MODEL = _Model()
BASE = jax.jit(MODEL.init)(KEY, X)
BIASES = {f"params/{name}/bias" for name in ("first", "norm", "bias_like")}
APPLY = lorax.adapt(MODEL.apply, lorax.BitFit(), on_fallback="error")


def test_every_leaf_named_bias_and_no_other():
    delta = APPLY.init(KEY, BASE, X)
    assert set(delta) == BIASES
    report = lorax.report(MODEL.apply, lorax.BitFit(), BASE, X)
    assert report.trainable == 6 + 6 + 4
    assert {row.path for row in report.rows if row.how == "trained"} == BIASES


def test_a_bias_at_the_root_is_one_and_a_longer_name_is_not():
    base = {"bias": jnp.ones(3), "bias_table": jnp.ones(3), "rebias": jnp.ones(3)}
    assert set(lorax.BitFit().init(KEY, base)) == {"bias"}


def test_starts_at_the_base_and_its_gradients_are_those_of_the_biases():
    delta = APPLY.init(KEY, BASE, X)
    np.testing.assert_array_equal(APPLY(BASE, delta, X), MODEL.apply(BASE, X))
    slope = jax.grad(lambda delta: jnp.sum(jnp.sin(APPLY(BASE, delta, X))))(delta)
    whole = jax.grad(lambda base: jnp.sum(jnp.sin(MODEL.apply(base, X))))(BASE)["params"]
    for path, own in slope.items():
        np.testing.assert_allclose(own, whole[path.split("/")[1]]["bias"], rtol=1e-5)


def test_merge_replaces_biases_and_keeps_every_other_leaf():
    delta = jax.tree.map(lambda leaf: leaf + 1.0, APPLY.init(KEY, BASE, X))
    merged = lorax.BitFit().merge(BASE, delta)["params"]
    for name, leaves in BASE["params"].items():
        np.testing.assert_array_equal(merged[name]["bias"], leaves["bias"] + 1.0)
        for other in set(leaves) - {"bias"}:
            assert merged[name][other] is leaves[other]


def test_exclude_and_where():
    adapter = lorax.BitFit(exclude=(".*/norm/bias",))
    assert set(adapter.init(KEY, BASE)) == BIASES - {"params/norm/bias"}
    assert set(lorax.BitFit(where=[".*first/bias"]).init(KEY, BASE)) == {"params/first/bias"}
    assert lorax.from_json(adapter.to_json()) == adapter


def test_is_a_member_of_a_chain_beside_lora():
    chain = lorax.Chain(lorax.LoRA(rank=2, where=(".*/kernel",)), lorax.BitFit())
    lora, biases = lorax.adapt(MODEL.apply, chain).init(KEY, BASE, X)
    assert set(biases) == BIASES and len(lora) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lorax.BitFit(where="bias"), "where is 'bias': expected a tuple"),
        (lambda: lorax.BitFit().init(KEY, {"w": jnp.ones((2, 2))}), "matches none of 1 leaves"),
        (lambda: lorax.BitFit().merge(BASE, {}), "delta is empty"),
        (lambda: lorax.BitFit().init(KEY, {"bias": jnp.ones(2, int)}), "'bias' has dtype int32"),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
