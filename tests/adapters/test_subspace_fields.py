"""Fields that cannot be are one line that says what is expected."""

import numpy as np
import pytest

import lorax
from lorax.core.errors import LoraxError, LoraxTypeError


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"dim": 0}, LoraxError, "dim is 0: expected at least 1"),
        ({"dim": 1.5}, LoraxTypeError, "dim is 1.5: expected an integer, such as dim=750"),
        ({"dim": True}, LoraxTypeError, "dim is True"),
        ({"seed": -1}, LoraxError, "seed is -1: expected 0 to"),
        ({"projection": "random"}, LoraxError, "projection is 'random': expected one of"),
        ({"scope": "leaf"}, LoraxError, "scope is 'leaf': expected one of"),
        ({"density": "thin"}, LoraxError, "density is 'thin': expected one of"),
        ({"block": 64}, LoraxError, "block is 64 with projection='sparse': expected 0"),
        ({"projection": "fastfood", "block": 100}, LoraxError, "power of two of at least 1024"),
        ({"projection": "fastfood", "block": 512}, LoraxError, "block is 512 with dim=1000"),
        ({"where": ".*"}, LoraxTypeError, "where is '.*': expected a tuple"),
    ],
)
def test_a_field_that_cannot_be_is_told(fields, error, words):
    with pytest.raises(error, match=words):
        lorax.Subspace(**fields)


def test_whole_numbers_of_any_kind_become_plain_ones():
    adapter = lorax.Subspace(dim=np.int64(12), seed=np.int32(3))
    assert type(adapter.dim) is type(adapter.seed) is int
    assert lorax.from_json(adapter.to_json()) == adapter
