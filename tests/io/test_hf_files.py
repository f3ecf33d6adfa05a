"""Files of a Hugging Face directory: shards and their index, pickles, tricks; the Hub."""

import fnmatch
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.io.hf_files import INDEX, SINGLE, download, is_hub_name, tensors_of
from lorax.io.tensors import write_tensors

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "models"


@pytest.fixture
def sharded(tmp_path):
    """Two shards, and a function that writes the index with a change."""
    write_tensors(tmp_path / "a.safetensors", {"x": np.arange(2.0), "y": np.arange(3)})
    write_tensors(tmp_path / "b.safetensors", {"z": np.ones(1)})

    def index(**changes):
        where = {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"} | changes
        where = {name: file for name, file in where.items() if file is not ...}
        (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
        return tmp_path

    return index


def refused(folder, *words):
    with pytest.raises(LoraxError) as caught:
        tensors_of(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    for word in words:
        assert word in message, message


def test_shards_are_one_table(sharded):
    sources = tensors_of(sharded())
    assert {name: source.shape for name, source in sources.items()} == {
        "x": (2,), "y": (3,), "z": (1,)
    }  # fmt: skip
    assert sources["y"].read().tolist() == [0, 1, 2]
    assert sources["z"].file.endswith("b.safetensors")


def test_the_shards_of_transformers_are_its_single_file():
    single, shards = tensors_of(FIXTURES / "llama"), tensors_of(FIXTURES / "llama_sharded")
    assert set(single) == set(shards)
    for name in single:
        assert (single[name].read() == shards[name].read()).all()


@pytest.mark.parametrize(
    "name",
    [
        "../b.safetensors",
        "/etc/b.safetensors",
        "..\\b.safetensors",
        "sub/b.safetensors",
        "./b.safetensors",
        "..",
        ".safetensors",
        "b.safetensors\0",
        "b.safetensors/",
        "pytorch_model.bin",
        "",
        7,
        None,
        ["b.safetensors"],
    ],
)
def test_an_index_cannot_leave_its_directory(sharded, name):
    folder = sharded(z=name)
    outside = folder.parent / "b.safetensors"
    shutil.copy(folder / "b.safetensors", outside)
    refused(folder, INDEX, "puts the tensor 'z' into", "plain name")


def test_index_and_files_must_agree(sharded):
    refused(sharded(z="a.safetensors"), "a.safetensors", "lacks the tensor 'z'")
    refused(sharded(y=...), "a.safetensors", "holds, unknown to its index, the tensor 'y'")
    refused(sharded(z="c.safetensors"), "cannot read", "c.safetensors")
    folder = sharded()
    for content in ("{}", '{"weight_map": []}', '{"weight_map": {}}'):
        (folder / INDEX).write_text(content)
        refused(folder, "no table weight_map")
    (folder / INDEX).write_text("[" * 100_000)
    refused(folder, "nested too deeply")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth"]
)
def test_a_directory_of_pickles_is_refused_with_the_command(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    refused(tmp_path, "is a pickle", "save_pretrained", "safe_serialization=True")


def test_a_pickle_under_the_safe_name_is_refused(tmp_path):
    (tmp_path / SINGLE).write_bytes(b"\x80\x02}q\x00." + bytes(90))
    refused(tmp_path, SINGLE, "pickle", "save_pretrained")


def test_an_empty_directory_is_one_line(tmp_path):
    refused(tmp_path, "neither model.safetensors nor")


def test_hub_names_are_organisation_and_model():
    assert is_hub_name("openai-community/gpt2") and is_hub_name("meta-llama/Llama-3.2-1B")
    for name in ("gpt2", "a/b/c", "../gpt2", "/etc/passwd", "a/..", "./a", "a/", "a b/c", ""):
        assert not is_hub_name(name)


def test_the_hub_is_asked_for_these_files_only(monkeypatch, tmp_path):
    hub, asked = pytest.importorskip("huggingface_hub"), {}

    def snapshot(name, **options):
        asked.update(options, name=name)
        return str(tmp_path / "0123abc")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert download("org/model", "v1") == (tmp_path / "0123abc", "0123abc")
    assert (asked["name"], asked["revision"]) == ("org/model", "v1")
    patterns = asked["allow_patterns"]
    assert "model.safetensors" in patterns and "tokenizer.json" in patterns
    for name in ("pytorch_model.bin", "model.pt", "modeling_evil.py", "original/x.safetensors"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def test_offline_without_a_copy_is_one_line(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LoraxError) as caught:
        download("org/model", "v1")
    message = str(caught.value)
    assert message.startswith("cannot fetch 'org/model' at revision 'v1'")
    assert "\n" not in message and "pass a directory" in message


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[hf\]'"):
        download("org/model")
