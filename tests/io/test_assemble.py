"""From tensors to parameters: nothing missing, nothing more, one leaf at a time, cast, placed."""

import dataclasses
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.core.paths import flatten
from lorax.io.assemble import assemble, match, stored_dtype, with_fields
from lorax.io.names import entries, leaf_shapes
from lorax.io.tensors import Source
from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.models.roberta import Roberta
from lorax.models.roberta_config import RobertaConfig

LLAMA = Llama(LlamaConfig(48, 16, 2, 4, 2, 24, max_length=32))
TIED = with_fields(LLAMA, tied=True)
GPT = GPT2(GPT2Config(48, 16, 2, 4, max_length=32))
ROBERTA = Roberta(RobertaConfig(48, 16, 2, 4, 24, max_length=30, head="masked_lm"))
MODELS = [LLAMA, TIED, GPT, ROBERTA]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)


def source(array):
    array = np.asarray(array)
    return Source(array.dtype, array.shape, lambda: array, "a.file")


def sources_of(model, dtype=np.float32):
    """Tensors as in a file of `model`, each with numbers of its own."""
    rng, shapes, found = np.random.default_rng(0), leaf_shapes(model), {}
    for entry in entries(model):
        shape = shapes[entry.path].shape
        shape = shape[::-1] if entry.kind == "linear" else shape
        found[entry.name] = source(rng.normal(size=shape).astype(dtype))
    return found


def refused(model, sources, *words):
    with pytest.raises(LoraxError) as caught:
        match(model, sources, "folder")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@each_model
def test_every_leaf_gets_its_tensor_turned_as_its_kind_says(model):
    sources = sources_of(model)
    leaves = flatten(assemble(model, match(model, sources, "folder")))
    shapes = leaf_shapes(model)
    assert {path: leaf.shape for path, leaf in leaves.items()} == {
        path: leaf.shape for path, leaf in shapes.items()
    }
    for entry in entries(model):
        theirs = sources[entry.name].read()
        ours = np.asarray(leaves[entry.path])
        assert (ours == (theirs.T if entry.kind == "linear" else theirs)).all()


@each_model
def test_the_scanned_layout_is_the_other_one_stacked(model):
    parts = match(model, sources_of(model), "folder")
    plain = assemble(model, parts)
    scanned = assemble(with_fields(model, scan=True), parts)
    layers = [plain["params"].pop(f"layer_{i}") for i in range(2)]
    stacked = scanned["params"].pop("layers")
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, scanned))
    assert jax.tree.all(
        jax.tree.map(lambda s, *ls: np.array_equal(s, np.stack(ls)), stacked, *layers)
    )


def test_leaves_are_read_largest_first_and_one_at_a_time():
    alive, most, order = set(), [], []

    def watched(name, inner):
        def read():
            array = inner.read().copy()
            alive.add(name)
            weakref.finalize(array, alive.discard, name)
            most.append(len(alive))
            order.append(inner.nbytes)
            return array

        return inner._replace(read=read)

    sources = {name: watched(name, s) for name, s in sources_of(LLAMA).items()}
    scanned = with_fields(LLAMA, scan=True)
    assemble(scanned, match(LLAMA, sources, "folder"), dtype=jnp.bfloat16)
    assert max(most) <= 2 and len(order) == len(sources)
    assert order[0] == max(order) and order[-1] == min(order)


def test_files_without_the_encoders_prefix_are_read():
    for model, prefix in ((GPT, "transformer."), (ROBERTA, "roberta."), (LLAMA, "model.")):
        sources = sources_of(model)
        bare = {name.removeprefix(prefix): s for name, s in sources.items()}
        assert set(bare) != set(sources)
        wanted, found = (match(model, s, "folder") for s in (sources, bare))
        assert all(found[path].source is part.source for path, part in wanted.items())
    headless = with_fields(ROBERTA, head="none")
    bare = sources_of(headless)
    prefixed = {f"roberta.{name}": s for name, s in bare.items()}
    assert set(match(headless, prefixed, "folder")) == set(match(headless, bare, "folder"))


