"""How does a page come to be? From blocks: as Markdown, and as one HTML file rendered from it."""

import dataclasses
import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from experiments._report.style import CSS
from lorax.core.errors import LoraxError

_NUMBER = re.compile(r"(\*\*)?[-+]?\d[\d.,]*(e[-+]?\d+)?( (%|m?s|[KMG]?i?B))?( ± \S+)?(\*\*)?")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclasses.dataclass(frozen=True)
class Text:
    """Markdown: a heading, paragraphs, a list, a fence."""

    source: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of Markdown, the first row the head; columns of numbers are set right."""

    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture: `name`.png below `plots` for Markdown, the SVG itself in HTML."""

    name: str
    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Fold:
    """Blocks that are shown on demand."""

    title: str
    blocks: Sequence["Block"]


Block = Text | Table | Figure | Fold


def require() -> None:
    """Raises LoraxError with the cure if markdown-it-py is not installed."""
    try:
        import markdown_it  # noqa: F401
    except ImportError:
        raise LoraxError(
            "markdown-it-py is not installed: pip install 'lorax-flax[experiments]'"
        ) from None


def markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown, with the pictures below plots/."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def page(title: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML file that needs no other, no script and no network."""
    from markdown_it import MarkdownIt

    render = MarkdownIt("commonmark", {"html": False}).enable("table")
    render.disable("image")  # no text of a run may load one
    body = "\n".join(_html(block, render) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def escape(text: object) -> str:
    """`text` on one line, so that Markdown shows it as it is."""
    line = _line(str(text))
    line = re.sub(r"([\\`*\[\]<>$~])", r"\\\1", line)
    return re.sub(r"&(?=#?\w+;)|(?<!\w)_|_(?!\w)|(?<!\S)#", r"\\\g<0>", line)


def code(text: object) -> str:
    """`text` on one line as a code span."""
    line = _line(str(text)) or " "
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fence(text: str, language: str = "") -> str:
    """`text` as a block of code."""
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    ticks = "`" * (longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _line(text: str) -> str:
    """Spaces for every kind of blank and control character."""
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join(plain.split())


def _markdown(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block.rows)
    if isinstance(block, Figure):
        return f"![{escape(block.name)}](plots/{block.name}.png)\n\n{block.caption}"
    if isinstance(block, Fold):
        inner = "\n\n".join(map(_markdown, block.blocks))
        title = html.escape(_line(block.title))
        return f"<details>\n<summary>{title}</summary>\n\n{inner}\n\n</details>"
    return block.source


def _html(block: Block, render: Any) -> str:
    if isinstance(block, Table):
        return f'<div class="wide">\n{render.render(_markdown(block))}</div>'
    if isinstance(block, Figure):
        caption = render.renderInline(block.caption)
        return f"<figure>\n{block.svg}\n<figcaption>{caption}</figcaption>\n</figure>"
    if isinstance(block, Fold):
        inner = "\n".join(_html(part, render) for part in block.blocks)
        title = html.escape(_line(block.title))
        return f"<details>\n<summary>{title}</summary>\n{inner}\n</details>"
    return render.render(block.source)


def _table(rows: Sequence[Sequence[str]]) -> str:
    # a table's own escape, which is undone before anything else in a cell is read
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True))
    right = [all(_NUMBER.fullmatch(c) or c in ("–", "NaN", "") for c in x[1:]) for x in columns]
    right[0] = False
    widths = [max(max(map(len, column)), 3) for column in columns]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    lines = [
        [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        for row in rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
