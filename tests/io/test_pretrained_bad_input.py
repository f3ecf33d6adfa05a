"""Models that are damaged, hostile or not there: one line that names the file, and no harm done."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest

from lorax.io.hf_files import CONFIG, INDEX, SINGLE
from lorax.io.pretrained import load
from lorax.io.tensors import read_tensors
from tests.pretrained_files import FIXTURES, change_config, change_tensors, copy, refused


def test_nothing_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("no model at 'gpt2'", "openai-community/gpt2", source="gpt2")
    refused("no model at", source=tmp_path / "nothing")
    refused("cannot read", CONFIG, source=tmp_path)
    refused("revision='main' with files", source=FIXTURES / "gpt2", revision="main")


@pytest.mark.parametrize("name", [SINGLE, "tokenizer.json", "model.onnx"])
def test_a_file_that_is_no_model_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    refused("expected its directory", source=tmp_path / name)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_with_the_command(tmp_path, name):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    refused("is a pickle", "save_pretrained", source=tmp_path / name)
    folder = copy("gpt2", tmp_path / "x")
    (folder / SINGLE).rename(tmp_path / "model.safetensors")
    (tmp_path / name).rename(folder / ("pytorch_model.bin" if name.endswith(".pth") else name))
    refused("is a pickle", "save_pretrained", source=folder)
    (folder / SINGLE).write_bytes(pickle.dumps(Evil()))
    refused(SINGLE, "pickle", "save_pretrained", source=folder)
    assert not (tmp_path / "owned").exists()


def test_a_truncated_file_is_refused(tmp_path):
    folder = copy("llama", tmp_path / "x")
    whole = (folder / SINGLE).read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (folder / SINGLE).write_bytes(whole[:size])
        refused(str(folder / SINGLE), source=folder)


def test_flipped_bits_of_the_header_are_noticed(tmp_path):
    """Whatever bit of it: names, shapes, dtypes and offsets all have to fit the model."""
    folder = copy("roberta_regression", tmp_path / "x")
    whole = (folder / SINGLE).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    start = whole.index(b'"classifier.dense.bias"')
    for bit in np.random.default_rng(0).choice(8 * (length - start), 40, replace=False):
        data = bytearray(whole)
        data[start + bit // 8] ^= 1 << (bit % 8)
        (folder / SINGLE).write_bytes(data)
        refused(str(folder), source=folder)


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    folder = copy("llama", tmp_path / "x")
    name, other = "model.layers.1.self_attn.k_proj.weight", "model.layers.9.mlp.up_proj.weight"
    tensors = read_tensors(folder / SINGLE)
    change_tensors(folder, **{name: ...})
    refused(str(folder), "lacks", name, source=folder)
    change_tensors(folder, **{name: tensors[name].T})
    refused(SINGLE, name, "(16, 8), expected (8, 16)", source=folder)
    change_tensors(folder, **{name: tensors[name], other: tensors[name]})
    refused(SINGLE, "unexpected", other, source=folder)
    change_tensors(folder, **{name: tensors[name].astype(np.int32), other: ...})
    refused(SINGLE, name, "is int32", source=folder)


def test_a_wrong_tied_copy_is_refused(tmp_path):
    folder = copy("llama_tied", tmp_path / "x")
    embedding = read_tensors(folder / SINGLE)["model.embed_tokens.weight"]
    change_tensors(folder, **{"lm_head.weight": embedding})
    load(folder)
    change_tensors(folder, **{"lm_head.weight": embedding + np.float32(1e-3)})
    refused(SINGLE, "'lm_head.weight' differs", source=folder)
    change_config(folder, tie_word_embeddings=False)
    assert not load(folder).config.tied


def test_an_index_cannot_leave_its_directory(tmp_path):
    folder = copy("llama_sharded", tmp_path / "x")
    shutil.copy(folder / "model-00001-of-00003.safetensors", tmp_path / "outside.safetensors")
    index = json.loads((folder / INDEX).read_text())
    for trick in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        index["weight_map"]["model.embed_tokens.weight"] = trick
        (folder / INDEX).write_text(json.dumps(index))
        refused(INDEX, "plain name", source=folder)


def test_a_bad_config_is_one_line(tmp_path):
    folder = copy("llama", tmp_path / "x")
    change_config(folder, attention_bias=True)
    refused(str(folder / CONFIG), "attention_bias is True", source=folder)
    change_config(folder, attention_bias=False, num_hidden_layers=2**31 - 1)
    refused("tensors, config.json says 2147483647 layers", source=folder)
    change_config(folder, num_hidden_layers=3)
    refused("lacks the tensor 'model.layers.2.", source=folder)
    change_config(folder, num_hidden_layers="2")
    refused("num_hidden_layers is '2'", source=folder)
    for bomb in ("[" * 10**6, '{"a":' * 10**5, '{"vocab_size": ' + "9" * 10**5 + "}"):
        (folder / CONFIG).write_text(bomb)
        refused(str(folder / CONFIG), "no valid JSON", source=folder)
    (folder / CONFIG).write_text(" " * (17 << 20))
    refused(str(folder / CONFIG), "more than 16,777,216 bytes", source=folder)


def test_an_adapter_is_no_model(tmp_path):
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "org/model"}')
    refused("is an adapter of org/model: load that model", "peft.load(", source=tmp_path)
    config.write_text("{}")
    refused("is an adapter of a model", source=tmp_path)
    config.rename(tmp_path / "adapter.json")
    refused("is an adapter: load its model", "load_adapter(directory)", source=tmp_path)


def test_what_is_no_path():
    for wrong in (None, 3, b"x"):
        refused(f"source is a {type(wrong).__name__}", "or a hub name", source=wrong)


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    copy("gpt2", tmp_path / "x")
    assert load("~/x").source == str(tmp_path / "x")
    refused(f"no model at '{tmp_path / 'y'}'", source="~/y")
    refused("no model at './a/b'", source="./a/b")
