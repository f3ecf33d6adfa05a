"""Do files of PEFT's other methods mean here what they mean to PEFT? Held against fixtures.

As `test_golden.py`: max |ours - theirs| / max |theirs| of the logits of real tokens, float32, at
most 1e-5. `test_live_methods.py` asks PEFT itself, in both directions.
"""

import functools
import json
import warnings

import jax
import numpy as np
import pytest

import lorax
from lorax.io import peft
from lorax.io.tensors import read_tensors
from tests.interop.measure import FAST, FOLDER, TOLERANCE, error, logits, model_of

METHODS = sorted(path.name for path in (FOLDER / "methods").iterdir())
# One of each kind is read in every run of the tests, the others in the longer ones.
OFTEN = (
    "dora_gpt2",
    "vera_llama",
    "loha_roberta",
    "lokr_llama",
    "ia3_gpt2",
    "prompt_gpt2",
    "prefix_llama",
    "prefix_projection_roberta",
    "p_tuning_mlp_gpt2",
)
CASES = [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.runs]) for name in METHODS]
ENCODED = [name for name in METHODS if (FOLDER / "methods" / name / "encoder.npz").is_file()]
# W1 of a file may be a product itself, which is one matrix here.
MULTIPLIED = ("lokr_llama_both",)
# Fields that say the same otherwise, or what does not matter to a trained adapter.
SAID_OTHERWISE = {"target_modules", "feedforward_modules", "modules_to_save"}
OF_NO_MATTER = {"base_model_name_or_path", "init_weights", "init_lora_weights"}
KINDS = {
    "dora": lorax.DoRA,
    "vera": lorax.VeRA,
    "loha": lorax.LoHa,
    "lokr": lorax.LoKr,
    "ia3": lorax.IA3,
    "prompt": lorax.PromptTuning,
    "p": lorax.PromptTuning,  # what P-tuning's encoder made
    "prefix": lorax.PrefixTuning,
}


@functools.cache
def golden(name):
    with np.load(FOLDER / "methods" / name / "golden.npz") as file:
        return dict(file)


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text("utf-8"))


@functools.cache
def loaded(name, scan=False):
    """The model with the base as the adapter wants it, the adapter and its delta."""
    folder = FOLDER / "methods" / name
    found = model_of(config_of(folder)["base_model_name_or_path"], scan)
    return found.model, peft.prepare(folder, found), *peft.load(folder, found)


@pytest.mark.parametrize("name", CASES)
def test_merged_or_with_virtual_tokens(name):
    record, (model, base, adapter, delta) = golden(name), loaded(name)
    own = adapter.members[0] if isinstance(adapter, lorax.Chain) else adapter
    assert type(own) is KINDS[name.split("_")[0]]
    assert ("roberta" in name) == isinstance(adapter, lorax.Chain)
    batch = record["ids"], record["mask"]
    merged = jax.jit(adapter.merge, compiler_options=FAST)(base, delta)
    ours = logits(model, merged, *batch)
    wanted = record.get("merged", record["adapter"])
    assert error(ours, wanted, record["mask"]) <= TOLERANCE
    assert error(record["adapter"], wanted, record["mask"]) <= TOLERANCE
    assert error(record["base"], wanted, record["mask"]) > 0.1
    if "disabled" in record:
        assert error(record["disabled"], record["base"], record["mask"]) == 0


