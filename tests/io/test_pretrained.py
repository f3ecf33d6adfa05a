"""Models of other people: the same logits here as there, and every bad input in one line."""

import io
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError, LoraxWarning
from lorax.core.paths import flatten
from lorax.io import pretrained
from lorax.io.hf_files import CONFIG, INDEX, SINGLE
from lorax.io.names import leaf_shapes
from lorax.io.pretrained import Pretrained, load
from lorax.io.pretrained_save import save
from lorax.io.tensors import read_tensors, write_tensors
from lorax.models.llama import Llama
from lorax.models.llama_config import STORIES_260K, LlamaConfig
from tests.shared_data import shared, shared_path

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "models"


def logits(loaded, ids, mask=None):
    return np.asarray(loaded.model.apply(loaded.base, jnp.asarray(ids), mask=mask))


def copy(name, folder):
    """A fixture without its golden logits, to be damaged."""
    shutil.copytree(FIXTURES / name, folder, ignore=shutil.ignore_patterns("golden.npz"))
    return folder


def change_config(folder, **changes):
    table = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(table))


def change_tensors(folder, **changes):
    """Tensors replaced or, by `...`, removed."""
    tensors = read_tensors(folder / SINGLE) | changes
    write_tensors(folder / SINGLE, {n: t for n, t in tensors.items() if t is not ...})


def refused(*words, source, **options):
    with pytest.raises(LoraxError) as caught:
        load(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# What is read is the model


@pytest.mark.parametrize("name", ["gpt2", "llama_sharded", "roberta_regression"])
@pytest.mark.parametrize("scan", [False, True])
def test_logits_are_those_of_transformers(name, scan):
    golden = np.load(FIXTURES / name / "golden.npz")
    loaded = load(FIXTURES / name, scan=scan)
    mask = golden["mask"].astype(bool)
    ours, theirs = logits(loaded, golden["ids"], mask), golden["base"]
    if ours.ndim == 3:
        ours, theirs = ours[mask], theirs[mask]
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    assert loaded.config is loaded.model.config and loaded.config.scan is scan


@pytest.mark.parametrize("scan", [False, True])
def test_stories260k_says_what_its_golden_logits_say(scan):
    golden = np.load(io.BytesIO(shared("stories260K/golden_logits.npz.xz")))
    loaded = load(shared_path("stories260K/stories260K.bin.xz"), scan=scan)
    assert loaded.config == pretrained.with_fields(Llama(STORIES_260K), scan=scan).config
    found = logits(loaded, golden["ids"][None])[0]
    assert np.abs(found - golden["logits"]).max() < 1e-4
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.decode(golden["ids"].tolist()).startswith("Once upon a time, there was")


def test_stories260k_survives_a_trip_through_hugging_faces_format(tmp_path):
    loaded = load(shared_path("stories260K/stories260K.bin.xz"))
    plain = tmp_path / "stories.bin"
    plain.write_bytes(shared("stories260K/stories260K.bin.xz"))
    save(tmp_path / "hf", loaded.model, loaded.base)
    for source in (plain, tmp_path / "hf"):
        again = load(source)
        assert again.config == loaded.config and again.tokenizer is None
        assert jax.tree.all(jax.tree.map(np.array_equal, again.base, loaded.base))


def test_the_tokenizer_beside_a_bin_is_found_by_its_size(tmp_path):
    source = shared_path("stories260K/tok512.bin")
    (tmp_path / "x.bin").write_bytes(shared("stories260K/stories260K.bin.xz"))
    (tmp_path / "tok999.bin").write_bytes(b"another's")
    assert load(tmp_path / "x.bin").tokenizer is None
    for name in ("tokenizer.bin", "tok512.bin"):
        shutil.copy(source, tmp_path / name)
        assert load(tmp_path / "x.bin").tokenizer.vocab_size == 512


def test_the_first_gpt2_files_have_no_prefix(tmp_path):
    folder, whole = copy("gpt2", tmp_path / "x"), load(FIXTURES / "gpt2")
    tensors = read_tensors(folder / SINGLE)
    bare = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    buffers = {f"h.{i}.attn.bias": np.ones((1, 1, 32, 32), np.uint8) for i in range(2)}
    write_tensors(folder / SINGLE, bare | buffers)
    assert jax.tree.all(jax.tree.map(np.array_equal, load(folder).base, whole.base))


def test_dtype_casts_and_computes_in_it():
    loaded = load(FIXTURES / "llama", dtype="bfloat16", remat=True)
    assert (loaded.config.dtype, loaded.config.param_dtype) == ("bfloat16", "bfloat16")
    assert loaded.config.remat
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.base)} == {jnp.dtype("bfloat16")}
    for wrong in ("int8", "float8_e4m3fn", "nothing", object()):
        refused("dtype is", "dtype='bfloat16'", source=FIXTURES / "llama", dtype=wrong)


