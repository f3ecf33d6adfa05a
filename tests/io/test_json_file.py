"""JSON of somebody else: limits, wrong types and damage end in one line that names the file."""

import pytest

from lorax.core.errors import LoraxError
from lorax.io.json_file import read_json


def test_a_table_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, "ü"]}', "utf-8")
    assert read_json(path) == {"a": [1, "ü"]}


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "no valid JSON"),
        (b'{"a": ', "no valid JSON"),
        (b'{"a": "\xff"}', "no valid JSON"),
        (b"\x80\x02}q\x00.", "no valid JSON"),
        (b"[1]", "a list instead of a table"),
        (b"null", "a NoneType instead of a table"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' + b"9" * 10_000 + b"}", "no valid JSON"),
    ],
    ids=range(9),
)
def test_anything_else_is_one_line(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(LoraxError) as caught:
        read_json(path)
    message = str(caught.value)
    assert str(path) in message and words in message and "\n" not in message


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"{" + b" " * 100 + b"}")
    with pytest.raises(LoraxError, match="more than 100 bytes"):
        read_json(path, limit=100)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(LoraxError, match=r"cannot read .*x\.json' \(No such file"):
        read_json(tmp_path / "x.json")
