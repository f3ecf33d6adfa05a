"""Hugging Face directories of ours: what is written, in which layout, whole or not at all."""

import json
import pathlib
import shutil
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.io import pretrained_save
from lorax.io.assemble import with_fields
from lorax.io.hf_files import CONFIG, GENERATION, INDEX, SINGLE
from lorax.io.pretrained import load
from lorax.io.pretrained_save import save
from lorax.io.tensors import open_tensors, read_tensors
from tests.pretrained_files import checkpoint

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "models"
NAMES = sorted(path.name for path in FIXTURES.iterdir())


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def refused(directory, model, params, *words, **options):
    with pytest.raises(LoraxError) as caught:
        save(directory, model, params, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_those_of_transformers_bit_for_bit(tmp_path, name, scan):
    loaded = load(FIXTURES / name, scan=scan)
    save(tmp_path / "x", loaded.model, loaded.base)
    folder = FIXTURES / name.removesuffix("_sharded")
    theirs, ours = read_tensors(folder / SINGLE), read_tensors(tmp_path / "x" / SINGLE)
    assert set(ours) == set(theirs)
    for tensor, array in theirs.items():
        assert ours[tensor].dtype == array.dtype and np.array_equal(ours[tensor], array)
    assert open_tensors(tmp_path / "x" / SINGLE).metadata == {"format": "pt"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == [CONFIG, SINGLE, "x"]


def test_either_layout_and_either_nesting_give_the_same_file(tmp_path):
    plain, stacked = (load(FIXTURES / "llama", scan=scan) for scan in (False, True))
    save(tmp_path / "a", plain.model, plain.base)
    save(tmp_path / "b", plain.model, stacked.base)
    save(tmp_path / "c", stacked.model, plain.base["params"])
    for name in (SINGLE, CONFIG):
        first = (tmp_path / "a" / name).read_bytes()
        assert all((tmp_path / other / name).read_bytes() == first for other in "bc")


def test_sixteen_bits_stay_and_are_named_in_the_config(tmp_path):
    loaded = load(FIXTURES / "gpt2", dtype="bfloat16", scan=True)
    save(tmp_path / "x", loaded.model, loaded.base)
    dtypes = {info.dtype for info in open_tensors(tmp_path / "x" / SINGLE).tensors.values()}
    assert dtypes == {np.dtype(jnp.bfloat16)}
    assert json.loads((tmp_path / "x" / CONFIG).read_text())["torch_dtype"] == "bfloat16"
    same(load(tmp_path / "x", scan=True).base, loaded.base)


def test_large_models_go_to_several_files_with_an_index(tmp_path):
    loaded = load(FIXTURES / "llama")
    save(tmp_path / "x", loaded.model, loaded.base, shard_bytes=10_000)
    files = sorted(path.name for path in (tmp_path / "x").glob("*.safetensors"))
    count = len(files)
    assert files == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    sizes = [sum(a.nbytes for a in read_tensors(tmp_path / "x" / f).values()) for f in files]
    assert count > 1 and max(sizes) <= 10_000
    index = json.loads((tmp_path / "x" / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(sizes)}
    assert set(index["weight_map"].values()) == set(files)
    same(load(tmp_path / "x").base, loaded.base)
    save(tmp_path / "y", loaded.model, loaded.base, shard_bytes=1)
    tensors = len(read_tensors(FIXTURES / "llama" / SINGLE))
    assert len(list((tmp_path / "y").glob("*.safetensors"))) == tensors
    same(load(tmp_path / "y").base, loaded.base)


def test_an_untied_masked_lm_has_both_biases_and_comes_back(tmp_path):
    loaded = load(FIXTURES / "roberta_masked_lm", tied=False)
    save(tmp_path / "x", loaded.model, loaded.base)
    tensors = read_tensors(tmp_path / "x" / SINGLE)
    assert np.array_equal(tensors["lm_head.decoder.bias"], tensors["lm_head.bias"])
    again = load(tmp_path / "x")
    assert again.config == loaded.config
    same(again.base, loaded.base)


def test_tokenizer_and_what_the_config_does_not_hold_come_along(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(FIXTURES / "gpt2", source)
    for name in ("merges.txt", GENERATION, "pytorch_model.bin", "notes.txt"):
        (source / name).write_text("{}")
    model, base = (loaded := load(FIXTURES / "gpt2")).model, loaded.base
    save(tmp_path / "x", model, base, tokenizer_from=source)
    found = {path.name for path in (tmp_path / "x").iterdir()}
    assert found == {CONFIG, SINGLE, "merges.txt", GENERATION}
    table = json.loads((tmp_path / "x" / CONFIG).read_text())
    assert (table["eos_token_id"], table["pad_token_id"]) == (0, 1)
    save(tmp_path / "y", model, base, tokenizer_from=loaded)
    assert json.loads((tmp_path / "y" / CONFIG).read_text()) == table
    refused(tmp_path / "z", model, base, "tokenizer_from is", tokenizer_from=tmp_path / "none")


def test_a_tokenizer_of_a_single_file_cannot_be_copied(tmp_path):
    loaded = load(FIXTURES / "llama")
    single = type(loaded)(loaded.model, loaded.base, None, loaded.config, "x.bin")
    refused(tmp_path / "x", loaded.model, loaded.base, "'x.bin' is a single", tokenizer_from=single)


def test_parameters_of_another_model_are_refused_by_path(tmp_path):
    loaded, target = load(FIXTURES / "llama"), tmp_path / "x"
    model, params = loaded.model, loaded.base["params"]
    without = {name: leaf for name, leaf in params.items() if name != "norm"}
    refused(target, model, without, "params lack 'params/norm/scale'")
    refused(target, model, params | {"bias": jnp.ones(3)}, "hold the unknown 'params/bias'")
    tied = with_fields(model, tied=True)
    refused(target, tied, params, "the unknown 'params/lm_head/kernel'", "merge the delta")
    wide = with_fields(model, hidden_dim=40)
    refused(target, wide, params, "'params/layer_0/mlp/gate/kernel' has shape (16, 32)", "(16, 40)")
    stacked = load(FIXTURES / "llama", scan=True).base
    deep = with_fields(model, layers=3)
    refused(target, deep, stacked, "(2, 16)", "expected (3, 16)")
    refused(target, deep, params, "params lack 'params/layer_2/")
    refused(target, model, [params], "params is a list", "adapter.merge")
    assert not any(tmp_path.iterdir())


def test_a_taken_directory_is_replaced_on_request_only(tmp_path):
    loaded = load(FIXTURES / "llama")
    model, base, target = loaded.model, loaded.base, tmp_path / "x"
    save(target, model, base)
    refused(target, model, base, "exists already", "overwrite=True")
    (target / "stale.safetensors").write_bytes(b"")
    save(target, model, base, overwrite=True)
    assert {path.name for path in target.iterdir()} == {CONFIG, SINGLE}
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").write_bytes(b"")
    refused(foreign, model, base, f"holds no {CONFIG}", overwrite=True)
    assert (foreign / "cat.png").exists()


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, existing):
    loaded, target = load(FIXTURES / "llama"), tmp_path / "x"
    if existing:
        save(target, loaded.model, loaded.base)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = []

    def fails_late(path, tensors, *rest):
        if done:
            raise OSError(28, "No space left on device")
        done.append(path)
        path.write_bytes(b"half")

    monkeypatch.setattr(pretrained_save, "write_tensors", fails_late)
    options = {"overwrite": True, "shard_bytes": 10_000}
    refused(target, loaded.model, loaded.base, "No space left", str(target), **options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert target.exists() is existing


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    loaded = load(FIXTURES / "llama")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 0, 9))
    refused(tmp_path / "x", loaded.model, loaded.base, "bytes needed, 9 free")
    assert not any(tmp_path.iterdir())


def test_a_pretrained_stands_for_its_model_and_keeps_its_tokenizer(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(FIXTURES / "gpt2", source)
    write_tokenizer(source / "tokenizer.bin", 259)
    loaded = load(source)
    save(tmp_path / "x", loaded, loaded.base)
    save(tmp_path / "y", loaded.model, loaded.base, tokenizer_from=loaded)
    again = load(tmp_path / "x")
    assert again.model == loaded.model and again.tokenizer.vocab_size == 259
    files = [sorted((f.name, f.read_bytes()) for f in (tmp_path / d).iterdir()) for d in "xy"]
    assert files[0] == files[1]
    save(tmp_path / "z", loaded, loaded.base, tokenizer_from=False)
    assert sorted(path.name for path in (tmp_path / "z").iterdir()) == [CONFIG, SINGLE]
    refused(tmp_path / "w", "gpt2", loaded.base, "model is a str", "write save(directory, model,")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["tok259.bin", "tokenizer.bin", None])
def test_a_model_of_llama2c_keeps_its_tokenizer(tmp_path, name):
    file = checkpoint(tmp_path / "x.bin", vocabulary=259)
    if name is not None:
        write_tokenizer(tmp_path / name, 259)
    loaded = load(file)
    save(tmp_path / "merged", loaded, loaded.base)
    merged = load(tmp_path / "merged")
    assert merged.config == loaded.config
    if name is None:
        assert merged.tokenizer is None
        return
    assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / name).read_bytes()
    save(tmp_path / "again", merged, merged.base)
    texts = [
        lorax.generate(
            found.model.apply, found.base, None, ["a"], max_new_tokens=2, tokenizer=found.tokenizer
        )
        for found in (loaded, merged, load(tmp_path / "again"))
    ]
    assert texts[0] == texts[1] == texts[2]


def write_tokenizer(path, size):
    """A llama2.c tokenizer of the bytes alone."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{i:02X}>".encode() for i in range(256))]
    assert len(pieces) == size
    records = (struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    path.write_bytes(struct.pack("<i", max(map(len, pieces))) + b"".join(records))


def test_without_the_library_nothing_is_written(tmp_path, monkeypatch):
    loaded = load(FIXTURES / "llama")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    words = f"'{tmp_path / 'x'}' needs the safetensors library: pip install 'lorax-flax[hf]'"
    refused(tmp_path / "x", loaded.model, loaded.base, words)
    assert not any(tmp_path.iterdir())


def test_what_stands_beside_the_parameters_has_no_room(tmp_path):
    loaded = load(FIXTURES / "llama")
    prompt = {"embeddings": jnp.ones((2, 16))}
    params = {**loaded.base, "additions": prompt}
    refused(tmp_path / "x", loaded.model, params, "'additions/embeddings' stands beside")
