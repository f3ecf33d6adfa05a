"""Do torch, transformers and PEFT read what lorax writes, and lorax what they write, today?

`make test-interop` runs this where torch is; elsewhere it is skipped. Errors are measured as in
`test_golden.py`: max |ours - theirs| / max |theirs|, float32, at most 1e-5.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
import lorax.io.peft
from lorax.io import pretrained
from lorax.io.tensors import read_tensors
from tests.interop.measure import FOLDER, TOLERANCE, adapted_logits, error, logits, model_of

torch = pytest.importorskip("torch", reason="make test-interop has torch")
hf = pytest.importorskip("transformers", reason="make test-interop has transformers")
peft = pytest.importorskip("peft", reason="make test-interop has peft")

from tests.fixtures import torch_adapters, torch_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|transformers|peft).*")

NAMES = sorted(torch_models.MODELS)


def noisy(tree, scale: float = 0.1, seed: int = 0):
    """A tree with noise on every array, drawn by numpy."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + scale * draw.normal(size=x.shape).astype(x.dtype), tree)


def read_by_transformers(kind: type, folder) -> torch.nn.Module:
    """The model of a directory, with every tensor of it in use and none made up."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def read_by_peft(base: torch.nn.Module, folder):
    """The adapter of a directory on `base`, with every tensor of it in use and none made up."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, folder).eval()
    assert not [w for w in caught if "adapter keys" in str(w.message)], caught
    again = peft.set_peft_model_state_dict(model, peft.load_peft_weights(folder))
    assert set(again.unexpected_keys) <= {"prompt_embeddings"}  # which PEFT loads by itself
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_fixtures_are_what_the_reference_says_today(name, tmp_path):
    ids, mask = torch_models.batch(name)
    with np.load(FOLDER / "models" / name / "golden.npz") as record:
        theirs = torch_models.logits(torch_models.tiny(name), ids, mask)
        assert error(theirs, record["base"], mask) <= TOLERANCE
    for adapter, case in torch_adapters.CASES.items():
        if case.model == name:
            with np.load(FOLDER / "adapters" / adapter / "golden.npz") as record:
                today = torch_adapters.record(case, tmp_path / adapter)
                for key in ("adapter", "disabled", "merged"):
                    assert error(today[key], record[key], mask) <= TOLERANCE, (adapter, key)


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("name", NAMES)
def test_our_models_in_transformers(name, scan, tmp_path):
    found, batch = model_of(name, scan), torch_models.batch(name)
    params = noisy(found.base)
    pretrained.save(tmp_path / "out", found.model, params)
    theirs = read_by_transformers(type(torch_models.tiny(name)), tmp_path / "out")
    ours = logits(found.model, params, *batch)
    assert error(ours, torch_models.logits(theirs, *batch), batch[1]) <= TOLERANCE


