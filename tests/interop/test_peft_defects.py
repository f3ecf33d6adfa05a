"""What does PEFT 0.21.2 get wrong, and does lorax do it right? Each test shows both sides.

A test that fails on PEFT's half after a new pin is good news: the half may go.
"""

import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
import lorax.io.peft
from lorax.adapters.combine import combine
from lorax.core.errors import LoraxError
from lorax.io.tensors import read_tensors, write_tensors
from tests.interop.measure import FOLDER, TOLERANCE, adapted_logits, error, logits, model_of

torch = pytest.importorskip("torch", reason="make test-interop has torch")
peft = pytest.importorskip("peft", reason="make test-interop has peft")

from tests.fixtures import torch_adapters, torch_methods, torch_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|transformers|peft).*")


@pytest.fixture
def renamed(tmp_path):
    """A copy of an adapter in which one tensor has another name, and that tensor."""
    folder = tmp_path / "adapter"
    shutil.copytree(FOLDER / "adapters" / "llama_qv", folder)
    held = read_tensors(folder / "adapter_model.safetensors")
    key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    held["elsewhere." + key] = wanted = held.pop(key)
    (folder / "adapter_model.safetensors").unlink()
    write_tensors(folder / "adapter_model.safetensors", held)
    return folder, wanted


def test_a_missing_and_an_unexpected_tensor(renamed):
    folder, wanted = renamed
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(torch_models.tiny("llama"), folder)
    assert any("missing adapter keys" in str(w.message) for w in caught)
    layer = model.base_model.model.model.layers[1].self_attn.v_proj
    drawn = layer.lora_B["default"].weight.detach().numpy()
    assert not np.array_equal(drawn, wanted)  # and yet there is a model
    with pytest.raises(LoraxError, match="v_proj"):
        lorax.io.peft.load(folder, model_of("llama"))


def test_overlapping_patterns_lose_their_order(tmp_path):
    theirs = FOLDER / "adapters" / "llama_overlapping_patterns"
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft.PeftModel.from_pretrained(torch_models.tiny("llama"), theirs)
    found, batch = model_of("llama"), torch_models.batch("llama")
    adapter, delta = lorax.io.peft.load(theirs, found)
    lorax.io.peft.save(tmp_path / "out", adapter, delta, found.model)
    ours = peft.PeftModel.from_pretrained(torch_models.tiny("llama"), tmp_path / "out").eval()
    with np.load(theirs / "golden.npz") as record:
        assert error(torch_models.logits(ours, *batch), record["adapter"], batch[1]) <= TOLERANCE


def test_an_adapter_on_one_of_two_tied_matrices():
    """PEFT's merge writes into both names of the matrix what only one of them had learnt."""
    found, batch = model_of("gpt2"), torch_models.batch("gpt2")
    config = peft.LoraConfig(r=4, target_modules=["wte"], init_lora_weights=False)
    theirs = peft.get_peft_model(torch_models.tiny("gpt2"), config).eval()
    beside = torch_models.logits(theirs, *batch)
    merged = torch_models.logits(theirs.merge_and_unload(), *batch)
    assert error(merged, beside, batch[1]) > 0.1
    adapter = lorax.LoRA(rank=4, where=("params/embed/embedding",))
    delta = lorax.adapt(found.model.apply, adapter).init(jax.random.key(0), found.base, batch[0])
    delta = jax.tree.map(lambda x: x + 0.1, delta)
    beside = adapted_logits(found.model, adapter, found.base, delta, *batch)
    merged = logits(found.model, adapter.merge(found.base, delta), *batch)
    assert error(merged, beside, batch[1]) <= TOLERANCE


def test_a_leaf_is_drawn_alike_whatever_else_is_targeted():
    def theirs(*targets):
        base = torch_models.tiny("llama")
        torch.manual_seed(0)
        model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=list(targets)))
        return model.base_model.model.model.layers[1].self_attn.v_proj.lora_A["default"].weight

    def ours(*targets):
        where = tuple(f".*/{target}/kernel" for target in targets)
        delta = lorax.LoRA(rank=4, where=where).init(jax.random.key(0), model_of("llama").base)
        return delta["params/layer_1/attention/value/kernel"].A

    assert not torch.equal(theirs("v_proj"), theirs("q_proj", "v_proj"))
    assert jnp.array_equal(ours("value"), ours("query", "value"))


