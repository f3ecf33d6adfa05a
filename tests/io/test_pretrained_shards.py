"""Parameters straight into shards: bit for bit, each byte read once, and no more than is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError, LoraxWarning
from lorax.core.paths import flatten
from lorax.io import assemble
from lorax.io.hf_files import tensors_of
from lorax.io.pretrained import load
from lorax.io.pretrained_save import save
from lorax.io.regions import local_regions
from lorax.parallel.layout import Layout
from lorax.parallel.mesh import make_mesh
from lorax.parallel.tables import RULES
from tests.io.counting import counted
from tests.io.several import together
from tests.io.tiny import base_of, gpt2, llama, roberta

MODELS = {
    "llama": llama(),
    "llama tied": llama(tied=True, dtype="bfloat16", param_dtype="bfloat16"),
    "gpt2": gpt2(),
    "roberta": roberta(),
    "roberta masked": roberta(head="masked_lm"),
}
MESHES = {"4": {"fsdp": 4}, "2x2": {"fsdp": 2, "tensor": 2}}


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def wanted(family, mesh):
    """Where each leaf goes by the project's own rules, as `load` takes it."""
    layout = Layout(make_mesh(**MESHES[mesh]), RULES[family.partition(" ")[0]])
    return lambda path, shape: layout.base({path: jax.ShapeDtypeStruct(shape, jnp.float32)})[path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every model as a file of somebody else's."""
    root = tmp_path_factory.mktemp("models")
    for name, model in MODELS.items():
        save(root / name, model, base_of(model))
    return root


@pytest.mark.parametrize("scan, mesh", [(False, "2x2"), (True, "4"), (True, "2x2")])
@pytest.mark.parametrize("name", MODELS)
def test_shards_hold_what_the_leaves_hold_and_each_byte_is_read_once(folders, name, scan, mesh):
    sharding = wanted(name, mesh)
    plain = flatten(load(folders / name, scan=scan).base)
    with counted() as count:
        sharded = flatten(load(folders / name, scan=scan, sharding=sharding).base)
    for path, leaf in sharded.items():
        assert leaf.sharding == sharding(path, leaf.shape) and leaf.dtype == plain[path].dtype
        assert np.asarray(leaf).tobytes() == np.asarray(plain[path]).tobytes(), path
    assert sum(count.values()) == size(plain)


@pytest.mark.parametrize("name, scan", [(name, True) for name in MODELS] + [("llama", False)])
def test_one_of_four_devices_needs_a_quarter(folders, name, scan, monkeypatch):
    """What a host would read that has the last of the four shards."""
    most = []

    def last_alone(shape, sharding, read, path):
        area = list(local_regions(sharding, shape))[-1]
        most.append(read(area).nbytes)
        return jnp.zeros(())

    plain = load(folders / name).base
    monkeypatch.setattr(assemble, "place_regions", last_alone)
    with counted() as count:
        load(folders / name, scan=scan, sharding=wanted(name, "4"))
    vectors = sum(leaf.nbytes for leaf in jax.tree.leaves(plain) if leaf.ndim == 1)
    assert 0.25 * size(plain) <= sum(count.values()) <= 0.25 * size(plain) + vectors
    assert sum(count.values()) == sum(most)  # and nothing is on the host beside it


def test_a_cast_a_head_of_its_own_and_a_drawn_classifier_are_cut_too(folders):
    sharding = wanted("llama", "2x2")
    with counted() as count:
        loaded = load(folders / "llama tied", tied=False, dtype="float32", sharding=sharding)
    whole = load(folders / "llama tied", tied=False, dtype="float32")
    head = loaded.base["params"]["lm_head"]["kernel"]
    assert head.sharding == sharding("params/lm_head/kernel", head.shape)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.base, whole.base))
    assert sum(count.values()) == size(whole.base) // 2
    options = {"head": "classification", "labels": 3, "key": jax.random.key(3)}
    with pytest.warns(LoraxWarning, match="drawn from the key"):
        whole = load(folders / "roberta masked", **options)
        cut = load(folders / "roberta masked", sharding=wanted("roberta", "4"), **options)
    assert jax.tree.all(jax.tree.map(np.array_equal, cut.base, whole.base))


def test_hosts_share_the_comparison_of_a_tied_copy(folders):
    """A row that differs is found by the one of them whose share it is, however many they are."""
    model = MODELS["llama tied"]
    sources = tensors_of(folders / "llama tied")
    embedding = sources["model.embed_tokens.weight"]
    other = embedding.read().copy()
    other[17] += 1
    copy = embedding._replace(read=lambda: other, read_region=None)
    for count in (1, 3):
        found = []
        for index in range(count):
            try:
                assemble.match(model, sources | {"lm_head.weight": copy}, "x", (index, count))
            except LoraxError:
                found.append(index)
        assert len(found) == 1


@pytest.mark.runs
def test_each_of_four_processes_reads_a_quarter(folders):
    together(4, folders, "load_a_quarter")