@pytest.mark.runs
@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("name", METHODS)
def test_beside_the_base(name, scan):
    record, (model, base, adapter, delta) = golden(name), loaded(name, scan)
    apply = lorax.adapt(model.apply, adapter, on_fallback="allow")  # tiny leaves are no larger
    run = jax.jit(apply, compiler_options=FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lorax.LoraxWarning)
        ours = run(base, delta, record["ids"], mask=record["mask"].astype(bool))
    assert error(ours, record["adapter"], record["mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", [case for case in CASES if case.values[0] not in MULTIPLIED])
def test_written_again(name, tmp_path):
    written_again(name, tmp_path, scan=False)


@pytest.mark.runs
@pytest.mark.parametrize("name", [name for name in METHODS if name not in MULTIPLIED])
def test_written_again_from_scanned_layers(name, tmp_path):
    written_again(name, tmp_path, scan=True)


def written_again(name, tmp_path, *, scan):
    """Bit for bit; but DoRA's magnitudes are counted from the base's norms here."""
    theirs = FOLDER / "methods" / name
    model, base, adapter, delta = loaded(name, scan)
    peft.save(tmp_path / "out", adapter, delta, model, base=base)
    old, new = (
        read_tensors(folder / "adapter_model.safetensors") for folder in (theirs, tmp_path / "out")
    )
    assert set(new) == set(old)
    for key in old:
        assert (new[key].dtype, new[key].shape) == (old[key].dtype, old[key].shape)
        if key.endswith("lora_magnitude_vector"):
            np.testing.assert_allclose(new[key], old[key], rtol=1e-6)
        else:
            assert new[key].tobytes() == old[key].tobytes(), key
    again, twice = peft.load(tmp_path / "out", model, base=base)
    assert again == adapter and jax.tree.structure(twice) == jax.tree.structure(delta)
    mine, wanted = config_of(tmp_path / "out"), config_of(theirs)
    computed = {"peft_type", "prompt_tuning_init"} if name.startswith("p_") else set()
    computed |= {"prefix_projection"} if "projection" in name else set()
    for field in set(mine) - SAID_OTHERWISE - OF_NO_MATTER - computed:
        assert mine[field] == wanted[field], field
    assert set(mine) - computed <= set(wanted)
    assert set(mine["modules_to_save"] or ()) == set(wanted["modules_to_save"] or ())


def from_torch(arrays):
    """The delta of an encoder from torch's names of its weights."""
    found, names = {}, ("first", "second", "third")
    for name, array in arrays.items():
        module, *rest = name.split(".")
        if module == "lstm_head":  # weight_ih_l0_reverse
            kind, part, layer, *back = rest[0].split("_")
            path = f"lstm/{layer[1:]}/{'backward' if back else 'forward'}"
            place = f"{path}/{'input' if part == 'ih' else 'hidden'}"
        elif module == "embedding":
            found["embedding"] = array
            continue
        else:  # mlp_head.2.weight: layers with activations between
            kind, place = rest[1], names[int(rest[0]) // 2]
        found[f"{place}/{'kernel' if kind == 'weight' else 'bias'}"] = array.T
    return found


@pytest.mark.parametrize("name", [case for case in CASES if case.values[0] in ENCODED])
def test_the_encoders_that_peft_loses(name, tmp_path):
    """Their weights, from torch, make the vectors of the file here; and we write what PEFT does."""
    folder = FOLDER / "methods" / name
    model, base, _, _ = loaded(name)
    with np.load(folder / "encoder.npz") as file:
        delta = from_torch(dict(file))
    if name.startswith("prefix"):
        adapter, field = lorax.PrefixTuning(tokens=5, hidden=6), "prefix_projection"
    else:
        encoder = name.split("_")[2]
        adapter, field = lorax.PTuning(tokens=5, encoder=encoder, hidden=6), "peft_type"
    peft.save(tmp_path / "out", adapter, delta, model, base=base)
    old, new = (
        read_tensors(folder / "adapter_model.safetensors") for folder in (folder, tmp_path / "out")
    )
    assert set(new) == set(old)
    wanted, made = (held["prompt_embeddings"] for held in (old, new))
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    mine, theirs = config_of(tmp_path / "out"), config_of(folder)
    assert mine[field] == (theirs[field] if field == "peft_type" else False)
    for same in ("token_dim", "num_virtual_tokens", "num_layers", "num_attention_heads"):
        assert mine[same] == theirs[same]
