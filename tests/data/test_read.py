"""Reading: every format by its name, labels of training for held-out rows, mistakes in one line."""

import itertools
import json
import lzma
import sys
import types

import pytest

from lorax.core.errors import LoraxError
from lorax.data.glue import TASKS
from lorax.data.read import read
from tests.shared_data import shared_path

REVIEWS = 'text,label\n"good, really",pos\nbad,neg\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a file of most formats."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORAX_DATA", raising=False)
    (tmp_path / "a.txt").write_text("one text\n")
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(b"another"))
    (tmp_path / "reviews.csv").write_text(REVIEWS)
    (tmp_path / "meanings.txt").write_text("name : A||An A . \n")
    (tmp_path / "sst.tsv").write_text("sentence\tlabel\nfine \t1\n")
    (tmp_path / "ask.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    return tmp_path


def test_texts_are_a_record_a_file(folder):
    found = read("text", "[ab].txt*", task="language")
    assert [record["text"] for record in found.rows] == ["one text\n", "another"]
    assert found.source == "[ab].txt*" and found.skipped == 0 and found.labels == ()


def test_rows_of_every_kind_say_the_same(folder):
    rows = [{"text": "good, really", "label": "pos"}, {"text": "bad", "label": "neg"}]
    (folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "list.json").write_text(json.dumps(rows))
    (folder / "reviews.tsv").write_text("text\tlabel\ngood, really\tpos\nbad\tneg\n")
    pairs = [("csv", "reviews.csv"), ("tsv", "reviews.tsv"), ("jsonl", "reviews.jsonl"),
             ("jsonl", "list.json")]  # fmt: skip
    for format, path in pairs:
        found = read(format, path, task="classification")
        assert [(r["text"], r["label"]) for r in found.rows] == [("good, really", 1), ("bad", 0)]
        assert found.labels == ("neg", "pos")
    columns = {"prompt": "label", "response": "text"}
    (first, _) = read("csv", "reviews.csv", task="completion", columns=columns).rows
    assert (first["prompt"], first["response"]) == ("pos", "good, really")


def test_held_out_rows_take_the_labels_of_training(folder):
    (folder / "held_out.csv").write_text("text,label\nfair,pos\nodd,maybe\nsad,neg\n")
    train = read("csv", "reviews.csv", task="classification")
    options = {"task": "classification", "labels": train.labels}
    with pytest.raises(LoraxError, match=r"held_out.csv:3: label 'maybe' is unknown: expected one"):
        read("csv", "held_out.csv", **options)
    found = read("csv", "held_out.csv", **options, on_bad_row="skip")
    assert [record["label"] for record in found.rows] == [1, 0] and found.skipped == 1
    assert found.first_skipped.startswith("held_out.csv:3: label 'maybe'")


def test_values(folder):
    (folder / "x.tsv").write_text("a\tb\tscore\nx\ty\t2.5\n")
    columns = {"text": "a", "pair": "b", "label": "score"}
    found = read("tsv", "x.tsv", task="regression", columns=columns)
    assert (found.rows[0]["pair"], found.rows[0]["label"]) == ("y", 2.5) and found.labels == ()


def test_known_formats(folder):
    found = read("glue", "sst.tsv", task="classification", name="SST-2")
    assert found.labels == ("negative", "positive") and found.rows[0]["label"] == 1
    (record,) = read("e2e", "meanings.txt", task="completion").rows
    assert (record["prompt"], record["response"]) == ("name : A||", " An A .")
    (record,) = read("instructions", "ask.jsonl", task="completion", template="chat").rows
    assert (record["prompt"], record["response"]) == ("User:\na\n\nAssistant:\n", "b")
    columns = {"prompt": "text", "response": "label"}
    found = read("instructions", "reviews.csv", task="completion", columns=columns)
    assert "### Instruction:\nbad\n" in found.rows[1]["prompt"]


def test_rows_of_the_hub(monkeypatch):
    class Found(list):
        features = {"label": types.SimpleNamespace(names=["neg", "pos"])}

    library = types.ModuleType("datasets")
    library.load_dataset = lambda *_, **__: Found([{"text": "a", "label": 1}])
    monkeypatch.setitem(sys.modules, "datasets", library)
    found = read("jsonl", "hub:org/name:train", task="classification")
    assert found.labels == ("neg", "pos") and found.rows[0]["label"] == 1
    assert read("text", "hub:org/name:train", task="language").rows[0]["text"] == "a"
    columns = {"prompt": "text", "response": "label"}
    found = read("instructions", "hub:org/name:train", task="completion", columns=columns)
    assert found.rows[0]["response"] == "1"


def test_what_ships_with_python():
    english, python = (read("python", path, task="language") for path in ("english", "source"))
    assert sum(len(record["text"]) for record in python.rows) > 1_000_000
    assert len(english.rows) > 5 and {r["where"] for r in python.rows} >= {"argparse.py"}
    with pytest.raises(LoraxError, match="the path of format 'python' is 'train': expected one of"):
        read("python", "train", task="language")


@pytest.mark.parametrize("name", TASKS)
def test_toys_have_the_form_of_glue_tasks(name):
    form = TASKS[name]
    found = read("toy", "train", task=form.kind, name=name)
    assert found.labels == form.labels
    assert all(bool(record["pair"]) == bool(form.pair) for record in found.rows)
    if form.labels:
        assert {record["label"] for record in found.rows} == set(range(len(form.labels)))


def test_toys_of_other_tasks():
    for task in ("language", "completion", "regression"):
        assert read("toy", "test", task=task).labels == ()
    assert read("toy", "train", task="classification", labels=("a", "b", "c")).labels[2] == "c"
    assert read("toy", "train", task="classification").labels == ("0", "1")
    images = read("toy", "train", task="classification", name="images")
    assert images.labels == tuple("0123456789") and images.rows[0]["image"].shape == (28, 28)
    (first, *_) = read("toy", "test", task="regression", name="images").rows
    assert first["image"].shape == (10, 100) and first["label"] == 1.0
    one, other = (read("toy", "train", task="language", seed=s).rows for s in (0, 1))
    assert one != other


MISTAKES = [
    ("xml", "a.txt", "language", {}, "format is 'xml': expected one of 'text', 'jsonl'"),
    ("text", "a.txt", "tagging", {}, "task is 'tagging'"),
    ("text", "a.txt", "completion", {}, "format 'text' is for the task language, not for compl"),
    ("text", "c.txt", "language", {}, "'c.txt' is not in .* LORAX_DATA is not set"),
    ("text", "empty.txt", "language", {}, "'empty.txt' holds no rows: expected at least one"),
    ("csv", "reviews.csv", "language", {"columns": {"text": "txt"}},
     "reviews.csv:2: there is no column 'txt' .there are text, label.: did you mean 'text'?"),
    ("glue", "sst.tsv", "regression", {"name": "sst2"}, "GLUE's sst2 is a classification: set"),
    ("glue", "sst.tsv", "classification", {}, "the name of a GLUE task is '': expected one of"),
    ("instructions", "a.txt", "completion", {}, "'a.txt' ends in '.txt': expected instructions"),
]  # fmt: skip


@pytest.mark.parametrize("format, path, task, options, match", MISTAKES)
def test_mistakes(folder, format, path, task, options, match):
    (folder / "empty.txt").write_text(" \n")
    with pytest.raises(LoraxError, match=match):
        read(format, path, task=task, **options)


def test_real_names_below_the_data_folder(monkeypatch):
    monkeypatch.setenv("LORAX_DATA", str(shared_path("mnist").parent))
    labels = read("mnist", "mnist/t10k", task="classification").rows
    assert len(labels) == 10_000
    both = read("glue", "glue_small/CoLA_[dv]*.tsv.xz", task="classification", name="cola")
    assert len(both.rows) == 1_301 + 1_043
    korean = read("csv", "korean_chatbot/ChatbotData.csv.xz", task="classification",
                  columns={"text": "Q"})  # fmt: skip
    sizes = [len(list(g)) for _, g in itertools.groupby(sorted(r["label"] for r in korean.rows))]
    assert korean.labels == ("0", "1", "2") and sizes == [5_290, 3_570, 2_963]
