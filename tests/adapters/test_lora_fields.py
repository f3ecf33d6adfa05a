"""The fields of a LoRA: plain values out, one line for anything else."""

import numpy as np
import pytest

import lorax
from lorax.adapters import lora_fields
from lorax.core.errors import LoraxError, LoraxTypeError


def test_values_come_back_plain():
    assert lora_fields.rank(np.int64(4)) == 4
    assert type(lora_fields.alpha(np.float32(2))) is float
    assert type(lora_fields.init_scale(2, False)) is float
    assert lora_fields.dropout(0) == 0.0
    assert lora_fields.dtype("bfloat16") == "bfloat16" and lora_fields.dtype(None) is None


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"rank": 2.5}, LoraxTypeError, "rank is 2.5: expected a positive integer"),
        ({"rank": 0}, LoraxError, "rank is 0: expected at least 1"),
        ({"alpha": float("inf")}, LoraxError, "alpha is inf: expected a positive finite number"),
        ({"alpha": "8"}, LoraxTypeError, "alpha is '8': expected a positive finite number"),
        ({"init_scale": "x"}, LoraxTypeError, "init_scale is 'x': expected a number"),
        ({"init_scale": True}, LoraxTypeError, "init_scale is True: expected a number"),
        ({"init_scale": 0.0}, LoraxError, "init_scale is 0.0: expected a positive finite number"),
        (
            {"init_scale": 2.0, "initializer": "pissa"},
            LoraxError,
            "init_scale is 2.0 of a decomposition, which has no random numbers: expected 1.0",
        ),
        ({"dropout": 1.0}, LoraxError, "dropout is 1.0: expected a rate in"),
        ({"dtype": "int8"}, LoraxTypeError, "dtype is 'int8': expected a floating-point dtype"),
    ],
)
def test_mistakes_are_told_in_one_line(fields, kind, message):
    with pytest.raises(kind) as error:
        lorax.LoRA(**fields)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