def test_what_is_stored_in_sixteen_bits_stays(tmp_path):
    half = load(FIXTURES / "llama", dtype="bfloat16")
    save(tmp_path / "x", half.model, half.base)
    again = load(tmp_path / "x", scan=True)
    assert again.config.dtype == again.config.param_dtype == "bfloat16"
    assert again.table["torch_dtype"] == "bfloat16"
    assert read_tensors(tmp_path / "x" / SINGLE)["lm_head.weight"].dtype == jnp.bfloat16


def test_leaves_are_placed_by_path_and_shape():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[2])
    asked = {}

    def place(path, shape):
        asked[path] = shape
        return sharding

    loaded = load(FIXTURES / "llama", scan=True, sharding=place)
    assert all(leaf.devices() == {jax.devices()[2]} for leaf in jax.tree.leaves(loaded.base))
    shapes = leaf_shapes(loaded.model)
    assert asked == {path: leaf.shape for path, leaf in shapes.items()}


# What is asked for beside it


@pytest.mark.parametrize(
    "name, head",
    [
        ("gpt2", "lm_head/kernel"),
        ("llama_tied", "lm_head/kernel"),
        ("roberta_masked_lm", "lm_head/out/kernel"),
    ],
)
def test_untied_the_head_is_a_copy_of_the_embedding(name, head):
    tied, untied = load(FIXTURES / name), load(FIXTURES / name, tied=False)
    assert not untied.config.tied and tied.config.tied
    leaves = flatten(untied.base)
    embedding = leaves["params/embed/embedding"]
    assert np.array_equal(leaves.pop(f"params/{head}"), embedding.T)
    assert set(leaves) == set(flatten(tied.base))
    ids = np.load(FIXTURES / name / "golden.npz")["ids"][:1]
    assert np.allclose(logits(tied, ids), logits(untied, ids), atol=1e-5)


def test_a_head_of_its_own_cannot_be_tied():
    refused("tied=True", "head of its own", source=FIXTURES / "gpt2_untied", tied=True)
    assert load(FIXTURES / "gpt2_untied", tied=False).config.tied is False


def test_a_classifier_is_drawn_from_the_key_and_says_so():
    source, key = FIXTURES / "roberta_masked_lm", jax.random.key(1)
    options = {"head": "classification", "labels": 3}
    refused("no classifier for 3 labels", "key=jax.random.key(0)", source=source, **options)
    with pytest.warns(LoraxWarning, match="no classifier for 3 labels: params/classifier/dense"):
        loaded = load(source, **options, key=key, scan=True)
    with pytest.warns(LoraxWarning):
        again = load(source, **options, key=key)
    drawn = {p: x for p, x in flatten(loaded.base).items() if p.startswith("params/classifier")}
    assert set(loaded.drawn) == set(drawn) and len(drawn) == 4
    assert drawn["params/classifier/out/kernel"].shape == (16, 3)
    for path, leaf in drawn.items():
        assert np.array_equal(leaf, flatten(again.base)[path])
        assert (leaf == 0).all() if path.endswith("bias") else 0.01 < leaf.std() < 0.03
    stored = load(source)
    assert stored.drawn == () and stored.config.head == "masked_lm"
    embedding = loaded.base["params"]["embed"]["embedding"]
    assert np.array_equal(embedding, stored.base["params"]["embed"]["embedding"])
    assert set(flatten(loaded.base)) == set(leaf_shapes(loaded.model))


