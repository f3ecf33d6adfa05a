import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax import BitFit, Chain, Full, LoRA, LoraxError
from lorax.core import paths
from lorax.io.pairs import assemble
from lorax.io.parts import base_leaves, take_apart
from lorax.io.peft_names import matrices, tensor_table
from tests.io.tiny import HEAD, QUERY, VALUE, base_of, delta_of, gpt2, llama, roberta, same

LORA = LoRA(rank=2, alpha=3.0, where=(QUERY, VALUE))


def _parts(model, adapter, delta=None, base=None):
    delta = delta_of(model, adapter) if delta is None else delta
    return take_apart(model, tensor_table(model), adapter, delta, base)


def _change(model, pairs, scaling="standard"):
    """scale · B A of every module, at our paths and in our orientation."""
    weights, found = matrices(tensor_table(model)), {}
    for module, pair in pairs.items():
        scale = pair.alpha / (pair.rank**0.5 if scaling == "rslora" else pair.rank)
        found[weights[module].path, weights[module].layer] = scale * (pair.B @ pair.A).T
    return found


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("make", [llama, gpt2, roberta])
def test_there_and_back(make, scan):
    model = make(scan=scan)
    adapter = LoRA(rank=3, alpha=2.0, where=(".*/(query|qkv|up)/kernel",), scaling="rslora")
    delta = delta_of(model, adapter)
    parts = _parts(model, adapter, delta)
    assert (parts.rank, parts.alpha, parts.scaling) == (3, 2.0, "rslora")
    assert len(parts.pairs) == 4 and not parts.whole
    back, again = assemble(tensor_table(model), parts)
    assert same(again, delta) and (back.rank, back.alpha) == (3, 2.0)


def test_a_tied_matrix_has_two_modules():
    parts = _parts(gpt2(), LoRA(rank=2, where=("params/embed/embedding",)))
    assert set(parts.pairs) == {"transformer.wte", "lm_head"}
    lookup, head = parts.pairs["transformer.wte"], parts.pairs["lm_head"]
    assert (lookup.A.shape, head.A.shape) == ((2, 24), (2, 16))
    np.testing.assert_allclose(lookup.B @ lookup.A, (head.B @ head.A).T)
    whole = _parts(gpt2(), Chain(LoRA(where=(".*/qkv/kernel",)), Full(where=("params/embed/.*",))))
    assert set(whole.whole) == {"transformer.wte.weight", "lm_head.weight"}


def test_members_are_collected():
    adapter = Chain(LORA, Chain(HEAD, BitFit(where=(".*/query/bias",))))
    parts = _parts(roberta(scan=True), adapter)
    assert len(parts.pairs) == 4 and len(parts.whole) == 6
    assert parts.whole["classifier.out_proj.weight"].shape == (3, 16)
    assert parts.whole["roberta.encoder.layer.1.attention.self.query.bias"].shape == (16,)


def test_two_scalings_become_one():
    other = LoRA(rank=4, alpha=3.0, where=(VALUE,), scaling="rslora")
    pairs = _parts(llama(), Chain(LoRA(rank=2, alpha=3.0, where=(QUERY,)), other)).pairs
    pair = pairs["model.layers.0.self_attn.v_proj"]
    assert pair.alpha / pair.rank == other.scale_of("params/layer_0/attention/value/kernel")


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("scaling", ["standard", "rslora"])
@pytest.mark.parametrize("initializer", ["pissa", "olora"])
def test_a_decomposed_start_becomes_plain_lora(initializer, scaling, scan):
    model = llama(scan=scan)
    base = base_of(model)
    adapter = LoRA(
        where={QUERY: {}, ".*/down/kernel": {"rank": 2, "alpha": 3.0}}, rank=4, alpha=8.0,
        initializer=initializer, scaling=scaling,
    )  # fmt: skip
    delta = jax.tree.map(lambda x: 0.1 * x, delta_of(model, adapter))
    parts = _parts(model, adapter, delta, base)
    assert {pair.rank for pair in parts.pairs.values()} == {8, 4} and parts.rank == 8
    merged, stored = (paths.flatten(tree) for tree in (adapter.merge(base, delta), base))
    for (path, layer), change in _change(model, parts.pairs, scaling).items():
        ours = np.asarray(merged[path] - stored[path])
        ours = ours if layer is None else ours[layer]
        assert np.abs(ours - change).max() <= 1e-6 * np.abs(stored[path]).max() + 1e-6
    plain, update = assemble(tensor_table(model), parts)
    assert plain.initializer == "kaiming"
    change = lambda adapter, delta: jax.tree.leaves(adapter.merge(base, delta))
    for one, other in zip(change(plain, update), change(adapter, delta), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    with pytest.raises(LoraxError, match=f"'{initializer}', whose A and B .* expected base="):
        _parts(model, adapter, delta)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Chain(LORA, LoRA(rank=2, where=(VALUE,))), "'.*' is adapted by LoRA and by LoRA"),
        (Chain(LORA, dataclasses.replace(LORA, dropout=0.5, where=(".*/up/kernel",))), "one rate"),
    ],
)
def test_members_that_one_file_cannot_hold(adapter, message):
    delta = tuple(delta_of(llama(), member) for member in adapter.members)
    with pytest.raises(LoraxError, match=message):
        _parts(llama(), adapter, delta)


def test_deltas_that_do_not_fit():
    delta = delta_of(llama(), LORA)
    path = "params/layer_0/attention/query/kernel"
    nan = delta | {path: dataclasses.replace(delta[path], A=delta[path].A * jnp.nan)}
    turned = delta | {path: dataclasses.replace(delta[path], roles=lorax.Roles((), (1,), (0,)))}
    for adapter, odd, message in (
        (LORA, nan, f"'{path}' holds NaN or infinity"),
        (LORA, turned, r"inputs \(1,\) and outputs \(0,\)"),
        (Chain(LORA, HEAD), (delta,), "a tuple of one delta a member"),
        (LORA, {}, "delta is empty"),
        (dataclasses.replace(LORA, rank=4), delta, "has rank 2 but this LoRA has rank 4"),
        ("lora", delta, "expected an adapter"),
    ):
        with pytest.raises(LoraxError, match=message):
            _parts(llama(), adapter, odd)
    with pytest.raises(LoraxError, match="belongs to another model"):
        _parts(llama(dim=32), LORA, delta)


def test_another_kind_of_adapter_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Odd(lorax.Adapter):
        init = merge = lambda self, *args: {}

    with pytest.raises(
        LoraxError, match="holds a Odd: expected one of LoRA, DoRA, .*, Full, BitFit"
    ):
        _parts(llama(), Odd(), {})


def test_a_base_is_held_against_the_model():
    assert len(base_leaves(base_of(llama()), llama())) == 21
    with pytest.raises(LoraxError, match="base has nothing at 'params/layers/.*config.scan"):
        base_leaves(base_of(llama()), llama(scan=True))
    with pytest.raises(LoraxError, match=r"base has \(24, 16\) at 'params/embed/embedding'"):
        base_leaves(base_of(llama()), llama(vocab_size=25))
