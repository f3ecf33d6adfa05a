"""Models of other people: the same logits here as there, and what may be asked for beside them."""

import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxWarning
from lorax.core.paths import flatten
from lorax.io import pretrained
from lorax.io.hf_files import SINGLE
from lorax.io.names import leaf_shapes
from lorax.io.pretrained import Pretrained, load
from lorax.io.pretrained_save import save
from lorax.io.tensors import read_tensors, write_tensors
from lorax.models.llama import Llama
from lorax.models.llama_config import STORIES_260K
from tests.pretrained_files import FIXTURES, copy, refused
from tests.shared_data import shared, shared_path


def logits(loaded, ids, mask=None):
    return np.asarray(loaded.model.apply(loaded.base, jnp.asarray(ids), mask=mask))


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
