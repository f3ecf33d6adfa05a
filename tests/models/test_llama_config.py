"""What only a LLaMA's configuration can get wrong, and what its large sizes hold."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lorax.models import LLAMA32_1B, LLAMA_65B, Llama, LlamaConfig, RopeScaling

SMALL = LlamaConfig(32, 16, 2, 4, 2, 24)


def test_large_sizes_hold_bfloat16_parameters():
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes = jax.eval_shape(Llama(LLAMA_65B).init, jax.random.key(0), tokens)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


def test_the_published_scaling_of_llama_3_2():
    assert LLAMA32_1B.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kv_heads": 3}, "got heads=4 and kv_heads=3: set kv_heads to one of [1, 2, 4]"),
        ({"dim": 12}, "must be even for rotary positions, got 12 / 4 = 3: set dim=16"),
        ({"kv_heads": 0}, "kv_heads must be a positive integer, got 0"),
        ({"rope_theta": 0}, "rope_theta must be a finite number above 0, got 0"),
        ({"rope_scaling": 8.0}, "rope_scaling must be a RopeScaling or None, got 8.0"),
        ({"rope_scaling": {"factor": -1}}, "rope_scaling factor must be a finite number above 0"),
    ],
)
def test_impossible_configs_are_one_line_errors(fields, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(SMALL, **fields)
    assert message in str(error.value) and "\n" not in str(error.value)
