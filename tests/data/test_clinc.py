"""Sentences and intents of CLINC150: splits, the intents that are wanted, mistakes in one line."""

import json
import lzma

import pytest

from lorax.core.errors import LoraxError
from lorax.data.read import read
from tests.shared_data import shared_path

DATA = {"train": [["hi there", "greeting"], ["what is 2 + 2", "calculator"], ["bye", "goodbye"]],
        "oos_val": [["sing", "oos"]]}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """A small file of that form, compressed."""
    place = tmp_path / "data.json.xz"
    place.write_bytes(lzma.compress(json.dumps(DATA).encode()))
    return place


def said(*args, **kwargs):
    with pytest.raises(LoraxError) as error:
        read("clinc", *args, task="classification", **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_intent_or_those_that_are_wanted(file):
    found = read("clinc", f"{file}:train", task="classification")
    assert found.labels == ("calculator", "goodbye", "greeting")
    assert [(row["text"], row["label"]) for row in found.rows] == [
        ("hi there", 2), ("what is 2 + 2", 0), ("bye", 1)
    ]  # fmt: skip
    assert found.rows[1]["where"] == f"{file}, train 1"
    some = read("clinc", f"{file}:train", task="classification", labels=("greeting", "goodbye"))
    assert [(row["text"], row["label"]) for row in some.rows] == [("hi there", 0), ("bye", 1)]


def test_mistakes(file, tmp_path):
    assert "names no split: expected file.json:split" in said("data.json")
    assert "expected one of 'train', 'oos_val'" in said(f"{file}:val")
    assert "did you mean 'greeting'?" in said(f"{file}:train", labels=("greting",))
    for text, words in (("{", "is no JSON"), ('{"train": [["a"]]}', "is not CLINC150")):
        (tmp_path / "other.json").write_text(text)
        assert words in said(f"{tmp_path / 'other.json'}:train")


def test_the_real_file():
    path = shared_path("clinc150/data_full.json.xz")
    names = ("balance", "translate")
    found = read("clinc", f"{path}:val", task="classification", labels=names)
    assert len(found.rows) == 40 and found.labels == names
    assert sum(row["label"] for row in found.rows) == 20
