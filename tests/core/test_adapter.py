"""The protocol, Chain, and descriptions that survive JSON."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax

KEY = jax.random.key(0)


@pytest.fixture
def base():
    keys = jax.random.split(KEY, 3)
    return {
        "body": {"kernel": jax.random.normal(keys[0], (4, 6)), "bias": jnp.zeros(6)},
        "head": {"kernel": jax.random.normal(keys[1], (6, 3)), "bias": jnp.zeros(3)},
    }


def program(base, x):
    """A body and a head."""
    hidden = jnp.tanh(x @ base["body"]["kernel"] + base["body"]["bias"])
    return hidden @ base["head"]["kernel"] + base["head"]["bias"]


CHAIN = lorax.Chain(lorax.LoRA(rank=2, where=("body/kernel",)), lorax.Full(where=("head/.*",)))


def test_chain_is_an_adapter(base):
    x = jnp.ones((5, 4))
    apply = lorax.adapt(program, CHAIN, on_fallback="error")
    delta = apply.init(KEY, base, x)
    assert isinstance(delta, tuple) and set(delta[1]) == {"head/kernel", "head/bias"}
    np.testing.assert_array_equal(apply(base, delta, x), program(base, x))
    delta = jax.tree.map(lambda leaf: leaf + 0.1, delta)
    want = program(CHAIN.merge(base, delta), x)
    np.testing.assert_allclose(apply(base, delta, x), want, rtol=1e-5)
    slope = jax.grad(lambda d: apply(base, d, x).sum())(delta)
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(slope))


def test_a_member_draws_what_it_draws_alone(base):
    roles = lorax.roles(program, base, jnp.ones((5, 4)))
    alone = CHAIN.members[0].init(KEY, base, roles)
    np.testing.assert_array_equal(
        CHAIN.init(KEY, base, roles)[0]["body/kernel"].A, alone["body/kernel"].A
    )


def test_two_members_on_one_leaf_are_refused(base):
    chain = lorax.Chain(lorax.LoRA(rank=1, where=("body/kernel",)), lorax.Full())
    with pytest.raises(lorax.LoraxError, match="'body/kernel' is adapted by LoRA and by Full"):
        chain.init(KEY, base)


def test_chain_wants_adapters_and_a_tuple_of_deltas(base):
    with pytest.raises(lorax.LoraxError, match="got no adapters"):
        lorax.Chain()
    with pytest.raises(lorax.LoraxTypeError, match="expected an adapter"):
        lorax.Chain({"rank": 8})
    with pytest.raises(lorax.LoraxError, match="expected a tuple of one delta a member"):
        CHAIN.merge(base, {"body/kernel": 1})


@pytest.mark.parametrize(
    "adapter",
    [
        CHAIN,
        lorax.LoRA(where={".*query": {"rank": 4}, ".*value": {"alpha": 2.0, "rank": 1}}),
        lorax.LoRA(rank=3, alpha=0.5, scaling="rslora", dropout=0.1, exclude=("head/.*",)),
        lorax.BitFit(),
        lorax.Full(where=("a", "b")),
    ],
)
def test_json_round_trip(adapter):
    text = adapter.to_json()
    assert lorax.from_json(text) == adapter == lorax.from_dict(json.loads(text))
    assert hash(lorax.from_json(text)) == hash(adapter)
    if not isinstance(adapter, lorax.Chain):
        assert eval(repr(adapter), vars(lorax)) == adapter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "is list .*expected a mapping"),
        ("null", "is NoneType None: expected a mapping"),
        ('{"adapter": "Chain"}', "members of a Chain are NoneType"),
        ('{"adapter": "Chain", "members": 3}', "members of a Chain are int 3"),
        ('{"adapter": ["LoRA"]}', "is unknown: expected one of .*BitFit"),
        ('{"adapter": "Dora"}', "'Dora' is unknown: expected one of .*BitFit"),
        ('{"adapter": "LoRA", "rnak": 8}', "LoRA has no field 'rnak'; did you mean 'rank'"),
        ('{"adapter": "LoRA", "rank": -1}', "rank is -1"),
    ],
)
def test_bad_descriptions_are_refused_in_one_line(text, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        lorax.from_json(text)
    assert "\n" not in str(error.value)


def test_init_and_merge_alone_make_an_adapter(base):
    """A third party's adapter without a factored form is evaluated merged."""

    @dataclasses.dataclass(frozen=True)
    class Shift(lorax.Adapter):
        by: float = 1.0

        def init(self, key, base, roles=None):
            return {"shift": jnp.zeros(())}

        def merge(self, base, delta):
            return jax.tree.map(lambda x: x + self.by * delta["shift"], base)

    adapter, x = Shift(2.0), jnp.ones((5, 4))
    apply = lorax.adapt(program, adapter)
    delta = apply.init(KEY, base, x)
    np.testing.assert_array_equal(apply(base, delta, x), program(base, x))
    moved = {"shift": jnp.asarray(0.5)}
    want = program(adapter.merge(base, moved), x)
    np.testing.assert_allclose(apply(base, moved, x), want, rtol=1e-6)
    assert lorax.report(program, adapter, base, x).trainable == 1
    assert lorax.from_json(adapter.to_json()) == adapter


@pytest.mark.parametrize("initializer", ["pissa", "olora"])
def test_a_prepared_base_gives_the_same_and_saves_the_decomposition(base, initializer):
    x = jnp.ones((5, 4))
    adapter = lorax.Chain(
        lorax.LoRA(rank=2, where=("body/kernel",), initializer=initializer),
        lorax.BitFit(where=("head/bias",)),
    )
    apply = lorax.adapt(program, adapter, on_fallback="error")
    delta = jax.tree.map(lambda d: d + 0.1, apply.init(KEY, base, x))
    prepared = adapter.prepare(base, delta)
    np.testing.assert_allclose(apply(prepared, delta, x), apply(base, delta, x), rtol=1e-6)
    np.testing.assert_array_equal(
        adapter.merge(prepared, delta)["body"]["kernel"],
        adapter.merge(base, delta)["body"]["kernel"],
    )
    text = str(jax.make_jaxpr(apply)(prepared, delta, x))
    assert "svd" not in text and "householder" not in text and "geqrf" not in text
    assert apply.init(KEY, prepared, x)[0].keys() == delta[0].keys()
    plain = lorax.LoRA(rank=2, where=("body/kernel",))
    assert plain.prepare(base, plain.init(KEY, base)) is base


def test_a_base_prepared_for_another_adapter_is_refused(base):
    pissa = lorax.LoRA(rank=2, where=("body/kernel",), initializer="pissa")
    prepared = pissa.prepare(base, pissa.init(KEY, base))
    for other in (dataclasses.replace(pissa, alpha=4.0), lorax.LoRA(rank=2, where=pissa.where)):
        delta = other.init(KEY, base)
        with pytest.raises(lorax.LoraxError, match="base was prepared for LoRA"):
            other.merge(prepared, delta)
        with pytest.raises(lorax.LoraxError, match="base was prepared for LoRA"):
            lorax.adapt(program, other)(prepared, delta, jnp.ones((5, 4)))