def test_olora_on_a_fused_projection():
    config = peft.LoraConfig(
        r=4, target_modules=["c_attn"], init_lora_weights="olora", fan_in_fan_out=True
    )
    found, batch = model_of("gpt2"), torch_models.batch("gpt2")
    with pytest.raises(RuntimeError, match="shape"):
        torch_models.logits(peft.get_peft_model(torch_models.tiny("gpt2"), config), *batch)
    adapter = lorax.LoRA(rank=4, where=(".*/qkv/kernel",), initializer="olora")
    delta = lorax.adapt(found.model.apply, adapter).init(jax.random.key(0), found.base, batch[0])
    ours = adapted_logits(found.model, adapter, found.base, delta, *batch)
    assert error(ours, logits(found.model, found.base, *batch), batch[1]) == 0


def test_pissa_leaves_the_base_alone():
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    found, batch = model_of("llama"), torch_models.batch("llama")
    base = torch_models.logits(torch_models.tiny("llama"), *batch)
    theirs = peft.get_peft_model(torch_models.tiny("llama"), config).eval()
    with theirs.disable_adapter():
        assert error(torch_models.logits(theirs, *batch), base, batch[1]) > 0.1
    adapter = lorax.LoRA(rank=4, where=(".*/query/kernel",), initializer="pissa")
    before = jax.tree.map(np.array, found.base)
    delta = lorax.adapt(found.model.apply, adapter).init(jax.random.key(0), found.base, batch[0])
    adapter.merge(found.base, delta)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, found.base))


def test_the_sum_of_rank_stabilised_adapters():
    """PEFT multiplies the result by sqrt of its rank; the true sum is of the merged updates."""
    folder, (ids, mask) = FOLDER / "adapters" / "llama_rslora", torch_models.batch("llama")
    theirs = peft.PeftModel.from_pretrained(torch_models.tiny("llama"), folder, "a").eval()
    theirs.load_adapter(folder, "b")
    theirs.add_weighted_adapter(["a", "b"], [0.7, -0.4], "sum", combination_type="cat")
    theirs.set_adapter("sum")
    found = model_of("llama")
    adapter, delta = lorax.io.peft.load(folder, found)
    summed = combine([(adapter, delta, 0.7), (adapter, delta, -0.4)])
    merged = adapter.merge(found.base, delta)
    true = jax.tree.map(lambda w, m: w + (0.7 - 0.4) * (m - w), found.base, merged)
    true = logits(found.model, true, ids, mask)
    assert error(torch_models.logits(theirs, ids, mask), true, mask) > 0.1
    ours = adapted_logits(found.model, summed.adapter, found.base, summed.delta, ids, mask)
    assert error(ours, true, mask) <= TOLERANCE


def test_repeated_layers_are_refused(tmp_path):
    """PEFT shares the weights between copies and merges each copy's update into them."""
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]], init_lora_weights=False
    )
    theirs = peft.get_peft_model(torch_models.tiny("llama"), config).eval()
    theirs.save_pretrained(str(tmp_path / "in"))
    batch = torch_models.batch("llama")
    beside = torch_models.logits(theirs, *batch)
    merged = torch_models.logits(theirs.merge_and_unload(), *batch)
    assert error(merged, beside, batch[1]) > 0.1
    with pytest.raises(LoraxError, match="layer_replication"):
        lorax.io.peft.load(tmp_path / "in", model_of("llama"))


def test_a_classifier_beside_other_methods():
    """PEFT can neither merge IA3 into such a model nor switch its virtual tokens off."""
    case = torch_methods.CASES["ia3_roberta"]
    with pytest.raises(AttributeError, match="weight"):
        torch_methods.adapted(case).merge_and_unload()
    theirs = torch_methods.adapted(torch_methods.CASES["prompt_roberta"])
    with pytest.raises(UnboundLocalError), theirs.disable_adapter():
        pass
    found, batch = model_of(case.model), torch_models.batch(case.model)
    folder = FOLDER / "methods" / "ia3_roberta"
    adapter, delta = lorax.io.peft.load(folder, found)
    ours = logits(found.model, adapter.merge(found.base, delta), *batch)
    with np.load(folder / "golden.npz") as record:
        assert error(ours, record["merged"], batch[1]) <= TOLERANCE


def test_merging_and_taking_back_again_drifts():
    """PEFT edits weights in place: ten times there and back is not back."""
    theirs = torch_adapters.adapted(torch_adapters.CASES["llama_qv"])
    weight = theirs.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    before = weight.detach().clone()
    for _ in range(10):
        theirs.merge_adapter()
        theirs.unmerge_adapter()
    assert not torch.equal(weight, before)
    found = model_of("llama")
    adapter, delta = lorax.io.peft.load(FOLDER / "adapters" / "llama_qv", found)
    before = jax.tree.map(np.array, found.base)
    once = adapter.merge(found.base, delta)
    assert jax.tree.all(jax.tree.map(np.array_equal, once, adapter.merge(found.base, delta)))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, found.base))
