"""What only a GPT-2's configuration decides."""

import dataclasses

import pytest

from lorax.models import GPT2_SMALL, GPT2Config

SMALL = GPT2Config(32, 16, 2, 4)


def test_defaults_are_those_of_the_published_model():
    assert (GPT2_SMALL.max_length, GPT2_SMALL.hidden_dim, GPT2_SMALL.tied) == (1024, 3072, True)
    assert SMALL.hidden_dim == 64 and SMALL.kv_heads == 4
    assert dataclasses.replace(SMALL, hidden_dim=24).hidden_dim == 24


@pytest.mark.parametrize("rate", [1.0, -0.1, None])
def test_an_impossible_dropout_is_a_one_line_error(rate):
    with pytest.raises(ValueError, match=f"dropout must be at least 0 and below 1, got {rate}: "):
        dataclasses.replace(SMALL, dropout=rate)
