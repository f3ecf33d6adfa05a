import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax import BitFit, Chain, Full, LoRA, LoraxError
from lorax.io import peft
from lorax.io.peft_config import CONFIG_NAME, TENSORS_NAME
from lorax.models.roberta import Roberta, RobertaConfig
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
from tests.shared_data import shared

LORA = LoRA(rank=2, alpha=3.0, where=(QUERY, VALUE), dropout=0.1)
FUSED = LoRA(rank=2, alpha=2.5, where=(".*/(qkv|up)/kernel",), scaling="rslora")
PATTERNS = LoRA(rank=4, where={QUERY: {"rank": 3}, ".*layer_1/mlp/up/kernel": {"alpha": 5.0}})
CASES = {
    "linear": (llama, LORA),
    "patterns": (llama, PATTERNS),
    "all but lookups": (llama, LoRA(rank=1, where=(".*/kernel",))),
    "embedding and head": (llama, LoRA(2, where=("params/(embed|lm_head)/.*",))),
    "trained head": (llama, Chain(LORA, Full(("params/lm_head/kernel", ".*/attention_norm/.*")))),
    "Conv1D": (gpt2, FUSED),
    "tied embedding": (gpt2, LoRA(2, where=("params/embed/.*", "params/positions/.*"))),
    "tied embedding trained": (gpt2, Chain(FUSED, Full(("params/embed/embedding",)))),
    "all biases": (gpt2, Chain(FUSED, BitFit())),
    "biases of the adapted": (gpt2, Chain(FUSED, BitFit((".*/(qkv|up)/bias",)))),
    "classifier": (roberta, Chain(LORA, HEAD)),
    "classifier and biases": (roberta, Chain(LORA, HEAD, BitFit((".*/(query|value)/bias",)))),
}


def _cases():
    for name, (make, adapter) in CASES.items():
        for scan in (False, True):
            if not (scan and "layer_1" in str(adapter)):
                yield pytest.param(make(scan=scan), adapter, id=f"{name}{'-scan' * scan}")


@pytest.mark.parametrize(("model", "adapter"), list(_cases()))
def test_what_is_saved_is_loaded(tmp_path, model, adapter):
    base, delta = base_of(model), delta_of(model, adapter)
    peft.save(tmp_path / "one", adapter, delta, model, base=base)
    loaded, again = peft.load(tmp_path / "one", model, base=base)
    assert same(again, delta)  # roles as well, which are part of the structure
    scales = [
        {path: getattr(leaf, "scale", None) for path, leaf in a.leaves(base, d).items()}
        for a, d in ((adapter, delta), (loaded, again))
    ]
    assert scales[0] == scales[1]
    peft.save(tmp_path / "two", loaded, again, model, base=base)
    assert config_in(tmp_path / "two") == config_in(tmp_path / "one")
    for name, tensor in tensors_in(tmp_path / "one").items():
        assert tensors_in(tmp_path / "two")[name].tobytes() == tensor.tobytes()
    assert (tmp_path / "one" / TENSORS_NAME).read_bytes() == (
        tmp_path / "two" / TENSORS_NAME
    ).read_bytes()
    assert peft.load(tmp_path / "two", model, base=base)[0] == loaded


def test_an_adapter_goes_from_one_layout_to_the_other(tmp_path):
    plain, scanned = llama(), llama(scan=True)
    delta = delta_of(plain, LORA)
    peft.save(tmp_path / "one", LORA, delta, plain)
    peft.save(tmp_path / "two", *peft.load(tmp_path / "one", scanned), scanned)
    assert same(peft.load(tmp_path / "two", plain)[1], delta)


def test_a_loaded_delta_trains_on(tmp_path):
    model, adapter = gpt2(scan=True), Chain(FUSED, BitFit())
    base, tokens = base_of(model), jnp.arange(6)[None]
    peft.save(tmp_path / "out", adapter, delta_of(model, adapter), model)
    loaded, delta = peft.load(tmp_path / "out", model)
    apply = lorax.adapt(model.apply, loaded, on_fallback="error")
    gradient = jax.jit(jax.grad(lambda delta: jnp.square(apply(base, delta, tokens)).mean()))(delta)
    assert jax.tree.structure(gradient) == jax.tree.structure(delta)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_sixteen_bits_come_back_as_they_were(tmp_path):
    model, adapter = llama(layers=1), LoRA(2, 3.0, (QUERY,), dtype="bfloat16")
    delta = delta_of(model, adapter)
    peft.save(tmp_path / "out", adapter, delta, model)
    loaded, again = peft.load(tmp_path / "out", model)
    assert loaded.dtype == "bfloat16" and same(again, delta)
    tokens, wide = jnp.arange(5)[None], jax.tree.map(lambda x: x.astype("float32"), delta)
    apply = jax.jit(lorax.adapt(model.apply, loaded))
    np.testing.assert_allclose(
        apply(base_of(model), again, tokens), apply(base_of(model), wide, tokens), atol=2e-5
    )


