"""GLUE: the eight layouts, variants of them, and real files row for row."""

from collections import Counter

import pytest

from lorax.core.errors import LoraxError
from lorax.data.glue import TASKS, read_glue, task
from lorax.data.rows import BadRows
from tests.shared_data import shared_path


def read(tmp_path, name, text, on_bad_row="error"):
    """(records, BadRows) of a file with this text."""
    file = tmp_path / "x.tsv"
    file.write_text(text, "utf-8")
    bad = BadRows(on_bad_row)
    return read_glue(file, name, bad), bad


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("header", [True, False])
def test_every_layout_with_a_header_and_without(tmp_path, name, header):
    form = TASKS[name]
    labels = form.labels or ("2.5", "0.000")
    roles = {form.text: 'the "one', form.pair: "the other"}
    rows = [[roles.get(c, label if c == form.label else "-") for c in form.columns]
            for label in labels]  # fmt: skip
    lines = [list(form.columns)] * header + rows
    found, _ = read(tmp_path, name, "\n".join("\t".join(line) for line in lines))
    expected = range(len(labels)) if form.labels else [2.5, 0.0]
    assert [record["label"] for record in found] == list(expected)
    assert {record["text"] for record in found} == {'the "one'}
    assert {record["pair"] for record in found} == {"the other" if form.pair else ""}
    assert found[0]["where"].endswith(f"x.tsv:{1 + header}")


def test_a_header_with_more_columns_wins(tmp_path):
    """As in MNLI's dev files, which have five annotators."""
    columns = [*TASKS["mnli"].columns[:-1], "label2", "label3", "label4", "label5", "gold_label"]
    row = [*"012345678", "b", *"llll", "l", "neutral"]
    row[8] = "a"
    found, _ = read(tmp_path, "mnli", "\t".join(columns) + "\n" + "\t".join(row))
    assert (found[0]["text"], found[0]["pair"], found[0]["label"]) == ("a", "b", 1)


def test_names_are_found_however_they_are_written():
    assert task("SST-2") is task("sst_2") is TASKS["sst2"]
    assert task("STS-B").kind == "regression" and task("cola").kind == "classification"
    with pytest.raises(LoraxError, match="the name of a GLUE task is 'wnli': expected one of 'mn"):
        task("WNLI")


BAD = [
    ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tentailment\n",
     ":3: 3 fields: expected 4, index"),
    ("sst2", "fine\t1\n\t1\n", ":2: column 'sentence' is empty"),
    ("sst2", "fine\t1\nfine\t2\n", ":2: label '2' is unknown: expected one of negative, pos"),
    ("stsb", "0\tg\tf\ty\to\ts\ts\ta\tb\t5\n0\tg\tf\ty\to\ts\ts\ta\tb\t5.2\n",
     ":2: label '5.2' is no number from 0 to 5"),
]  # fmt: skip


@pytest.mark.parametrize("name, text, reason", BAD)
def test_bad_rows(tmp_path, name, text, reason):
    with pytest.raises(LoraxError) as caught:
        read(tmp_path, name, text)
    assert reason in str(caught.value)
    found, bad = read(tmp_path, name, text, "skip")
    assert len(found) == bad.count == 1


def test_files_without_labels_and_without_rows(tmp_path):
    with pytest.raises(LoraxError, match="GLUE's test files have no labels; use SST-2/dev.tsv"):
        read(tmp_path, "sst2", "index\tsentence\n0\tfine\n")
    with pytest.raises(LoraxError, match="holds no rows"):
        read(tmp_path, "sst2", "sentence\tlabel\n")


COUNTS = [
    ("sst2", "sst2/train", 60_614), ("sst2", "sst2/dev", 6_735), ("sst2", "sst2/test", 872),
    ("rte", "glue_small/RTE_train", 2_127), ("rte", "glue_small/RTE_val", 363),
    ("rte", "glue_small/RTE_dev", 277), ("cola", "glue_small/CoLA_train", 7_250),
    ("cola", "glue_small/CoLA_val", 1_301), ("cola", "glue_small/CoLA_dev", 1_043),
]  # fmt: skip


@pytest.mark.parametrize("name, file, count", COUNTS)
def test_real_files_row_for_row(name, file, count):
    found = read_glue(shared_path(f"{file}.tsv.xz"), name, BadRows())
    assert len(found) == count
    assert set(Counter(record["label"] for record in found)) == {0, 1}
    assert all(bool(record["pair"]) == (name == "rte") for record in found)


def test_real_quotes_are_text():
    found = read_glue(shared_path("glue_small/RTE_dev.tsv.xz"), "rte", BadRows())
    assert any('"' in record["text"] for record in found)
    assert found[0]["text"].startswith("Dana Reeve") and found[0]["label"] == 1
