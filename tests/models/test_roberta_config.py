"""What only a RoBERTa's configuration can get wrong."""

import dataclasses

import pytest

from lorax.models import ROBERTA_BASE, RobertaConfig

SMALL = RobertaConfig(32, 16, 2, 4, 24)


def test_the_table_of_positions_is_the_published_one():
    assert ROBERTA_BASE.position_rows == 514
    assert dataclasses.replace(SMALL, pad_id=0).position_rows == 513


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dropout": 1.5}, "dropout must be at least 0 and below 1, got 1.5"),
        ({"head": "lm"}, "head must be one of none, classification, masked_lm, got 'lm'"),
        ({"labels": 0}, "labels must be a positive integer, got 0"),
        ({"types": 0}, "types must be a positive integer, got 0"),
        ({"pad_id": -1}, "pad_id must be a positive integer, got -1"),
        ({"pad_id": 32}, "pad_id must be below vocab_size=32, got 32"),
    ],
)
def test_impossible_configs_are_one_line_errors(fields, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(SMALL, **fields)
    assert message in str(error.value) and "\n" not in str(error.value)
