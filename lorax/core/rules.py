"""Which primitives keep a leaf implicit? One rule a primitive.

A rule takes the evaluation, the equation and the values of its operands, at least one of them
implicit, and returns the outputs: implicit again where the primitive rearranges the leaf, plain
where it multiplies it. `None` means that there is no factored form: the evaluation then merges the
leaf at this equation, says so, and goes on.
"""

from collections.abc import Callable
from typing import Any

from lorax.core import calls, lookups, products, rearrange

Rule = Callable[[Any, Any, list[Any]], list[Any] | None]

RULES: dict[str, Rule] = {
    # products: x W = x W0 + s (x A) B
    "dot_general": products.dot_general,
    "conv_general_dilated": products.conv_general_dilated,
    "gather": lookups.gather,
    "ragged_dot_general": products.ragged_dot_general,
    # rearrangements: axes move in W0, A and B alike
    "transpose": rearrange.transpose,
    "reshape": rearrange.reshape,
    "squeeze": rearrange.squeeze,
    "broadcast_in_dim": rearrange.broadcast_in_dim,
    "slice": rearrange.slice_,
    "split": rearrange.split,
    "rev": rearrange.rev,
    "dynamic_slice": rearrange.dynamic_slice,
    # linear maps of the values
    "convert_element_type": rearrange.convert_element_type,
    "neg": rearrange.neg,
    "mul": rearrange.scalar_product,
    "div": rearrange.scalar_product,
    "stop_gradient": rearrange.stop_gradient,
    # identities with a side purpose
    "copy": rearrange.on_w,
    "name": rearrange.on_w,
    "copy_p": rearrange.on_w,
    "optimization_barrier": rearrange.on_w,
    "sharding_constraint": rearrange.on_w,
    "reshard": rearrange.on_w,
    "mesh_cast": rearrange.on_w,
    # programs inside the program
    "jit": calls.jit,
    "pjit": calls.jit,
    "closed_call": calls.jit,
    "core_call": calls.jit,
    "remat2": calls.remat,
    "checkpoint": calls.remat,
    "scan": calls.scan,
    "while": calls.while_,
    "cond": calls.cond,
    "custom_jvp_call": calls.custom_jvp,
    "custom_vjp_call": calls.custom_vjp,
    "custom_vjp_call_jaxpr": calls.custom_vjp,
    "shard_map": calls.shard_map,
}