@pytest.mark.parametrize(
    "model, names",
    [
        (LLAMA, ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")),
        (GPT, ("h.0.attn.bias", "transformer.h.1.attn.bias", "transformer.h.1.attn.masked_bias")),
        (
            ROBERTA,
            (
                "roberta.embeddings.position_ids",
                "roberta.pooler.dense.weight",
                "roberta.pooler.dense.bias",
            ),
        ),
    ],
    ids=["llama", "gpt2", "roberta"],
)
def test_known_buffers_are_passed_over(model, names):
    sources = sources_of(model)
    extra = {name: source(np.zeros((1, 7), np.uint8)) for name in names}
    assert match(model, sources | extra, "folder") == match(model, sources, "folder")


def test_missing_unexpected_and_misshapen_tensors_are_named():
    sources = sources_of(LLAMA)
    name = "model.layers.1.mlp.up_proj.weight"
    refused(LLAMA, {n: s for n, s in sources.items() if n != name}, "'folder' lacks", name, "near")
    unknown = {"model.layers.2.mlp.up_proj.weight": sources[name]}
    refused(LLAMA, sources | unknown, "'a.file': unexpected tensor", "layers.2", "near")
    refused(LLAMA, sources | {"lm_head.bias": sources["model.norm.weight"]}, "unexpected")
    turned = {name: source(sources[name].read().T)}
    refused(LLAMA, sources | turned, "'a.file'", name, "(16, 24), expected (24, 16)")
    counted = {name: source(np.zeros((24, 16), np.int8))}
    refused(LLAMA, sources | counted, name, "is int8", "not quantised")


def test_both_names_of_one_tensor_are_one_too_many():
    sources = sources_of(GPT)
    refused(GPT, sources | {"wte.weight": sources["transformer.wte.weight"]}, "unexpected", "wte")


def test_a_config_with_more_layers_than_tensors_costs_nothing():
    bomb = with_fields(LLAMA, layers=2**31 - 1)
    refused(bomb, sources_of(LLAMA), "holds 21 tensors", "2147483647 layers")
    wide = with_fields(LLAMA, vocab_size=2**31 - 1, hidden_dim=2**31 - 1)
    refused(wide, sources_of(LLAMA), "has shape (48, 16), expected (2147483647, 16)")


def test_a_tied_copy_must_be_one_bit_for_bit():
    sources = sources_of(TIED)
    embedding = sources["model.embed_tokens.weight"].read()
    copied = sources | {"lm_head.weight": source(embedding.copy())}
    assert match(TIED, copied, "folder") == match(TIED, sources, "folder")
    other = embedding.copy()
    other[3, 4] = np.nextafter(other[3, 4], np.float32(9))
    for wrong in (other, embedding[:-1], embedding.astype(np.float64)):
        copied["lm_head.weight"] = source(wrong)
        refused(TIED, copied, "'lm_head.weight' differs", '"tie_word_embeddings": false')
    nan = np.full_like(embedding, np.nan)
    same = sources | {n: source(nan) for n in ("lm_head.weight", "model.embed_tokens.weight")}
    assert match(TIED, same, "folder")


def test_robertas_decoder_may_repeat_embedding_and_bias():
    sources = sources_of(ROBERTA)
    copies = {
        "lm_head.decoder.weight": sources["roberta.embeddings.word_embeddings.weight"],
        "lm_head.decoder.bias": sources["lm_head.bias"],
    }
    assert match(ROBERTA, sources | copies, "folder") == match(ROBERTA, sources, "folder")
    wrong = copies | {"lm_head.decoder.bias": source(np.zeros(48, np.float32))}
    refused(ROBERTA, sources | wrong, "'lm_head.decoder.bias' differs")


@pytest.mark.parametrize("scan", [False, True])
def test_leaves_are_cast_as_jax_casts(scan):
    model = with_fields(LLAMA, scan=scan)
    parts = match(LLAMA, sources_of(LLAMA), "folder")
    kept, cast = assemble(model, parts), assemble(model, parts, dtype=jnp.bfloat16)
    wanted = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), kept)
    assert jax.tree.all(jax.tree.map(np.array_equal, cast, wanted))
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {jnp.dtype(jnp.bfloat16)}


