"""Which tiny models do the tests of adapter files share, with a base and a delta drawn by numpy?"""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lorax
from lorax.io.names import leaf_shapes
from lorax.io.peft_config import CONFIG_NAME, TENSORS_NAME
from lorax.io.tensors import read_tensors, write_tensors
from lorax.models.gpt2 import GPT2, GPT2Config
from lorax.models.llama import Llama, LlamaConfig
from lorax.models.roberta import Roberta, RobertaConfig

QUERY, VALUE = ".*/query/kernel", ".*/value/kernel"
HEAD = lorax.Full(where=("params/classifier/.*",))


_SIZES = {"vocab_size": 24, "dim": 16, "layers": 2, "heads": 4, "max_length": 16}


def llama(**fields: Any) -> Llama:
    """Two layers of width 16, two key heads for four query heads, an untied head."""
    return Llama(LlamaConfig(**_SIZES | {"kv_heads": 2, "hidden_dim": 20} | fields))


def gpt2(**fields: Any) -> GPT2:
    """Two layers of width 16, a tied head."""
    return GPT2(GPT2Config(**_SIZES | fields))


def roberta(**fields: Any) -> Roberta:
    """Two layers of width 16, a classification head of three labels."""
    head = {"hidden_dim": 20, "head": "classification", "labels": 3}
    return Roberta(RobertaConfig(**_SIZES | head | fields))


@functools.cache
def base_of(model: Any) -> dict[str, Any]:
    """A base of small normal numbers."""
    draw, tree = np.random.default_rng(0), {}
    for path, leaf in leaf_shapes(model).items():
        *folders, name = path.split("/")
        place = functools.reduce(lambda tree, key: tree.setdefault(key, {}), folders, tree)
        place[name] = jnp.asarray(0.3 * draw.normal(size=leaf.shape), leaf.dtype)
    return tree


@functools.cache
def delta_of(model: Any, adapter: lorax.Adapter, seed: int = 1) -> Any:
    """What `adapted.init` returns, every number drawn anew."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    init = lorax.adapt(model.apply, adapter).init
    shapes = jax.eval_shape(lambda base: init(jax.random.key(0), base, tokens), base_of(model))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), shapes)


def same(one: Any, other: Any) -> bool:
    """One structure, roles included, and every number the same bit for bit."""
    bits = lambda x, y: x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(bits, one, other)
    )


def config_in(folder: pathlib.Path) -> dict[str, Any]:
    """The fields of the adapter in `folder`."""
    return json.loads((folder / CONFIG_NAME).read_text("utf-8"))


def tensors_in(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Its tensors."""
    return read_tensors(folder / TENSORS_NAME)


def write(folder: pathlib.Path, config: dict[str, Any], tensors: dict[str, Any]) -> pathlib.Path:
    """A directory as PEFT writes it."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG_NAME).write_text(json.dumps(config), "utf-8")
    write_tensors(folder / TENSORS_NAME, tensors)
    return folder
