"""How do the layers of a model run? One by one or as one scan, kept or recomputed."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lorax.models.config import TransformerConfig


def run_layers(
    block: type[nn.Module],
    config: TransformerConfig,
    carry: Any,
    *shared: Any,
    numbered: bool = False,
    **fields: Any,
) -> Any:
    """All ``config.layers`` layers in order, called inside a compact method; returns the carry.

    A layer is ``block(config=config, **fields)`` and maps ``(carry, number, *shared)`` to
    ``(carry, None)``; ``number`` is which layer it is where ``numbered``, else None under
    ``config.scan``. Parameters are ``layer_0 … layer_{L-1}``, or under scan ``layers`` with a
    leading axis L. ``config.remat`` recomputes a layer in the backward pass. Every layer draws its
    own dropout.
    """
    # Inside a scan XLA cannot merge the recomputation with the forward pass anyway.
    layer: Any = nn.remat(block, prevent_cse=not config.scan) if config.remat else block
    if not config.scan:
        for i in range(config.layers):
            carry, _ = layer(config=config, name=f"layer_{i}", **fields)(carry, i, *shared)
        return carry
    scanned = nn.scan(
        layer,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *(nn.broadcast for _ in shared)),
        length=config.layers,
    )
    # Where no layer asks for its number, keep it out of the program.
    numbers = jnp.arange(config.layers) if numbered else None
    carry, _ = scanned(config=config, name="layers", **fields)(carry, numbers, *shared)
    return carry
