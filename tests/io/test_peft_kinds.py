import numpy as np
import pytest

from lorax import IA3, Chain, DoRA, LoHa, LoKr, LoRA, LoraxError, VeRA
from lorax.io import peft
from lorax.io.loralib import save_loralib
from lorax.io.peft_kinds import ADAPTERS, KINDS, packed, unpacked
from tests.io.tiny import (
    HEAD,
    QUERY,
    VALUE,
    base_of,
    config_in,
    delta_of,
    gpt2,
    llama,
    roberta,
    same,
    tensors_in,
)

DOWN = ".*/down/kernel"
PATTERNS = {QUERY: {"rank": 3}, VALUE: {"alpha": 3.0}}
CASES = {
    "DoRA": (llama(), DoRA(2, 4.0, PATTERNS, dropout=0.1)),
    "DoRA scanned": (gpt2(scan=True), DoRA(2, 3.0, (".*/qkv/kernel",), scaling="rslora")),
    "VeRA": (roberta(), Chain(VeRA(3, (VALUE,), seed=5), HEAD)),
    "LoHa": (llama(scan=True), LoHa(2, 4.0, PATTERNS)),
    "LoKr": (roberta(), Chain(LoKr(2, 3.0, (QUERY, DOWN), factor=2), HEAD)),
    "LoKr whole": (llama(), LoKr(8, 3.0, (QUERY,))),
    "IA3": (gpt2(), IA3(where=(".*/qkv/kernel",))),
    "IA3 scanned": (llama(scan=True), IA3(exclude=(".*/key/kernel",))),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_is_loaded(tmp_path, name):
    model, adapter = CASES[name]
    base, delta = base_of(model), delta_of(model, adapter)
    peft.save(tmp_path / "one", adapter, delta, model, base=base)
    loaded, again = peft.load(tmp_path / "one", model, base=base)
    prepared = peft.prepare(tmp_path / "one", model, base=base)
    peft.save(tmp_path / "two", loaded, again, model, base=prepared)
    assert config_in(tmp_path / "two") == config_in(tmp_path / "one")
    old, new = tensors_in(tmp_path / "one"), tensors_in(tmp_path / "two")
    assert set(old) == set(new)
    for key in old:  # what counts from 1 or from a norm is rounded once
        np.testing.assert_allclose(new[key], old[key], rtol=1e-5, atol=1e-6, err_msg=key)
    assert peft.load(tmp_path / "two", model, base=base)[0] == loaded
    if name.startswith("Lo"):  # DoRA and IA3 are rounded, VeRA's d is of another A
        assert same(again, delta)


def test_each_kind_is_named_once():
    assert {ADAPTERS[kind.adapter] for kind in KINDS.values()} == set(KINDS)


@pytest.mark.parametrize("name", CASES)
def test_leaves_and_deltas(name):
    model, adapter = CASES[name]
    delta = delta_of(model, adapter)
    if isinstance(adapter, Chain):
        adapter, delta = adapter.members[0], delta[0]
    again = packed(type(adapter), unpacked(adapter, delta))
    assert same(again, delta)


def test_configurations_say_what_was_trained(tmp_path):
    def fields(name):
        model, adapter = CASES[name]
        base = base_of(model)
        peft.save(tmp_path / name, adapter, delta_of(model, adapter), model, base=base)
        return config_in(tmp_path / name)

    dora = fields("DoRA")
    assert (dora["peft_type"], dora["use_dora"], dora["lora_dropout"]) == ("LORA", True, 0.1)
    assert (dora["lora_alpha"], set(dora["alpha_pattern"].values())) == (4, {3})
    assert set(dora["rank_pattern"].values()) == {3}
    lokr = fields("LoKr")
    assert (lokr["decompose_factor"], lokr["decompose_both"], lokr["alpha"]) == (2, False, 3)
    ia3 = fields("IA3")
    assert set(ia3["feedforward_modules"]) < set(ia3["target_modules"]) and "r" not in ia3
    assert fields("VeRA")["save_projection"] is True


def test_one_method_a_file(tmp_path):
    model = llama()
    base = base_of(model)

    def save(adapter, **fields):
        peft.save(tmp_path / "x", adapter, delta_of(model, adapter), model, base=base, **fields)

    both = Chain(LoRA(2, where=(QUERY,)), LoHa(2, where=(VALUE,)))
    with pytest.raises(LoraxError, match="LoRA and LoHa: expected one, or several LoRA"):
        save(both)
    with pytest.raises(LoraxError, match="holds a LoHa: expected LoRA, .* all that vLLM can hold"):
        save(both.members[1], target="vllm")
    with pytest.raises(LoraxError, match="holds a LoHa.*all that loralib can hold"):
        adapter = both.members[1]
        save_loralib(tmp_path / "x.npz", adapter, delta_of(model, adapter), model)
    with pytest.raises(LoraxError, match="DORA counts from the base: expected base="):
        adapter = DoRA(2, where=(QUERY,))
        peft.save(tmp_path / "x", adapter, delta_of(model, adapter), model)
    assert not any(tmp_path.iterdir())


def test_dora_is_read_beside_its_base_alone(tmp_path):
    model, adapter = CASES["DoRA"]
    peft.save(tmp_path / "x", adapter, delta_of(model, adapter), model, base=base_of(model))
    with pytest.raises(LoraxError, match="DORA counts from the base: expected base="):
        peft.load(tmp_path / "x", model)
