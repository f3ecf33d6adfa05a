"""Paths as users write them."""

import pathlib

import pytest

from lorax.core.errors import LoraxTypeError
from lorax.io.place import place


def test_a_tilde_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("~/x") == place(pathlib.Path("~/x")) == tmp_path / "x"
    assert place("~no such user/x") == pathlib.Path("~no such user/x")
    assert place("a/~/b") == pathlib.Path("a/~/b")


@pytest.mark.parametrize("wrong", [None, 3, b"x", {"params": 1}])
def test_anything_else_is_told_in_one_line(wrong):
    words = f"source is a {type(wrong).__name__}: expected a path, a string .*; or a hub name$"
    with pytest.raises(LoraxTypeError, match=words):
        place(wrong, "source", "; or a hub name")