def test_a_pretrained_brings_its_base(tmp_path):
    model = llama()
    found = types.SimpleNamespace(model=model, base=base_of(model))
    adapter = LoRA(2, where=("params/embed/embedding", QUERY), initializer="pissa")
    delta = delta_of(model, adapter)
    peft.save(tmp_path / "out", adapter, delta, found)
    assert any(key.endswith("base_layer.weight") for key in tensors_in(tmp_path / "out"))
    loaded, plain = peft.load(tmp_path / "out", found)
    assert (loaded.rank, loaded.initializer) == (4, "kaiming")
    for one, other in zip(
        jax.tree.leaves(loaded.merge(found.base, plain)),
        jax.tree.leaves(adapter.merge(found.base, delta)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
    with pytest.warns(lorax.LoraxWarning, match="pass base=, or a Pretrained as model"):
        peft.load(tmp_path / "out", model)


def test_a_released_adapter_comes_back_bit_for_bit(tmp_path):
    """RoBERTa-base on MRPC, saved by a PEFT of 2025: 48 factors and the head."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    config = shared("lora_adapters/peft_roberta_mrpc_adapter_config.json")
    (theirs / CONFIG_NAME).write_bytes(config)
    tensors = shared("lora_adapters/peft_roberta_mrpc_ckpt460.safetensors.xz")
    (theirs / TENSORS_NAME).write_bytes(tensors)
    sizes = {"vocab_size": 50265, "dim": 768, "layers": 12, "heads": 12, "hidden_dim": 3072}
    for scan in (False, True):
        model = Roberta(RobertaConfig(**sizes, head="classification", labels=2, scan=scan))
        adapter, delta = peft.load(theirs, model)
        layers = "layers" if scan else r"layer_\d+"
        assert adapter.members[0] == LoRA(
            8, 16.0, tuple(f"params/{layers}/attention/{x}/kernel" for x in ("query", "value"))
        )
        if scan:
            norms = _norms(delta[0]["params/layers/attention/query/kernel"])
            np.testing.assert_allclose((norms[0], norms[11]), (0.1619, 0.6578), atol=5e-5)
        peft.save(
            tmp_path / "ours", adapter, delta, model, base_model_name="roberta-base", overwrite=True
        )
        old, new = tensors_in(theirs), tensors_in(tmp_path / "ours")
        assert set(old) == set(new) and len(new) == 52
        assert all(old[key].tobytes() == new[key].tobytes() for key in old)
        fields = json.loads(config)
        assert all(fields[key] == value for key, value in config_in(tmp_path / "ours").items())


def _norms(leaf):
    """Frobenius norm of A B, a layer."""
    return np.linalg.norm(np.einsum("lir,lro->lio", leaf.A, leaf.B), axis=(1, 2))


def test_wrong_and_swapped_arguments_are_told_in_one_line(tmp_path):
    model = gpt2()
    delta, pretrained = delta_of(model, FUSED), types.SimpleNamespace(model=model, base={})
    at = str(tmp_path / "x")
    calls = {
        r"model is a path: .*load\(directory, model\), with": lambda: peft.load(at, "model_dir"),
        r"model is a dict: expected the module or": lambda: peft.load(at, base_of(model)),
        r"model is a path: .*write load": lambda: peft.load(model, at),
        r"directory is a SimpleN.*write load": lambda: peft.load(pretrained, model),
        r"directory is a GPT2.*write save": lambda: peft.save(model, FUSED, delta, model),
        r"adapter is dict": lambda: peft.save(at, delta, FUSED, model),
        r"model is a LoRA.*write save\(directory, adapter, delta, model\)": (
            lambda: peft.save(at, model, delta, FUSED)
        ),
    }
    for words, call in calls.items():
        with pytest.raises(lorax.LoraxTypeError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = gpt2()
    peft.save("~/x", FUSED, delta_of(model, FUSED), model)
    assert same(peft.load("~/x", model)[1], peft.load(tmp_path / "x", model)[1])


def test_without_the_library_nothing_is_written(tmp_path, monkeypatch):
    model = gpt2()
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(LoraxError, match=r"/x' needs the safetensors library: pip install"):
        peft.save(tmp_path / "x", FUSED, delta_of(model, FUSED), model)
    assert not any(tmp_path.iterdir())
