"""Configurations: published counts, errors, JSON."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from lorax import models

SMALL = models.LlamaConfig(32, 16, 2, 4, 2, 24)

PUBLISHED = {
    "TINYLLAMA_1B": 1_100_048_384,
    "LLAMA_7B": 6_738_415_616,
    "LLAMA_13B": 13_015_864_320,
    "LLAMA_33B": 32_528_943_616,
    "LLAMA_65B": 65_285_660_672,
}
OTHERS = {"TOY": 301_728, "BYTE_1M": 1_017_216, "STORIES_260K": 260_032}
OTHERS |= {"STORIES_15M": 15_191_712, "STORIES_110M": 109_529_856}


def shapes(config):
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(models.Llama(config).init, jax.random.key(0), tokens)["params"]


def counted(config):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config)))


@pytest.mark.parametrize(("name", "count"), [*PUBLISHED.items(), *OTHERS.items()])
def test_counts_of_the_named_sizes(name, count):
    config = getattr(models, name)
    assert counted(config) == models.param_count(config) == count


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_closed_form_of_the_count(scan, tied, kv_heads):
    config = dataclasses.replace(SMALL, scan=scan, tied=tied, kv_heads=kv_heads)
    assert counted(config) == models.param_count(config)


def test_large_sizes_hold_bfloat16_parameters():
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(models.LLAMA_65B))} == {
        jnp.dtype("bfloat16")
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 18}, "dim must be a multiple of heads, got dim=18 and heads=4: set dim=20"),
        ({"kv_heads": 3}, "got heads=4 and kv_heads=3: set kv_heads to one of [1, 2, 4]"),
        ({"dim": 12}, "must be even for rotary positions, got 12 / 4 = 3: set dim=16"),
        ({"layers": 0}, "layers must be a positive integer, got 0"),
        ({"vocab_size": 32.0}, "vocab_size must be a positive integer, got 32.0"),
        ({"heads": True}, "heads must be a positive integer, got True"),
        ({"max_length": None}, "max_length must be a positive integer, got None"),
        ({"rope_theta": 0}, "rope_theta must be a finite number above 0, got 0"),
        ({"norm_eps": float("nan")}, "norm_eps must be a finite number above 0, got nan"),
        ({"norm_eps": "1e-5"}, "norm_eps must be a finite number above 0, got '1e-5'"),
        ({"scan": "false"}, "scan must be True or False, got 'false'"),
        ({"dtype": "int32"}, "dtype must be a floating dtype, got 'int32'"),
        ({"dtype": None}, "dtype must be a floating dtype, got None"),
        ({"param_dtype": "bf16"}, "param_dtype must be a floating dtype, got 'bf16'"),
    ],
)
def test_impossible_configs_are_one_line_errors(fields, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(SMALL, **fields)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_dtypes_are_kept_as_names():
    config = dataclasses.replace(SMALL, dtype=jnp.bfloat16, param_dtype=jnp.dtype("float32"))
    assert (config.dtype, config.param_dtype) == ("bfloat16", "float32")


def test_json_round_trip_and_hash():
    text = json.dumps(dataclasses.asdict(models.LLAMA_7B))
    again = models.LlamaConfig(**json.loads(text))
    assert again == models.LLAMA_7B and hash(again) == hash(models.LLAMA_7B)
