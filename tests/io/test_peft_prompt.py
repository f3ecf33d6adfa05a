import numpy as np
import pytest

from lorax import (
    BitFit,
    Chain,
    Full,
    LoRA,
    LoraxError,
    PrefixTuning,
    PromptTuning,
    PTuning,
)
from lorax.io import peft
from lorax.io.peft_prompt import is_prompt
from tests.io.tiny import (
    HEAD,
    QUERY,
    base_of,
    config_in,
    delta_of,
    gpt2,
    llama,
    roberta,
    same,
    tensors_in,
    write,
)

DRAW = np.random.default_rng(0)
ROWS = DRAW.normal(size=(3, 16)).astype(np.float32)
PROMPT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}


def _load(tmp_path, config, tensors, model):
    return peft.load(write(tmp_path / "in", PROMPT | config, tensors), model)


def test_a_prompt_file(tmp_path):
    for kind in ("PROMPT_TUNING", "P_TUNING"):
        config = {"peft_type": kind}
        adapter, delta = _load(tmp_path, config, {"prompt_embeddings": ROWS}, gpt2())
        assert adapter == PromptTuning(tokens=3) and set(delta) == {"prompt"}
        np.testing.assert_array_equal(delta["prompt"], ROWS)


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
def test_a_prefix_file(tmp_path, scan):
    """Row by row [key of layer 0, its value, key of layer 1, …], as wide as two of four heads."""
    rows = DRAW.normal(size=(3, 2 * 2 * 8)).astype(np.float32)
    config = {"peft_type": "PREFIX_TUNING", "num_attention_heads": 2, "token_dim": 8}
    model = llama(scan=scan)
    adapter, delta = _load(tmp_path, config, {"prompt_embeddings": rows}, model)
    assert adapter == PrefixTuning(tokens=3)
    added = adapter.additions(base_of(model), delta)
    key = "additions/layers/attention/{}" if scan else "additions/layer_1/attention/{}"
    value = added[key.format("value")]
    np.testing.assert_array_equal(value[1] if scan else value, rows[:, 24:])


@pytest.mark.parametrize(
    ("model", "adapter", "method"),
    [
        (gpt2(), PromptTuning(tokens=3), "PROMPT_TUNING"),
        (llama(scan=True), PrefixTuning(tokens=3), "PREFIX_TUNING"),
        (roberta(), Chain(PromptTuning(tokens=3), HEAD), "PROMPT_TUNING"),
    ],
)
def test_what_is_saved_is_loaded(tmp_path, model, adapter, method):
    base, delta = base_of(model), delta_of(model, adapter)
    peft.save(tmp_path / "one", adapter, delta, model, base=base, base_model_name="x/y")
    fields = config_in(tmp_path / "one")
    assert (fields["peft_type"], fields["base_model_name_or_path"]) == (method, "x/y")
    loaded, again = peft.load(tmp_path / "one", model)
    assert same(again, delta) and loaded.to_dict().keys() == adapter.to_dict().keys()
    peft.save(tmp_path / "two", loaded, again, model, base=base, base_model_name="x/y")
    assert config_in(tmp_path / "two") == fields
    for key, tensor in tensors_in(tmp_path / "one").items():
        assert tensors_in(tmp_path / "two")[key].tobytes() == tensor.tobytes()


@pytest.mark.parametrize("adapter", [PTuning(3, hidden=5), PrefixTuning(3, hidden=5)])
def test_what_a_network_makes_is_written(tmp_path, adapter):
    model = gpt2()
    delta = delta_of(model, adapter)
    peft.save(tmp_path / "out", adapter, delta, model)
    made, wanted = (
        a.additions(base_of(model), d)
        for a, d in (peft.load(tmp_path / "out", model), (adapter, delta))
    )
    assert set(made) == set(wanted)
    for path in made:
        np.testing.assert_allclose(made[path], wanted[path], rtol=1e-5, atol=1e-5)


def test_a_frozen_classifier_is_copied_from_the_base(tmp_path):
    model, adapter = roberta(), PromptTuning(tokens=3)
    delta, base = delta_of(model, adapter), base_of(model)
    with pytest.raises(LoraxError, match="classifier is not trained.*pass the base"):
        peft.save(tmp_path / "out", adapter, delta, model)
    assert not any(tmp_path.iterdir())
    peft.save(tmp_path / "out", adapter, delta, model, base=base)
    loaded, again = peft.load(tmp_path / "out", model)
    kernel = again[1]["params/classifier/dense/kernel"]
    np.testing.assert_array_equal(kernel, base["params"]["classifier"]["dense"]["kernel"])
    assert isinstance(loaded.members[1], Full)


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({}, {}, "tensor 'prompt_embeddings' is missing"),
        ({}, {"prompt_embeddings": ROWS[:2]}, r"shape \(2, 16\), expected \(3, 16\)"),
        ({}, {"prompt_embeddings": ROWS * np.float32(np.inf)}, "NaN or infinity"),
        ({}, {"prompt_embeddings": ROWS, "other": ROWS}, "lacks the prefix 'base_model.'"),
        ({}, {"prompt_embeddings": ROWS, "base_model.x": ROWS}, "is not expected"),
        ({"token_dim": 8}, {"prompt_embeddings": ROWS}, "token_dim is 8 .* and 16 in this GPT2"),
        ({"num_layers": 3}, {"prompt_embeddings": ROWS}, "num_layers is 3"),
        ({"num_transformer_submodules": 2}, {"prompt_embeddings": ROWS}, "submodules is 2"),
        ({"modules_to_save": ["wte"]}, {"prompt_embeddings": ROWS}, "wte.weight' is missing"),
    ],
)
def test_files_that_do_not_fit(tmp_path, config, tensors, message):
    with pytest.raises(LoraxError, match=message) as error:
        _load(tmp_path, config, tensors or {"base_model.x": ROWS}, gpt2())
    assert str(tmp_path / "in") in str(error.value) and "\n" not in str(error.value)


def test_what_peft_cannot_hold(tmp_path):
    model = gpt2()
    prompt = PromptTuning(tokens=3)

    def save(adapter, model=model, **fields):
        delta = delta_of(model, adapter)
        peft.save(tmp_path / "x", adapter, delta, model, base=base_of(model), **fields)

    for adapter, message in (
        (PromptTuning(tokens=3, infix=2), "2 virtual tokens inside"),
        (Chain(prompt, PrefixTuning(tokens=3)), "2 members of virtual tokens"),
        (Chain(prompt, LoRA(2, where=(".*/qkv/kernel",))), "an update of weights beside it"),
        (Chain(prompt, BitFit()), "trained without its kernel"),
    ):
        with pytest.raises(LoraxError, match=message):
            save(adapter)
    with pytest.raises(LoraxError, match="which vLLM does not serve"):
        save(prompt, target="vllm")
    with pytest.raises(LoraxError, match="head is 'masked_lm'"):
        save(prompt, roberta(head="masked_lm"))
    nan = {"prompt": np.full((3, 16), np.nan, np.float32)}
    with pytest.raises(LoraxError, match="expected finite numbers"):
        peft.save(tmp_path / "x", prompt, nan, model)
    for delta in ({"prefix": nan["prompt"]}, {"prompt": np.zeros((2, 16), np.float32)}, 3):
        with pytest.raises((LoraxError, TypeError), match="delta") as error:
            peft.save(tmp_path / "x", prompt, delta, model)
        assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_which_adapters_are_of_virtual_tokens():
    assert is_prompt(PTuning()) and is_prompt(Chain(HEAD, Chain(PrefixTuning(), BitFit())))
    assert not is_prompt(LoRA(where=(QUERY,)))