VARIANTS = {
    "llama without grouped heads": lambda: torch_models._llama(num_key_value_heads=4),
    "llama with one key head": lambda: torch_models._llama(
        num_key_value_heads=1, num_hidden_layers=3, rms_norm_eps=1e-3
    ),
    "gpt2 with its own width": lambda: torch_models._gpt2(n_inner=24, layer_norm_epsilon=1e-3),
    "roberta with two types": lambda: torch_models._roberta(
        hf.RobertaForSequenceClassification, type_vocab_size=2, num_labels=5
    ),
    "roberta untied": lambda: torch_models._roberta(
        hf.RobertaForMaskedLM, tie_word_embeddings=False
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_their_models_here(name, tmp_path):
    torch.manual_seed(3)
    theirs, batch = VARIANTS[name]().eval(), torch_models.batch(name)
    theirs.save_pretrained(tmp_path / "in", max_shard_size="15KB")
    found = pretrained.load(tmp_path / "in")
    ours = logits(found.model, found.base, *batch)
    assert error(ours, torch_models.logits(theirs, *batch), batch[1]) <= TOLERANCE


def lora(*where: str, **fields) -> lorax.LoRA:
    """LoRA of rank 4, alpha 8."""
    return lorax.LoRA(**{"rank": 4, "alpha": 8.0, "where": where or "all-linear", **fields})


HEAD = lorax.Full(where=("params/classifier/.*",))
QUERY, VALUE = ".*/query/kernel", ".*/value/kernel"
OURS = {
    "llama all-linear": ("llama", lora()),
    "llama rsLoRA": ("llama", lora(QUERY, VALUE, scaling="rslora", dropout=0.1)),
    "llama patterns": (
        "llama",
        lora(where={QUERY: {"rank": 2}, VALUE: {"alpha": 3.0}, ".*layer_0/mlp/up/kernel": {}}),
    ),
    "llama one layer": ("llama", lora(".*/layer_1/attention/(key|out)/kernel")),
    "llama embedding": ("llama", lora(".*/embedding", QUERY)),
    "llama PiSSA": ("llama", lora(QUERY, ".*/down/kernel", initializer="pissa")),
    "llama OLoRA rsLoRA": ("llama", lora(QUERY, initializer="olora", scaling="rslora")),
    "llama PiSSA patterns": (
        "llama",
        lora(where={QUERY: {"rank": 2, "alpha": 3.0}, VALUE: {}}, initializer="pissa"),
    ),
    "llama head trained": ("llama", lorax.Chain(lora(QUERY), lorax.Full(where=(".*/lm_head/.*",)))),
    "llama tied": ("llama_tied", lora(QUERY)),
    "gpt2 fused": ("gpt2", lora(".*/qkv/kernel")),
    "gpt2 all-linear": ("gpt2", lora()),
    "gpt2 OLoRA": ("gpt2", lora(".*/qkv/kernel", initializer="olora")),
    "gpt2 untied embedding": ("gpt2_untied", lora("params/embed/embedding")),
    "gpt2 biases": ("gpt2", lorax.Chain(lora(".*/qkv/kernel"), lorax.BitFit())),
    "roberta head": ("roberta_classification", lorax.Chain(lora(QUERY, VALUE), HEAD)),
    "roberta regression": ("roberta_regression", lorax.Chain(lora(QUERY, VALUE), HEAD)),
    "roberta masked": ("roberta_masked_lm", lora(QUERY, VALUE)),
}


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("name", OURS)
def test_our_adapters_in_peft(name, scan, tmp_path):
    base, adapter = OURS[name]
    if scan and "layer_" in str(adapter):
        pytest.skip("names one layer, and scanned layers are one leaf")
    found, (ids, mask) = model_of(base, scan), torch_models.batch(base)
    apply = lorax.adapt(found.model.apply, adapter)
    delta = noisy(apply.init(jax.random.key(0), found.base, ids))
    lorax.io.peft.save(tmp_path / "out", adapter, delta, found.model, base=found.base)
    theirs = read_by_peft(torch_models.tiny(base), tmp_path / "out")
    ours = adapted_logits(found.model, adapter, found.base, delta, ids, mask)
    plain = logits(found.model, found.base, ids, mask)
    assert error(ours, plain, mask) > 0.03
    assert error(ours, torch_models.logits(theirs, ids, mask), mask) <= TOLERANCE
    merged = logits(found.model, adapter.merge(found.base, delta), ids, mask)
    theirs = theirs.merge_and_unload()
    assert error(merged, torch_models.logits(theirs, ids, mask), mask) <= TOLERANCE


@pytest.mark.parametrize("base", ["gpt2", "llama_tied"])
def test_our_update_of_a_tied_matrix(base, tmp_path):
    """PEFT sees it in both places, and adds it twice when it merges; merged here it is right."""
    adapter, (ids, mask) = lora("params/embed/embedding"), torch_models.batch(base)
    found = model_of(base)
    apply = lorax.adapt(found.model.apply, adapter)
    delta = noisy(apply.init(jax.random.key(0), found.base, ids))
    lorax.io.peft.save(tmp_path / "out", adapter, delta, found.model, base=found.base)
    theirs = read_by_peft(torch_models.tiny(base), tmp_path / "out")
    ours = adapted_logits(found.model, adapter, found.base, delta, ids, mask)
    assert error(ours, torch_models.logits(theirs, ids, mask), mask) <= TOLERANCE
    assert error(ours, torch_models.logits(theirs.merge_and_unload(), ids, mask), mask) > 0.1
    pretrained.save(tmp_path / "merged", found.model, adapter.merge(found.base, delta))
    theirs = read_by_transformers(type(torch_models.tiny(base)), tmp_path / "merged")
    assert error(ours, torch_models.logits(theirs, ids, mask), mask) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama_qv", "gpt2_all_conv1d", "roberta_classification"])
def test_merged_here_and_read_by_transformers(name, tmp_path):
    case = torch_adapters.CASES[name]
    found, batch = model_of(case.model), torch_models.batch(case.model)
    adapter, delta = lorax.io.peft.load(FOLDER / "adapters" / name, found)
    pretrained.save(tmp_path / "out", found.model, adapter.merge(found.base, delta))
    theirs = torch_adapters.adapted(case).merge_and_unload()
    kind = type(torch_models.tiny(case.model))
    ours = read_by_transformers(kind, tmp_path / "out")
    assert (
        error(torch_models.logits(ours, *batch), torch_models.logits(theirs, *batch), batch[1])
        <= TOLERANCE
    )


def test_bfloat16_merges_are_rounded_once(tmp_path):
    """PEFT on a CPU also merges bfloat16 in float32: at most one unit in the last place apart."""
    folder = FOLDER / "adapters" / "llama_all_linear"
    found = pretrained.load(FOLDER / "models" / "llama", dtype="bfloat16")
    adapter, delta = lorax.io.peft.load(folder, found)
    ours = adapter.merge(found.base, delta)
    pretrained.save(tmp_path / "out", found.model, ours)
    base = torch_models.tiny("llama").to(torch.bfloat16)
    theirs = peft.PeftModel.from_pretrained(base, folder).merge_and_unload().state_dict()
    same = []
    for name, tensor in read_tensors(tmp_path / "out" / "model.safetensors").items():
        assert tensor.dtype == jnp.bfloat16
        ours, wanted = tensor.astype(np.float32), theirs[name].float().numpy()
        assert np.all(np.abs(ours - wanted) <= 2**-7 * np.abs(wanted)), name
        same.append(np.mean(ours == wanted))
    assert np.mean(same) > 0.999


def test_a_bfloat16_adapter_file(tmp_path):
    theirs = torch_adapters.adapted(torch_adapters.CASES["llama_qv"]).to(torch.bfloat16)
    theirs.save_pretrained(str(tmp_path / "in"))
    found, batch = model_of("llama"), torch_models.batch("llama")
    adapter, delta = lorax.io.peft.load(tmp_path / "in", found)
    assert {x.dtype for x in jax.tree.leaves(delta)} == {jnp.dtype("bfloat16")}
    ours = adapted_logits(found.model, adapter, found.base, delta, *batch)
    theirs = read_by_peft(torch_models.tiny("llama"), tmp_path / "in")
    assert error(ours, torch_models.logits(theirs, *batch), batch[1]) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama_qv", "gpt2_c_attn"])
def test_training_takes_the_same_steps(name):
    """Three steps of gradient descent from one adapter, in torch and here, end at one adapter."""
    case = torch_adapters.CASES[name]
    found, (ids, mask) = model_of(case.model), torch_models.batch(case.model)
    adapter, delta = lorax.io.peft.load(FOLDER / "adapters" / name, found)
    apply = lorax.adapt(found.model.apply, adapter, on_fallback="error")

    @jax.jit
    def step(delta):
        def loss(delta):
            scores = jax.nn.log_softmax(apply(found.base, delta, ids)[:, :-1])
            return -jnp.take_along_axis(scores, ids[:, 1:, None], -1).mean()

        return jax.tree.map(lambda x, g: x - 0.03 * g, delta, jax.grad(loss)(delta))

    for _ in range(3):
        delta = step(delta)
    theirs = torch_adapters.adapted(case)
    torch_adapters.train(theirs, 3, rate=0.03)
    ours = adapted_logits(found.model, adapter, found.base, delta, ids, mask)
    assert error(ours, torch_models.logits(theirs, ids, mask), mask) <= TOLERANCE
