"""A single process is spoken to by itself; several are at tests/io/one_of_several.py."""

import pytest

from lorax import LoraxError
from lorax.io.processes import first_does, first_says, who_failed


def test_alone_nothing_is_changed():
    said = {"step": 3, "lines": ["a"]}
    assert first_says(said) is said
    assert who_failed(False) == [] and who_failed(True) == [0]


def test_alone_an_error_is_its_own():
    def refuse():
        raise LoraxError("mine")

    with pytest.raises(LoraxError, match="^mine$"):
        first_does(refuse, LoraxError)
    assert first_does(lambda: (1, 2), LoraxError) == (1, 2)
