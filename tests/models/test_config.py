"""What holds for every transformer config: errors, dtypes as names, JSON."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

from lorax import models
from lorax.models import GPT2Config, LlamaConfig, RobertaConfig, RopeScaling, TransformerConfig
from lorax.models.config import check_positive, check_rate, check_size

SMALL = (
    LlamaConfig(32, 16, 2, 4, 2, 24),
    GPT2Config(32, 16, 2, 4),
    RobertaConfig(32, 16, 2, 4, 24),
)
NAMED = {
    name: config
    for name, config in vars(models).items()
    if isinstance(config, TransformerConfig)
}  # fmt: skip
BAD = [
    ({"dim": 18}, "dim must be a multiple of heads, got dim=18 and heads=4: set dim=20"),
    ({"layers": 0}, "layers must be a positive integer, got 0: set layers to 1 or more"),
    ({"vocab_size": 32.0}, "vocab_size must be a positive integer, got 32.0"),
    ({"dim": "16"}, "dim must be a positive integer, got '16'"),
    ({"heads": True}, "heads must be a positive integer, got True"),
    ({"max_length": None}, "max_length must be a positive integer, got None"),
    ({"hidden_dim": -1}, "hidden_dim must be a positive integer, got -1"),
    ({"norm_eps": float("nan")}, "norm_eps must be a finite number above 0, got nan"),
    ({"norm_eps": "1e-5"}, "norm_eps must be a finite number above 0, got '1e-5'"),
    ({"scan": "false"}, "scan must be True or False, got 'false'"),
    ({"remat": "some"}, "remat must be empty, one of full, dots, offload, or a bool, got 'some'"),
    ({"remat": 1}, "remat must be empty, one of full, dots, offload, or a bool, got 1"),
    ({"tied": 1}, "tied must be True or False, got 1"),
    ({"dtype": "int32"}, "dtype must be a floating dtype, got 'int32'"),
    ({"dtype": None}, "dtype must be a floating dtype, got None"),
    ({"param_dtype": "bf16"}, "param_dtype must be a floating dtype, got 'bf16'"),
    ({"attention": "flash"}, "attention must be one of auto, xla, cudnn, got 'flash'"),
]


@pytest.mark.parametrize("config", SMALL)
@pytest.mark.parametrize(("fields", "message"), BAD)
def test_impossible_values_are_one_line_errors(config, fields, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(config, **fields)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("config", SMALL)
def test_dtypes_are_kept_as_names(config):
    config = dataclasses.replace(config, dtype=jnp.bfloat16, param_dtype=jnp.dtype("float32"))
    assert (config.dtype, config.param_dtype) == ("bfloat16", "float32")


@pytest.mark.parametrize("name", NAMED)
def test_json_round_trip_and_hash(name):
    config = NAMED[name]
    again = type(config)(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config and hash(again) == hash(config)


def test_a_scaled_config_is_among_those():
    assert LlamaConfig(32, 16, 2, 4, 2, 24, rope_scaling=RopeScaling(8.0)) in {
        dataclasses.replace(SMALL[0], rope_scaling={"factor": 8.0})
    }


def test_heads_share_the_width():
    assert [config.head_dim for config in SMALL] == [4, 4, 4]


def test_checks_of_single_fields():
    check_size("n", 1)
    check_positive("x", 0.5)
    check_rate("p", 0)
    for check, value, message in (
        (check_size, 1.0, "n must be a positive integer, got 1.0"),
        (check_positive, 0, "n must be a finite number above 0, got 0"),
        (check_rate, 1.0, "n must be at least 0 and below 1, got 1.0: set n=0.1"),
        (check_rate, -0.1, "n must be at least 0 and below 1, got -0.1"),
        (check_rate, False, "n must be at least 0 and below 1, got False"),
        (check_rate, float("nan"), "n must be at least 0 and below 1, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            check("n", value)
