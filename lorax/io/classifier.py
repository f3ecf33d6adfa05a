"""What if the file has no classifier, or one for other labels? It is drawn from a key.

Weights as in transformers: normal, of a fixed deviation, biases zero. Each leaf's draw depends on
the key and the leaf's path alone.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.errors import LoraxError
from lorax.core.paths import key_for
from lorax.io.assemble import Part, with_fields
from lorax.io.names import leaf_shapes
from lorax.io.tensors import Source

HEAD_DEVIATION = 0.02
"""Standard deviation of a classifier's weights at the start, as in transformers."""


def drawn_parts(stored: Any, model: Any, dtype: np.dtype, key: jax.Array | None) -> dict[str, Part]:
    """The leaves of `model` that the file cannot give, by path; none where it gives all.

    Args:
      stored: the model as the file has it.
      model: as it is wanted.
      dtype: of what is drawn.
      key: to draw from.

    Raises:
      LoraxError: another head than a classifier is missing, or there is no key.
    """
    if getattr(model.config, "head", None) == "masked_lm" != stored.config.head:
        raise LoraxError(
            f"head='masked_lm', but the file holds the head {stored.config.head!r}: expected a "
            "masked language model; only a classifier is drawn anew"
        )
    if not is_new(stored, model):
        return {}
    if key is None:
        raise LoraxError(
            f"the file holds no classifier for {model.config.labels} labels: expected a key to "
            "draw it from; pass key=jax.random.key(0)"
        )
    shapes = leaf_shapes(with_fields(model, scan=True))
    return {
        path: Part(Source(dtype, leaf.shape, partial(_draw, path, leaf.shape, dtype, key)), "drawn")
        for path, leaf in shapes.items()
        if in_classifier(path)
    }


def is_new(stored: Any, model: Any) -> bool:
    """Has `model` a classifier that `stored` has not?"""
    if getattr(model.config, "head", None) != "classification":
        return False
    return (stored.config.head, stored.config.labels) != ("classification", model.config.labels)


def in_classifier(path: str) -> bool:
    """Is this a leaf of the classifier?"""
    return path.startswith("params/classifier/")


def _draw(path: str, shape: tuple[int, ...], dtype: np.dtype, key: jax.Array) -> np.ndarray:
    if path.endswith("/bias"):
        return np.zeros(shape, dtype)
    drawn = jax.random.normal(key_for(key, path), shape, jnp.float32)
    return np.asarray(HEAD_DEVIATION * drawn).astype(dtype)