def test_a_classifier_in_the_file_is_kept_unless_labels_differ():
    source = FIXTURES / "roberta_classification"
    kept = load(source, head="classification", labels=2)
    assert kept.drawn == ()
    refused("no classifier for 5 labels", source=source, labels=5)
    with pytest.warns(LoraxWarning, match="must be trained"):
        drawn = load(source, labels=5, key=jax.random.key(0))
    assert drawn.base["params"]["classifier"]["out"]["kernel"].shape == (16, 5)


def test_a_head_can_be_left_out_but_no_other_drawn():
    loaded = load(FIXTURES / "roberta_masked_lm", head="none")
    assert logits(loaded, [[5, 6]]).shape == (1, 2, 16)
    source = FIXTURES / "roberta_classification"
    refused("head='masked_lm'", "only a classifier", source=source, head="masked_lm")
    refused("head is 'pooled'", source=source, head="pooled")
    refused("labels=3 without a classifier", source=FIXTURES / "roberta_masked_lm", labels=3)
    refused("labels must be a positive", source=source, labels=0)
    for options in ({"head": "classification"}, {"labels": 2}):
        refused("are for RoBERTa, this is a Llama", source=FIXTURES / "llama", **options)


def test_dropout_replaces_the_rate_of_the_file():
    assert load(FIXTURES / "gpt2").config.dropout == 0.1
    assert load(FIXTURES / "gpt2", dropout=0.0).config.dropout == 0.0
    refused("model without dropout", source=FIXTURES / "llama", dropout=0.1)


def test_a_hub_name_records_its_commit(monkeypatch, tmp_path):
    commit = "0123456789abcdef"
    folder = copy("gpt2", tmp_path / commit)
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: str(folder))
    monkeypatch.chdir(tmp_path)
    loaded = load("org/model", revision="main")
    assert isinstance(loaded, Pretrained)
    assert (loaded.source, loaded.commit, loaded.folder) == ("org/model", commit, folder)
    assert loaded.table["model_type"] == "gpt2"
    assert "embedding" not in repr(loaded)


# What is damaged, hostile or not there


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


# What it takes

MEASURE = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from lorax.io.pretrained import load
jax.block_until_ready(jnp.zeros(3))
bytes_held = 0
if len(sys.argv) > 1:
    base = load(sys.argv[1], **json.loads(sys.argv[2])).base
    bytes_held = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").open())
print(bytes_held, 1024 * int(status["VmHWM"].split()[0]))
"""


def measure(*arguments):
    """Bytes of the parameters, and the most that the process ever had resident.

    Not ru_maxrss: a child inherits that of the process it was forked from, which is pytest.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_loading_takes_at_most_1_3_times_the_model(tmp_path):
    """190 MB in 16 bits: as stored, stacked, and cast to twice the size."""
    model = Llama(LlamaConfig(8000, 768, 12, 12, 12, 2048, scan=True))
    shapes = leaf_shapes(model)
    params: dict = {}
    for path, leaf in shapes.items():
        *folders, name = path.split("/")
        inner = params
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = np.broadcast_to(jnp.ones((), jnp.bfloat16), leaf.shape)
    save(tmp_path / "x", model, params)
    _, before = measure()
    for options in ({}, {"scan": True}, {"dtype": "float32"}):
        held, most = measure(str(tmp_path / "x"), json.dumps(options))
        assert held > 150e6
        assert most - before <= 1.3 * held, (options, held, most - before)
