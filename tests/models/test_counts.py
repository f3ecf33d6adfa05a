"""Parameter counts: closed form against the model's own shapes, and against published numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lorax import models
from lorax.models import (
    GPT2,
    ROBERTA_BASE,
    GPT2Config,
    Llama,
    LlamaConfig,
    Roberta,
    RobertaConfig,
    param_count,
)

MODELS = {LlamaConfig: Llama, GPT2Config: GPT2, RobertaConfig: Roberta}

# The sizes of the published checkpoints. RoBERTa's have a pooler of D D + D beside the encoder.
PUBLISHED = {
    "TINYLLAMA_1B": 1_100_048_384,
    "LLAMA_7B": 6_738_415_616,
    "LLAMA_13B": 13_015_864_320,
    "LLAMA_33B": 32_528_943_616,
    "LLAMA_65B": 65_285_660_672,
    "LLAMA2_7B": 6_738_415_616,
    "LLAMA2_13B": 13_015_864_320,
    "LLAMA2_70B": 68_976_648_192,
    "LLAMA3_8B": 8_030_261_248,
    "LLAMA3_70B": 70_553_706_496,
    "LLAMA32_1B": 1_235_814_400,
    "LLAMA32_3B": 3_212_749_824,
    "GPT2_SMALL": 124_439_808,
    "GPT2_MEDIUM": 354_823_168,
    "GPT2_LARGE": 774_030_080,
    "GPT2_XL": 1_557_611_200,
    "ROBERTA_BASE": 124_645_632 - (768 * 768 + 768),
    "ROBERTA_LARGE": 355_359_744 - (1024 * 1024 + 1024),
}
OTHERS = {"TOY": 301_728, "BYTE_1M": 1_017_216, "STORIES_260K": 260_032}
OTHERS |= {"STORIES_15M": 15_191_712, "STORIES_110M": 109_529_856}
OTHERS |= {"GPT2_TOY": 124_672, "ROBERTA_TOY": 91_840}


def counted(config):
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    model = MODELS[type(config)](config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("name", "count"), [*PUBLISHED.items(), *OTHERS.items()])
def test_counts_of_the_named_sizes(name, count):
    # One layer more or less is the closed form's business; tracing eighty is not.
    config = dataclasses.replace(getattr(models, name), scan=True)
    assert counted(config) == param_count(config) == count


@pytest.mark.parametrize(
    ("head", "count"),
    [("classification", 124_647_170), ("masked_lm", 124_697_433)],  # as Hugging Face counts them
)
def test_published_counts_with_a_head(head, count):
    config = dataclasses.replace(ROBERTA_BASE, head=head, scan=True)
    assert counted(config) == param_count(config) == count


@pytest.mark.parametrize(
    "config",
    [
        *(LlamaConfig(32, 16, 2, 4, kv, 24, tied=tied) for kv in (1, 4) for tied in (False, True)),
        *(GPT2Config(32, 16, 2, 4, 20, 24, tied=tied, scan=tied) for tied in (False, True)),
        RobertaConfig(32, 16, 2, 4, 24, 20, types=2, pad_id=0),
        RobertaConfig(32, 16, 2, 4, 24, 20, head="classification", labels=3, scan=True),
        RobertaConfig(32, 16, 2, 4, 24, 20, head="masked_lm", tied=False),
    ],
)
def test_closed_form_of_the_count(config):
    assert counted(config) == param_count(config)


def test_other_configs_are_refused():
    with pytest.raises(ValueError, match="expected a LlamaConfig, .*got dict: pass model.config"):
        param_count({})
