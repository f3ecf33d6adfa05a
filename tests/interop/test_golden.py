"""Do real files mean here what they mean to torch, transformers and PEFT? Held against fixtures.

`tests/fixtures/make_fixtures.py` had the reference read and write them; nothing here needs it.
Every error is max |ours - theirs| / max |theirs| over the logits of real tokens, in float32, and
at most 1e-5. `test_live.py` asks the reference itself, in both directions.
"""

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.io import peft
from lorax.io.loralib import load_loralib, save_loralib
from lorax.io.tensors import read_tensors
from lorax.models.layout import stack_layers
from tests.interop.measure import FOLDER, TOLERANCE, adapted_logits, error, logits, model_of

MODELS = sorted(path.name for path in (FOLDER / "models").iterdir())
ADAPTERS = sorted(path.name for path in (FOLDER / "adapters").iterdir())

# Two different updates of one tied matrix, which no single delta can be: refused.
REFUSED = ("gpt2_tied_both",)
# PEFT merges the update of a tied matrix once for every name it has; ours once.
MERGED_TWICE = ("llama_tied_embedding", "gpt2_tied_ensured")
# PEFT's disabled adapter leaves trained biases on, and W - s A0 B0 of PiSSA behind.
NOT_DISABLED = ("gpt2_bias_all", "gpt2_bias_lora_only", "roberta_bias_all", "llama_pissa")
# One rank and one scale for all layers of a stacked leaf: these adapters have several.
NOT_SCANNED = ("llama_layer_1", "llama_patterns", "llama_overlapping_patterns")
# Compiled in the stacked layout too; the others have their merged weights compared.
SCANNED_LOGITS = ("llama_all_linear", "llama_tied_embedding", "gpt2_bias_all", "roberta_bias_all")
# Ours names modules, ranks and layers in its own way, the rest as PEFT does.
SAME_FIELDS = ("peft_type", "task_type", "bias", "use_rslora", "lora_dropout", "inference_mode")
LOADED = [name for name in ADAPTERS if name not in REFUSED]


@functools.cache
def golden(*parts: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER.joinpath(*parts) / "golden.npz") as file:
        return dict(file)


def config_of(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text("utf-8"))


def base_of(adapter: str) -> str:
    return config_of(FOLDER / "adapters" / adapter)["base_model_name_or_path"]


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name, scan):
    record, found = golden("models", name), model_of(name, scan)
    ours = logits(found.model, found.base, record["ids"], record["mask"])
    assert error(ours, record["base"], record["mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", LOADED)
def test_adapters_beside_the_base_and_merged(name):
    record, found = golden("adapters", name), model_of(base_of(name))
    batch = record["ids"], record["mask"]
    adapter, delta = peft.load(FOLDER / "adapters" / name, found)
    ours = adapted_logits(found.model, adapter, found.base, delta, *batch)
    assert error(ours, record["adapter"], record["mask"]) <= TOLERANCE
    merged = logits(found.model, adapter.merge(found.base, delta), *batch)
    wanted = record["adapter" if name in MERGED_TWICE else "merged"]
    assert error(merged, wanted, record["mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", LOADED)
def test_what_the_records_say_of_peft(name):
    """The adapter matters; and where PEFT's own figures disagree with one another."""
    record = golden("adapters", name)
    differ = lambda a, b: error(record[a], record[b], record["mask"])
    assert differ("adapter", "base") > 0.1
    assert (differ("merged", "adapter") > 0.1) == (name in MERGED_TWICE)
    assert (differ("disabled", "base") > 0.1) == (name in NOT_DISABLED)


@pytest.mark.parametrize("name", [name for name in LOADED if name not in NOT_SCANNED])
def test_scanned_layers(name):
    """The same weights come about, layer by layer or stacked."""
    merged = []
    for scan in (False, True):
        found = model_of(base_of(name), scan)
        adapter, delta = peft.load(FOLDER / "adapters" / name, found)
        merged.append(adapter.merge(found.base, delta))
    stacked = stack_layers(merged[0]["params"], found.model.config)
    same = lambda x, y: np.allclose(x, y, rtol=0, atol=1e-6)
    assert jax.tree.all(jax.tree.map(same, stacked, merged[1]["params"]))


@pytest.mark.parametrize("name", SCANNED_LOGITS)
def test_scanned_layers_beside_the_base(name):
    record, found = golden("adapters", name), model_of(base_of(name), scan=True)
    adapter, delta = peft.load(FOLDER / "adapters" / name, found)
    ours = adapted_logits(found.model, adapter, found.base, delta, record["ids"], record["mask"])
    assert error(ours, record["adapter"], record["mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", NOT_SCANNED)
def test_what_stacked_layers_cannot_hold_is_refused(name):
    with pytest.raises(LoraxError, match="scan") as caught:
        peft.load(FOLDER / "adapters" / name, model_of(base_of(name), scan=True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_two_updates_of_one_tied_matrix_are_refused(name):
    record = golden("adapters", name)
    # PEFT evaluates one model and merges another: there is no right answer to reproduce
    assert error(record["merged"], record["adapter"], record["mask"]) > 0.1
    with pytest.raises(LoraxError, match="tied"):
        peft.load(FOLDER / "adapters" / name, model_of(base_of(name)))


@pytest.mark.parametrize("name", LOADED)
def test_written_again_bit_for_bit(name, tmp_path):
    theirs, found = FOLDER / "adapters" / name, model_of(base_of(name))
    adapter, delta = peft.load(theirs, found)
    peft.save(tmp_path / "out", adapter, delta, found.model, base=found.base)
    old = read_tensors(theirs / "adapter_model.safetensors")
    new = read_tensors(tmp_path / "out" / "adapter_model.safetensors")
    assert set(new) == set(old)
    for key in old:
        assert (new[key].dtype, new[key].shape) == (old[key].dtype, old[key].shape)
        assert new[key].tobytes() == old[key].tobytes(), key
    again, twice = peft.load(tmp_path / "out", found)
    assert again == adapter and jax.tree.structure(twice) == jax.tree.structure(delta)
    assert jax.tree.all(jax.tree.map(np.array_equal, twice, delta))
    mine, wanted = config_of(tmp_path / "out"), config_of(theirs)
    for field in SAME_FIELDS:
        assert mine[field] == wanted[field], field
    assert set(mine) <= set(wanted)


def test_loralib_with_factors_for_query_and_value(tmp_path):
    """Against the dense update that loralib's two blocks of factors stand for."""
    record, found = golden("loralib", "gpt2_query_value"), model_of("gpt2")
    ids, mask, enable = record["ids"], record["mask"], (True, False, True)
    file = FOLDER / "loralib" / "gpt2_query_value" / "arrays.npz"
    adapter, delta = load_loralib(file, found, alpha=32.0, enable=enable)
    ours = adapted_logits(found.model, adapter, found.base, delta, ids, mask)
    assert error(ours, record["merged"], mask) <= TOLERANCE < error(record["base"], ours, mask)
    merged = logits(found.model, adapter.merge(found.base, delta), ids, mask)
    assert error(merged, record["merged"], mask) <= TOLERANCE
    alpha = save_loralib(tmp_path / "again.npz", adapter, delta, found, enable=enable)
    assert alpha == 32.0
    with np.load(file) as old, np.load(tmp_path / "again.npz") as new:
        assert set(old) == set(new)
        assert all(np.array_equal(old[name], new[name]) for name in old)
