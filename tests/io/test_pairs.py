import numpy as np
import pytest

import lorax
from lorax import LoraxError
from lorax.io.pairs import Pair, Parts, assemble
from lorax.io.peft_names import matrices, tensor_table
from tests.io.tiny import base_of, gpt2, llama

DRAW = np.random.default_rng(0)


def _pair(tensor, rank=2, alpha=4.0, dtype=np.float32):
    fan_in, fan_out = tensor.sides
    return Pair(DRAW.normal(size=(rank, fan_in)).astype(dtype),
                DRAW.normal(size=(fan_out, rank)).astype(dtype), alpha)  # fmt: skip


def _pairs(model, *parts, **fields):
    weights = matrices(tensor_table(model))
    return {m: _pair(t, **fields) for m, t in weights.items() if m.endswith(parts)}


def _dense(pair, scaling="standard"):
    scale = pair.alpha / (pair.rank**0.5 if scaling == "rslora" else pair.rank)
    return scale * pair.B @ pair.A  # (out, in)


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("scaling", ["standard", "rslora"])
def test_the_update_is_the_dense_one(scan, scaling):
    model = llama(scan=scan)
    table = tensor_table(model)
    pairs = _pairs(model, "q_proj", "up_proj", "embed_tokens")
    adapter, delta = assemble(table, Parts(pairs, rank=2, alpha=4.0, scaling=scaling, dropout=0.1))
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.scaling) == (2, 4.0, 0.1, scaling)
    base = base_of(model)
    merged, stored = (lorax.core.paths.flatten(tree) for tree in (adapter.merge(base, delta), base))
    for module, pair in pairs.items():
        tensor = matrices(table)[module]
        change = merged[tensor.path] - stored[tensor.path]
        change = np.asarray(change if tensor.layer is None else change[tensor.layer])
        np.testing.assert_allclose(change, _dense(pair, scaling).T, atol=3e-6)


def test_one_pattern_for_all_layers_and_overrides_where_they_differ():
    model = llama()
    pairs = _pairs(model, "q_proj", "v_proj")
    pairs |= _pairs(model, "1.self_attn.v_proj", rank=3) | _pairs(model, "down_proj", alpha=1.0)
    adapter, delta = assemble(tensor_table(model), Parts(pairs, rank=2, alpha=4.0))
    assert adapter == lorax.LoRA(
        2, 4.0,
        {
            r"params/layer_\d+/attention/query/kernel": {},
            "params/layer_0/attention/value/kernel": {},
            "params/layer_1/attention/value/kernel": {"rank": 3},
            r"params/layer_\d+/mlp/down/kernel": {"alpha": 1.0},
        },
    )  # fmt: skip
    adapter.leaves(base_of(model), delta)


def test_dtypes_are_kept():
    pairs = _pairs(llama(), "q_proj", dtype=lorax.io.tensors.jnp.bfloat16)
    adapter, delta = assemble(tensor_table(llama()), Parts(pairs))
    leaf = delta["params/layer_0/attention/query/kernel"]
    assert (leaf.A.dtype, leaf.B.dtype, adapter.dtype) == ("bfloat16", "bfloat16", "bfloat16")
    whole = pairs["model.layers.0.self_attn.q_proj"]
    assert np.asarray(leaf.A).tobytes() == whole.A.T.tobytes()


def test_a_tied_matrix_has_one_update():
    model = gpt2()
    table, pairs = tensor_table(model), _pairs(model, "wte")
    lookup = pairs["transformer.wte"]
    both = pairs | {"lm_head": lookup.turned}
    adapter, delta = assemble(table, Parts(both, rank=2, alpha=4.0))
    assert set(delta) == {"params/embed/embedding"}
    for odd in (pairs, {"lm_head": lookup.turned}):
        with pytest.raises(LoraxError, match="tied to one matrix.*load the model with tied=False"):
            assemble(table, Parts(odd))
    for other in (lookup.turned._replace(alpha=5.0), _pair(table["lm_head.weight"])):
        with pytest.raises(LoraxError, match="share one matrix but get different updates"):
            assemble(table, Parts(pairs | {"lm_head": other}))


def test_whole_tensors_and_biases_are_members_of_a_chain():
    model = gpt2(scan=True)
    table = tensor_table(model)
    biases = {n: np.ones(t.shape, np.float32) for n, t in table.items() if n.endswith("ln_1.bias")}
    whole = {"transformer.wpe.weight": np.ones((16, 16), np.float16)}
    adapter, delta = assemble(table, Parts(_pairs(model, "c_attn"), whole, biases))
    kinds = [type(member) for member in adapter.members]
    assert kinds == [lorax.LoRA, lorax.Full, lorax.BitFit]
    assert delta[1]["params/positions/embedding"].dtype == "float16"
    assert delta[2]["params/layers/attention_norm/bias"].shape == (2, 16)
    adapter.leaves(base_of(model), delta)


def test_scanned_layers_share_one_leaf():
    model = llama(scan=True)
    table, pairs = tensor_table(model), _pairs(model, "q_proj")
    first, second = pairs
    with pytest.raises(LoraxError, match=f"'{first}' is changed but '{second}' is not.*scan=False"):
        assemble(table, Parts({first: pairs[first]}))
    for odd in (_pairs(model, "q_proj", rank=3), _pairs(model, "q_proj", alpha=5.0)):
        with pytest.raises(
            LoraxError, match=f"'{second}' has rank.*load the model with scan=False"
        ):
            assemble(table, Parts(pairs | {second: odd[second]}))
