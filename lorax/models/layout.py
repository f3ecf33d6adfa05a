"""One tree a layer, or one stacked tree? The two parameter layouts, and the way between.

``layer_0 … layer_{L-1}`` (``config.scan=False``) against ``layers`` with a leading layer axis
(``config.scan=True``). Both directions only move bits.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.models.config import TransformerConfig

Params = Mapping[str, Any]

_LAYER = re.compile(r"layer_\d+")


def stack_layers(params: Params, config: TransformerConfig) -> dict[str, Any]:
    """The parameters of the unrolled model in the layout of the scanned one.

    ``params`` is the value of ``variables["params"]`` with ``layer_0 … layer_{L-1}``; the result
    has ``layers`` instead, each leaf (L, ...), other entries are passed on. Lossless and pure;
    inverse of `unstack_layers`. ``config.layers`` is L, ``config.scan`` does not matter.

    Raises ValueError if the layers are not exactly those of ``config``, or differ in structure.
    """
    names = [f"layer_{i}" for i in range(config.layers)]
    found = [name for name in params if _LAYER.fullmatch(name)]
    if set(found) != set(names) or "layers" in params:
        raise ValueError(
            f"expected layer_0 … layer_{config.layers - 1} and no stacked layers, got "
            f"{sorted(params)}: pass variables['params'] of a model with scan=False and "
            f"layers={config.layers}"
        )
    rest = {name: value for name, value in params.items() if name not in names}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in names))
    return {**rest, "layers": stacked}


def unstack_layers(params: Params, config: TransformerConfig) -> dict[str, Any]:
    """The parameters of the scanned model in the layout of the unrolled one.

    Inverse of `stack_layers`: ``layers`` with leaves (L, ...) becomes ``layer_0 … layer_{L-1}``.
    Lossless and pure. Raises ValueError if there is no ``layers`` or a leaf has another L.
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params.get("layers", {}))}
    if lengths != {(config.layers,)}:
        raise ValueError(
            f"expected one stacked entry 'layers' with a leading axis of {config.layers}, got "
            f"{sorted(params)} with leading axes {sorted(lengths)}: pass variables['params'] of a "
            f"model with scan=True and layers={config.layers}"
        )
    rest = {name: value for name, value in params.items() if name != "layers"}
    unstacked = {
        f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        for i in range(config.layers)
    }
    return {**rest, **unstacked}
