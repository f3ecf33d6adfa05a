"""What ships with Python: enough, kept apart, and no harm if a piece is missing."""

import sys

from lorax.data import python_text, text


def test_english_is_enough_and_mostly_prose():
    documents = python_text.english()
    words = b" ".join(documents.values()).split()
    assert sum(map(len, documents.values())) > 300_000
    assert words.count(b"the") > len(words) / 50
    assert {name.split("/")[0] for name in documents} <= {"topics", "docstrings", "files"}


def test_english_does_not_change_within_a_process():
    assert python_text.english() == python_text.english()


def test_source_is_the_single_file_modules():
    source = python_text.python_source()
    assert {"argparse.py", "ast.py", "textwrap.py"} <= set(source)
    assert len(source) > 80 and sum(map(len, source.values())) > 1_000_000
    assert all(b"\0" not in content for content in source.values())
    assert not any(name.startswith(("_py", "test", "_sysconfig")) for name in source)


def test_no_docstring_of_the_source_is_in_the_english():
    english = text.without_repeats(python_text.english())
    paragraphs = lambda documents: {
        b" ".join(p.split()) for d in documents.values() for p in d.split(b"\n\n") if len(p) > 200
    }
    old, new = paragraphs(english), paragraphs(python_text.python_source())
    assert len(old & new) < 0.02 * len(old)


def test_missing_pieces_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(python_text, "_library", lambda: tmp_path)
    documents = python_text.english()
    assert documents and all(name.startswith("docstrings/") for name in documents)
    assert python_text.python_source() == {}
