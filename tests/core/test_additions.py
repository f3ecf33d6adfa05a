"""Arrays beside the parameters: where they go, and who must read them."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.additions import with_additions


class _Shifted(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(3, name="dense")(x)
        if self.has_variable("additions", "shift"):
            y = y + self.get_variable("additions", "shift")
        return y


@dataclasses.dataclass(frozen=True)
class _Shift(lorax.Adapter):
    name: str = "shift"

    def init(self, key, base, roles=None) -> Any:
        return {"shift": jnp.zeros(3)}

    def merge(self, base, delta) -> Any:
        return with_additions(base, self.additions(base, delta))

    def leaves(self, base, delta) -> dict[str, Any]:
        return {}

    def additions(self, base, delta) -> dict[str, jax.Array]:
        return {f"additions/{self.name}": delta["shift"]}


@pytest.fixture(scope="module")
def model() -> tuple[Any, Any, jax.Array]:
    x = jnp.ones((2, 4))
    module = _Shifted()
    return module, module.init(jax.random.key(0), x), x


def test_an_addition_reaches_the_program_beside_low_rank_leaves(model):
    module, base, x = model
    adapter = lorax.Chain(lorax.LoRA(rank=2, where=(".*/kernel",)), _Shift())
    apply = lorax.adapt(module.apply, adapter, on_fallback="error")
    delta = apply.init(jax.random.key(1), base, x)
    np.testing.assert_array_equal(apply(base, delta, x), module.apply(base, x))
    moved = jax.tree.map(lambda leaf: leaf + 0.5, delta)
    merged = adapter.merge(base, moved)
    assert set(merged) == {"params", "additions"} and set(base) == {"params"}
    np.testing.assert_allclose(apply(base, moved, x), module.apply(merged, x), rtol=1e-6)
    slope = jax.grad(lambda delta: apply(base, delta, x).sum())(moved)
    np.testing.assert_array_equal(slope[1]["shift"], jnp.full(3, 2.0))


def test_the_report_lists_what_is_added(model):
    module, base, x = model
    report = lorax.report(module.apply, _Shift(), base, x)
    assert report.trainable == 3
    added = [(row.path, row.trainable) for row in report.rows if row.how == "added"]
    assert added == [("additions/shift", 3)]


def test_an_addition_that_is_never_read_is_an_error(model):
    module, base, x = model
    with pytest.raises(lorax.LoraxError, match="never reads 'additions/other'"):
        lorax.adapt(module.apply, _Shift("other")).init(jax.random.key(1), base, x)
    with pytest.raises(lorax.LoraxError, match="never reads 'additions/other'"):
        lorax.adapt(module.apply, _Shift("other"))(base, {"shift": jnp.ones(3)}, x)
    with pytest.raises(lorax.LoraxError, match="never reads 'additions/other'"):
        lorax.report(module.apply, _Shift("other"), base, x)


def test_one_addition_twice_is_an_error(model):
    _, base, _ = model
    adapter = lorax.Chain(_Shift(), _Shift())
    with pytest.raises(lorax.LoraxError, match="'additions/shift' is adapted by"):
        adapter.merge(base, adapter.init(jax.random.key(0), base))
    once = _Shift().merge(base, {"shift": jnp.ones(3)})
    with pytest.raises(lorax.LoraxError, match="already"):
        _Shift().merge(once, {"shift": jnp.ones(3)})


def test_a_base_without_params_is_an_error():
    with pytest.raises(lorax.LoraxTypeError, match="without the collection 'params'"):
        _Shift().merge({"dense": jnp.ones(3)}, {"shift": jnp.ones(3)})
