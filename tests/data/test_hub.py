"""Datasets of the hub: names taken apart, rows and classes handed on, no network needed."""

import sys
import types

import pytest

from lorax.core.errors import LoraxError
from lorax.data.hub import HubName, parse, read_hub


class FakeDataset(list):
    """Rows with features, as the library hands them out."""

    features = {
        "sentence": types.SimpleNamespace(dtype="string"),
        "label": types.SimpleNamespace(names=["negative", "positive"]),
    }


@pytest.fixture
def calls(monkeypatch):
    """What the library is asked for; it has two rows, or fails where it is asked for `gone`."""
    found = []

    def load_dataset(path, config, *, split):
        found.append((path, config, split))
        if path == "org/gone":
            raise ConnectionError("Couldn't reach 'org/gone' on the Hub\nand more lines")
        return FakeDataset([{"sentence": "a", "label": 1}, {"sentence": "b", "label": 0}])

    library = types.ModuleType("datasets")
    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    return found


def test_names():
    assert parse("hub:org/name:train") == HubName("org/name", None, "train")
    assert parse("hub:org/name/conf:test[:10%]") == HubName("org/name", "conf", "test[:10%]")
    assert parse("hub:imdb:train") == HubName("imdb", None, "train")


def test_a_folder_may_stand_for_an_id(tmp_path):
    assert parse(f"hub:{tmp_path}:train") == HubName(str(tmp_path), None, "train")


@pytest.mark.parametrize("name", ["hub:org/name", "hub:org/name:", "hub::train", "hub:a/b/c/d:x",
                                  "hub:org//name:x", "hub:/org/name:x"])  # fmt: skip
def test_names_that_are_none(name):
    with pytest.raises(LoraxError, match="names no dataset: expected hub:org/name:split or"):
        parse(name)


def test_rows_and_classes(calls):
    found = read_hub("hub:org/name/conf:train")
    assert calls == [("org/name", "conf", "train")]
    rows = list(found.rows)
    assert rows[1].where == "hub:org/name/conf:train, row 1"
    assert rows[0].fields == {"sentence": "a", "label": 1}
    assert found.labels == {"label": ("negative", "positive")}


def test_out_of_reach_is_one_line(calls, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(LoraxError) as caught:
        read_hub("hub:org/gone:train")
    assert str(caught.value) == (
        "cannot read 'hub:org/gone:train' (Couldn't reach 'org/gone' on the Hub): check the name, "
        "or give a file"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LoraxError, match="HF_HUB_OFFLINE is set: unset it, or download"):
        read_hub("hub:org/gone:train")


def test_the_library_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[hub-data\]'"):
        read_hub("hub:org/name:train")


def test_the_real_library_reads_a_folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\na,0\nb,1\n")
    found = read_hub(f"hub:{folder}:train[:1]")
    assert [row.fields for row in found.rows] == [{"text": "a", "label": 0}]
    with pytest.raises(LoraxError, match="cannot read .*nosuch.*split"):
        read_hub(f"hub:{folder}:nosuch")
