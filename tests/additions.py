"""Small models, their parameters, and every kind of addition to them. Shared by the tests."""

import dataclasses
import functools

import jax
import numpy as np

from lorax.models import GPT2, GPT2Config, Llama, LlamaConfig, Roberta, RobertaConfig

N, M, P = 3, 2, 4  # virtual tokens before the rows and inside them, keys before all others
VOCABULARY, DIM, HIDDEN, LAYERS = 32, 16, 24, 2
MODELS = {
    # two of four key-value heads, and a small base, so that the angles differ
    "llama": Llama(LlamaConfig(VOCABULARY, DIM, 2, 4, 2, HIDDEN, max_length=24, rope_theta=50.0)),
    "gpt2": GPT2(GPT2Config(VOCABULARY, DIM, 2, 4, hidden_dim=HIDDEN, max_length=24, tied=True)),
    "roberta": Roberta(RobertaConfig(VOCABULARY, DIM, 2, 4, HIDDEN, max_length=24)),
}
TOKENS = np.random.default_rng(1).integers(2, VOCABULARY, (2, 8))
WITH_INFIX = TOKENS.copy()
WITH_INFIX[:, 2], WITH_INFIX[:, 5] = VOCABULARY, VOCABULARY + 1


def draw(seed, *shape):
    """Numbers large enough that attention is far from uniform."""
    return (0.4 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def changed(name, **changes):
    """The model of that name with another config."""
    model = MODELS[name]
    return model.clone(config=dataclasses.replace(model.config, **changes))


@functools.cache
def params(name, **changes):
    """Parameters drawn by numpy: compiling the model's own initialisation takes long."""
    model = changed(name, **changes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def nested(flat):
    """{"a/b": 1} as {"a": {"b": 1}}."""
    tree = {}
    for path, value in flat.items():
        *folders, last = path.split("/")
        functools.reduce(lambda at, key: at.setdefault(key, {}), folders, tree)[last] = value
    return tree


def bottleneck(path, seed, width=DIM, rank=3):
    """The four arrays of one, by path."""
    shapes = {"down": (width, rank), "down_bias": (rank,), "up": (rank, width), "up_bias": (width,)}
    return {f"{path}/{part}": draw(seed + i, *s) for i, (part, s) in enumerate(shapes.items())}


def everything(name):
    """All kinds of additions at once, layer by layer."""
    config = MODELS[name].config
    flat = {"embeddings": draw(1, N, DIM), "infix": draw(2, M, DIM)}
    width = getattr(config, "kv_heads", config.heads) * config.head_dim
    for i in range(LAYERS):
        seed = 100 * i
        flat[f"layer_{i}/attention/key"] = draw(seed + 3, P, width)
        flat[f"layer_{i}/attention/value"] = draw(seed + 4, P, width)
        flat[f"layer_{i}/states"] = draw(seed + 5, N + M, DIM)
        flat |= bottleneck(f"layer_{i}/attention/out", seed + 10)
        flat |= bottleneck(f"layer_{i}/mlp/down", seed + 20)
        flat[f"layer_{i}/mlp/down/norm_scale"] = draw(seed + 30, DIM)
        flat[f"layer_{i}/mlp/down/norm_bias"] = draw(seed + 31, DIM)
    return nested(flat)
