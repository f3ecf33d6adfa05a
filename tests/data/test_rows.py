"""Rows of JSON Lines, CSV and TSV: every field as written, every bad row with file and line."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.rows import BadRows, field, lines, not_empty, read_rows, to_records

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def rows_of(tmp_path, name, data, on_bad_row="error"):
    """(rows, BadRows) of a file with these bytes."""
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    bad = BadRows(on_bad_row)
    return list(read_rows(file, name.rpartition(".")[2], bad)), bad


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shared by all draws of a property."""
    return tmp_path_factory.mktemp("rows")


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_json_and_csv_give_back_what_was_written(folder, pairs):
    written = [{"a": a, "b": b} for a, b in pairs]
    found, _ = rows_of(folder, "x.jsonl", "\n".join(map(json.dumps, written)))
    assert [row.fields for row in found] == written
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("a", "b"), *pairs])
    found, _ = rows_of(folder, "x.csv", stream.getvalue())
    assert [row.fields for row in found] == written


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_tsv_takes_quotes_and_rare_line_ends_as_text(folder, pairs):
    clean = [[t.translate({9: 32, 10: 32, 13: 32}) + '"' for t in pair] for pair in pairs]
    found, _ = rows_of(folder, "x.tsv", "a\tb\n" + "\n".join("\t".join(pair) for pair in clean))
    assert [list(row.fields.values()) for row in found] == clean


def test_places_are_lines_of_the_file_also_after_blank_and_long_ones(tmp_path):
    found, _ = rows_of(tmp_path, "x.csv", 'a,b\r\n"one\nmore",2\r\n\r\n3,4\r\n')
    assert [row.where.rpartition("/")[2] for row in found] == ["x.csv:2", "x.csv:5"]
    assert found[0].fields == {"a": "one\nmore", "b": "2"}
    found, _ = rows_of(tmp_path, "x.tsv", "a\tb\n \n\t\n")
    assert [row.where.rpartition(":")[2] for row in found] == ["3"]
    found, _ = rows_of(tmp_path, "x.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}')
    assert [row.where.rpartition(":")[2] for row in found] == ["1", "3"]
    found, _ = rows_of(tmp_path, "list.jsonl", '\n[{"a": 1},\n {"a": 2}]')
    assert [row.where.rpartition(", ")[2] for row in found] == ["entry 1", "entry 2"]


BAD = [
    ("x.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}', ":2: no JSON"),
    ("x.jsonl", b'{"a": 1}\n[1]\n{"a": 3}', ":2: a JSON list, not an object"),
    ("x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n{"a": 3}', ":2: character 8 is no UTF-8"),
    ("x.jsonl", b'{"a": 1}\n{"a": "\\ud800"}\n{"a": 3}', ":2: character 1 is no UTF-8"),
    ("x.jsonl", b'{"a": 1}\n' + b"[" * 99999 + b'\n{"a": 3}', ":2: no JSON"),
    ("x.tsv", b"a\tb\n1\t2\n1\t2\t3\n3\t4", ":3: 3 fields, but the header names 2 (a, b)"),
    ("x.csv", b"a,b\n1,2\n1\n3,4", ":3: 1 fields, but the header names 2"),
    ("x.csv", b'a,b\n1,2\n"x"y,2\n3,4', ":3: no CSV"),
    ("x.csv", b"a,b\n1,2\n\xfe,2\n3,4", ":3: character 1 is no UTF-8"),
    ("x.csv", b'a,b\n1,2\n3,4\n"x,2\n3,4', ":4: no CSV"),
]


@pytest.mark.parametrize("name, data, reason", BAD)
def test_a_bad_row_is_told_with_file_and_line_or_counted(tmp_path, name, data, reason):
    with pytest.raises(LoraxError) as caught:
        rows_of(tmp_path, name, data)
    message = str(caught.value)
    assert f"{name}{reason}" in message and "on_bad_row=skip" in message and "\n" not in message
    found, bad = rows_of(tmp_path, name, data, "skip")
    assert len(found) == 2 and bad.count == 1 and reason in bad.first


def test_mistakes_of_a_whole_file(tmp_path):
    with pytest.raises(LoraxError, match=":1: the header names a column twice: a, a"):
        rows_of(tmp_path, "x.tsv", "a\ta\n")
    with pytest.raises(LoraxError, match="is no JSON .* expected a list of objects"):
        rows_of(tmp_path, "x.jsonl", '[{"a": 1}, ]')
    with pytest.raises(LoraxError, match="format is 'xml': expected one of 'jsonl', 'csv', 'tsv'"):
        rows_of(tmp_path, "x.xml", "")
    with pytest.raises(LoraxError, match="on_bad_row is 'drop': expected one of 'error', 'skip'"):
        BadRows("drop")


def test_columns_say_what_is_what(tmp_path):
    found, bad = rows_of(tmp_path, "x.tsv", "s1\ts2\ty\nice cold\tsnow\t2   \n")
    record = {"text": "ice cold", "pair": "snow", "label": "2   ", "where": found[0].where}
    columns = {"text": "s1", "pair": "s2", "label": "y"}
    assert list(to_records(found, "classification", columns, bad)) == [record]
    columns = {"text": "s1", "pair": "", "label": "y"}
    assert list(to_records(found, "regression", columns, bad)) == [{**record, "pair": ""}]
    columns = {"prompt": "s1", "response": "s2"}
    (completion,) = to_records(found, "completion", columns, bad)
    assert completion == {"prompt": "ice cold", "response": "snow", "where": record["where"]}
    (text,) = to_records(found, "language", {"text": "s2"}, bad)
    assert text["text"] == "snow"


@pytest.mark.parametrize(
    "value, text", [("a ", "a "), (3, "3"), (2.5, "2.5"), (True, "true"), (0, "0")]
)
def test_a_field_is_text(value, text):
    assert field({"x": value}, "x") == text


@pytest.mark.parametrize(
    "fields, match",
    [
        (
            {"sentence": "a", "label": 1},
            "no column 'sentense' .there are sentence, label.: did you",
        ),
        ({"sentense": " \t"}, "column 'sentense' is empty"),
        ({"sentense": None}, "column 'sentense' is empty"),
        ({"sentense": ["a"]}, "column 'sentense' holds a list: expected text"),
    ],
)
def test_a_field_that_is_none(fields, match):
    with pytest.raises(LoraxError, match=match):
        field(fields, "sentense")


def test_a_wrong_column_fails_even_where_bad_rows_are_skipped(tmp_path):
    found, bad = rows_of(tmp_path, "x.csv", "a,b\n1,2\n3,4\n", "skip")
    records = to_records(found, "language", {"text": "c"}, bad)
    with pytest.raises(LoraxError, match=r"'x' holds no rows, all 2 .*x\.csv:2: there is no col"):
        not_empty(records, "x", bad)
    with pytest.raises(LoraxError, match="a role in columns is 'txt'"):
        list(to_records(found, "language", {"txt": "a"}, bad))
    with pytest.raises(LoraxError, match="task is 'tagging'"):
        list(to_records(found, "tagging", {}, bad))


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("x.csv", "x.tsv", "x.jsonl"):
        found, bad = rows_of(tmp_path, name, b"\n \n")
        with pytest.raises(LoraxError, match="holds no rows: expected at least one"):
            not_empty(to_records(found, "language", {}, bad), name, bad)


def test_lines_keep_their_spaces(tmp_path):
    (tmp_path / "x").write_bytes(" a \r\n\n b\u2028c".encode())
    found = [line for _, line in lines(tmp_path / "x", BadRows())]
    assert found == [" a ", " b\u2028c"]
