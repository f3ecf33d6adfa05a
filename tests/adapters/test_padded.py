"""Padded adapters: the numbers of a unit lie beside its factors, and nothing else changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters.padded import Padded, PaddedDelta, with_numbers
from lorax.core.adapter import unprepared
from lorax.core.additions import with_additions
from lorax.core.errors import LoraxTypeError
from lorax.train.stacks import common, pad, stack

X = jax.random.normal(jax.random.key(0), (5, 6))
BASE = {
    "w": jax.random.normal(jax.random.key(1), (6, 7)),
    "layers": jax.random.normal(jax.random.key(2), (2, 7, 7)) / 3,
    "head": jax.random.normal(jax.random.key(3), (7, 3)),
}
LORA = lorax.LoRA(where=("w", "layers"))
LORA_W = lorax.LoRA(where=("params/w",), rank=2)


def program(base, x):
    """A matrix, two scanned and recomputed ones, a head."""
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return jax.lax.scan(layer, x @ base["w"], base["layers"])[0] @ base["head"]


ROLES = lorax.roles(program, BASE, X)


def trained(adapter, seed=4):
    """A delta of `adapter` whose B is not zero."""
    delta = adapter.init(jax.random.key(seed), BASE, ROLES)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(7), x.shape), delta)


ADAPTERS = [
    dataclasses.replace(LORA, rank=3, alpha=5.0),
    dataclasses.replace(LORA, rank=2, scaling="rslora"),
    dataclasses.replace(LORA, rank=2, initializer="pissa"),
    lorax.Chain(dataclasses.replace(LORA, rank=2), lorax.Full(where=("head",))),
    lorax.Full(where=("head",)),
]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_outputs_and_merge_are_those_of_the_unit_padded_or_not(adapter):
    delta = trained(adapter)
    own = with_numbers(adapter, BASE, delta)
    wider = common([own, with_numbers(adapter, BASE, delta)])
    wider = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), wider)
    if isinstance(adapter, lorax.LoRA):
        more = dataclasses.replace(adapter, rank=adapter.rank + 2)
        wider = common([own, with_numbers(more, BASE, trained(more))])
    wanted = lorax.adapt(program, adapter)(BASE, delta, X)
    apply = lorax.adapt(program, Padded(adapter), on_fallback="error")
    for given in (own, pad(own, wider)):
        np.testing.assert_allclose(apply(BASE, given, X), wanted, rtol=1e-5, atol=1e-5)
        merged, plain = Padded(adapter).merge(BASE, given), adapter.merge(BASE, delta)
        for path in BASE:
            np.testing.assert_allclose(merged[path], plain[path], rtol=1e-6, atol=1e-6)


def test_a_first_delta_leaves_the_base_as_it_is():
    apply = lorax.adapt(program, Padded(ADAPTERS[0]))
    delta = apply.init(jax.random.key(5), BASE, X)
    assert isinstance(delta, PaddedDelta)
    merged = Padded(ADAPTERS[0]).merge(BASE, delta)
    assert all(np.array_equal(merged[path], BASE[path]) for path in BASE)


def test_a_stack_of_units_under_vmap():
    units = [dataclasses.replace(LORA, rank=r, alpha=a) for r, a in ((1, 4.0), (3, 9.0))]
    wholes = [with_numbers(u, BASE, trained(u)) for u in units]
    shapes = common(wholes)
    apply = lorax.adapt(program, Padded(units[0]))
    outputs = jax.vmap(apply, in_axes=(None, 0, None))(
        BASE, stack([pad(w, shapes) for w in wholes]), X
    )
    for unit, output in zip(units, outputs, strict=True):
        wanted = lorax.adapt(program, unit)(BASE, trained(unit), X)
        np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_dropout_masks_are_those_of_the_unit(rate):
    unit = dataclasses.replace(LORA, rank=2, dropout=rate)
    delta, key = trained(unit), jax.random.key(11)
    wanted = lorax.adapt(program, unit, dropout_key=key)(BASE, delta, X)
    found = jax.jit(lorax.adapt(program, Padded(unit), dropout_key=key))(
        BASE, with_numbers(unit, BASE, delta), X
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_json_round_trip():
    adapter = Padded(ADAPTERS[3])
    assert lorax.from_json(adapter.to_json()) == adapter


def test_a_plain_delta_is_refused():
    adapter = ADAPTERS[0]
    with pytest.raises(LoraxTypeError, match="delta is a dict: expected a PaddedDelta"):
        Padded(adapter).leaves(BASE, trained(adapter))


@dataclasses.dataclass(frozen=True)
class Beside(lorax.Adapter):
    """Adds a vector that is derived from the base, times what learns; changes no parameter."""

    def init(self, key, base, roles=None):
        return {"gain": jnp.zeros(())}

    def derive(self, base, delta):
        return {"sum": base["params"]["w"].sum(0)}

    def merge(self, base, delta):
        plain, _ = unprepared(base)
        return with_additions(plain, self.additions(base, delta))

    def leaves(self, base, delta):
        return {}

    def additions(self, base, delta):
        plain, derived = unprepared(base, self)
        derived = self.derive(plain, delta) if derived is None else derived
        return {"additions/bias": delta["gain"] * derived["sum"]}


def biased(variables, x):
    """A matrix, and what may stand beside it."""
    y = x @ variables["params"]["w"]
    return y + variables["additions"]["bias"] if "additions" in variables else y


@pytest.mark.parametrize("chained", (False, True))
def test_what_is_added_or_derived_is_that_of_the_unit(chained):
    adapter = lorax.Chain(LORA_W, Beside()) if chained else Beside()
    base = {"params": {"w": BASE["w"]}}
    delta = adapter.init(jax.random.key(0), base)
    delta = jax.tree.map(lambda x: x + 0.5, delta)
    own, padded = with_numbers(adapter, base, delta), Padded(adapter)
    wanted = lorax.adapt(biased, adapter)(base, delta, X)
    shapes = jax.eval_shape(lambda: own)
    for given in (base, padded.prepare(base, own), padded.prepare(base, shapes)):
        np.testing.assert_allclose(lorax.adapt(biased, padded)(given, own, X), wanted, rtol=1e-5)
        np.testing.assert_allclose(biased(padded.merge(given, own), X), wanted, rtol=1e-5)
    assert padded.prepare(base, own).adapter == padded
