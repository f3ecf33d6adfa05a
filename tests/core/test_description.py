"""An adapter is read back from its description, or a line says why not."""

import pytest

import lorax


def test_a_chain_of_kinds_is_its_description():
    adapter = lorax.Chain(lorax.DoRA(rank=2, where=("a",)), lorax.BitFit(), lorax.Full(("b",)))
    assert lorax.from_json(adapter.to_json()) == adapter
    assert lorax.from_dict(adapter.to_dict()) == adapter


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ({"adapter": "Lora"}, "kind 'Lora' is unknown"),
        ({"adapter": "Chain", "members": 3}, "expected a list of descriptions"),
        ({"adapter": "DoRA", "ranks": 3}, "DoRA has no field 'ranks'; did you mean 'rank'"),
        ([], "expected a mapping"),
    ],
)
def test_what_is_no_description(description, says):
    with pytest.raises(lorax.LoraxError, match=says):
        lorax.from_dict(description)
