"""How do the layers of a model run? One by one or as one scan, kept or recomputed."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorax.models.config import TransformerConfig

PRODUCT = "product"
"""What a transform that makes several products of one names their sum (`checkpoint_name`)."""

Policy = Callable[..., Any]

_policies = jax.checkpoint_policies
_named = _policies.save_only_these_names(PRODUCT)
_sent_away = _policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[PRODUCT],
    offload_src="device",
    offload_dst="pinned_host",
)
_dots_away = _policies.offload_dot_with_no_batch_dims("device", "pinned_host")


def _is_weight_product(primitive: Any, *operands: Any, **params: Any) -> bool:
    """A dot without batch axes, as products with weights are and those of attention are not.

    One whose result is wider than its operands is a part of a named sum.
    """
    if primitive.name != "dot_general" or any(params["dimension_numbers"][1]):
        return False
    wanted = params.get("preferred_element_type")
    return wanted is None or jnp.dtype(wanted).itemsize <= operands[0].dtype.itemsize


def _dots(primitive: Any, *operands: Any, **params: Any) -> Any:
    named = _named(primitive, *operands, **params)
    return named or _is_weight_product(primitive, *operands, **params)


def _offload(primitive: Any, *operands: Any, **params: Any) -> Any:
    if _is_weight_product(primitive, *operands, **params):
        return _dots_away(primitive, *operands, **params)
    return _sent_away(primitive, *operands, **params)


POLICIES: dict[str, Policy | None] = {"full": None, "dots": _dots, "offload": _offload}
"""What `jax.checkpoint` keeps of a layer under each name that ``config.remat`` may be."""


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
    leading axis L. ``config.remat`` recomputes a layer in the backward pass, but for what its
    policy keeps. Every layer draws its own dropout.
    """
    # Inside a scan XLA cannot merge the recomputation with the forward pass anyway.
    layer: Any = block
    if config.remat:
        policy = POLICIES["full" if config.remat is True else str(config.remat)]
        layer = nn.remat(block, prevent_cse=not config.scan, policy=policy)
    if not config.scan:
        for i in range(config.layers):
            carry, _ = layer(config=config, name=f"layer_{i}", **fields)(carry, i, *shared)
        return carry
    scanned = nn.scan(
        layer,
        variable_axes={"params": 0, "additions": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *(nn.broadcast for _ in shared)),
        length=config.layers,
    )
    # Where no layer asks for its number, keep it out of the program.
    numbers = jnp.arange(config.layers) if numbered else None
    carry, _ = scanned(config=config, name="layers", **fields)(carry, numbers, *shared)
    return carry
