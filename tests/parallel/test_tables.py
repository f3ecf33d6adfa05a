"""The rules of every family cover its models, and cut what takes the memory."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from lorax.core import paths
from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from lorax.models.lenet import LeNet
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.models.mlp import MLP
from lorax.models.roberta import Roberta
from lorax.models.roberta_config import RobertaConfig
from lorax.parallel.mesh import make_mesh
from lorax.parallel.rules import specs, ways
from lorax.parallel.tables import RULES

SIZES = {"vocab_size": 48, "dim": 16, "layers": 2, "heads": 4, "hidden_dim": 24}
MESH = make_mesh(1, 2, 2, devices=jax.devices()[:4])
TOKENS = jnp.zeros((1, 4), jnp.int32)
HEADS = (("none", True), ("classification", True), ("masked_lm", True), ("masked_lm", False))

MODELS: list = []
for one in (True, False):
    form = {"tied": one, "scan": one}
    MODELS += [("llama", Llama(LlamaConfig(**SIZES, kv_heads=2, **form)))]
    MODELS += [("gpt2", GPT2(GPT2Config(**SIZES, **form)))]
for head, one in HEADS:
    MODELS += [("roberta", Roberta(RobertaConfig(**SIZES, head=head, tied=one, scan=one)))]


def cut(base, found):
    """The share of the base that a device has."""
    leaves = paths.flatten(base)
    sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
    own = (n / math.prod(ways(e, MESH) for e in found[path]) for path, n in sizes.items())
    return sum(own) / sum(sizes.values())


@pytest.mark.parametrize(("family", "model"), MODELS)
def test_the_transformers_are_covered_and_cut(family, model):
    base = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    found = specs(base, RULES[family], MESH)
    assert found.keys() == paths.flatten(base).keys()
    # tables of vocabularies that are odd are cut by fsdp alone
    assert cut(base, found) < (0.3 if family == "llama" else 0.48)
    for path, spec in found.items():
        if "/layers/" in path:
            assert spec[0] is None, path


@pytest.mark.parametrize("family", ["llama", "gpt2", "roberta"])
def test_what_one_product_gives_in_parts_the_next_takes_in_parts(family):
    model = next(model for name, model in MODELS if name == family)
    base = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    found = specs(base, RULES[family], MESH)
    for path, spec in found.items():
        if path.endswith(("query/kernel", "key/kernel", "value/kernel", "qkv/kernel", "up/kernel")):
            assert spec[-2:] == ("fsdp", "tensor"), path
        if path.endswith(("/attention/out/kernel", "down/kernel")):
            assert spec[-2:] == ("tensor", "fsdp"), path


@pytest.mark.parametrize(
    ("family", "model", "inputs"),
    [("mlp", MLP((8, 3)), jnp.zeros((1, 4))), ("lenet", LeNet(), jnp.zeros((1, 28, 28, 1)))],
)
def test_the_small_ones_are_whole(family, model, inputs):
    base = jax.eval_shape(model.init, jax.random.key(0), inputs)
    assert all(not any(spec) for spec in specs(base, RULES[family], MESH).values())


@pytest.mark.parametrize(("family", "vocabulary"), [("gpt2", 50257), ("roberta", 50265)])
def test_published_vocabularies_that_are_odd_are_no_obstacle(family, vocabulary):
    table = {
        "params": {"embed": {"embedding": jax.ShapeDtypeStruct((vocabulary, 768), jnp.float32)}}
    }
    assert specs(table, RULES[family], MESH) == {"params/embed/embedding": P(None, "fsdp")}
