"""A bar on a terminal, lines elsewhere, lines also where rich is missing."""

import io
import sys

import pytest

from lorax.train import progress as module
from lorax.train.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream):
    with progress("work", 3, stream) as report:
        for done in range(1, 4):
            report(done, f"loss {done}")
    return stream.getvalue()


def test_plain_lines_off_a_terminal(monkeypatch):
    monkeypatch.setattr(module, "PLAIN_EVERY", 0.0)
    lines = shown(io.StringIO()).splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["work", f"{i}/3", f"loss {i}"] for i in (1, 2, 3)
    ]
    assert "\x1b" not in "".join(lines)


def test_quick_work_is_one_line():
    assert len(shown(io.StringIO()).splitlines()) == 1


def test_bar_on_a_terminal():
    pytest.importorskip("rich")
    text = shown(Terminal())
    assert "work" in text and "3/3" in text and "loss 3" in text


def test_terminal_without_rich_gets_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert shown(Terminal()).startswith("work  3/3  loss 3")