def test_sixteen_bits_come_through_as_they_are():
    for dtype in (jnp.bfloat16, np.float16):
        sources = sources_of(LLAMA, dtype)
        parts = match(LLAMA, sources, "folder")
        assert stored_dtype(parts) == dtype
        leaf = assemble(LLAMA, parts)["params"]["norm"]["scale"]
        assert np.asarray(leaf).tobytes() == sources["model.norm.weight"].read().tobytes()


def test_mixed_dtypes_are_kept_apart_but_not_stacked():
    sources = sources_of(LLAMA, jnp.bfloat16)
    name = "model.layers.1.input_layernorm.weight"
    sources[name] = source(sources[name].read().astype(np.float32))
    parts = match(LLAMA, sources, "folder")
    assert stored_dtype(parts) == jnp.bfloat16
    layer = assemble(LLAMA, parts)["params"]["layer_1"]
    assert layer["attention_norm"]["scale"].dtype == jnp.float32
    scanned = with_fields(LLAMA, scan=True)
    with pytest.raises(LoraxError, match=r"'params/layers/attention_norm/scale' are stored in \["):
        assemble(scanned, parts)
    assemble(scanned, parts, dtype=jnp.bfloat16)


def test_what_float16_or_32_bits_cannot_hold_is_refused():
    sources = sources_of(LLAMA)
    sources["model.norm.weight"] = source(np.full(16, 1e5, np.float32))
    parts = match(LLAMA, sources, "folder")
    with pytest.raises(LoraxError, match="'params/norm/scale' holds numbers that float16 cannot"):
        assemble(LLAMA, parts, dtype=np.float16)
    wide = match(LLAMA, sources_of(LLAMA, np.float64), "folder")
    with pytest.raises(LoraxError, match='float64, which JAX would cut.*dtype="float32"'):
        assemble(LLAMA, wide)
    assemble(LLAMA, wide, dtype=np.float32)


def test_leaves_go_where_they_are_asked_to():
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    names = jax.sharding.PartitionSpec
    parts = match(LLAMA, sources_of(LLAMA), "folder")
    plain = flatten(assemble(LLAMA, parts))

    def split(path, shape):
        spec = names("d") if shape[0] % 2 == 0 and path.endswith("kernel") else names()
        return jax.sharding.NamedSharding(mesh, spec)

    for path, leaf in flatten(assemble(LLAMA, parts, sharding=split)).items():
        assert leaf.sharding == split(path, leaf.shape)
        assert np.array_equal(leaf, plain[path])
    one = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    leaves = jax.tree.leaves(assemble(LLAMA, parts, sharding=one))
    assert all(leaf.devices() == {jax.devices()[1]} for leaf in leaves)


def test_each_leaf_is_replaced_before_the_next_one_is_read():
    alive, most = set(), []
    scanned = with_fields(LLAMA, scan=True)
    parts = match(LLAMA, sources_of(LLAMA), "folder")

    def halved(path, leaf):
        alive.add(path)
        weakref.finalize(leaf, alive.discard, path)
        most.append(len(alive))
        return {"half": leaf.astype(jnp.float16)}

    plain = flatten(assemble(scanned, parts))
    found = flatten(assemble(scanned, parts, each=halved))
    assert set(found) == {f"{path}/half" for path in plain}
    for path, leaf in plain.items():
        assert np.array_equal(found[f"{path}/half"], leaf.astype(jnp.float16))
    assert most == [1] * len(plain)


def test_with_fields_changes_the_config_alone():
    changed = with_fields(LLAMA, scan=True)
    assert type(changed) is Llama
    assert changed.config == dataclasses.replace(LLAMA.config, scan=True)
