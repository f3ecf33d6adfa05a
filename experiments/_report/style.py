"""How does the page look? One sheet, light and dark, from which figures take their colours."""

import re

INK, MUTED, GRID = "#1b1f24", "#5f6873", "#e3e6ea"
"""Of text and axes, of what is beside it, and of grid lines, in light."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#6c6c6c")
"""Colours that people of every colour vision tell apart, after Okabe and Ito, without yellow."""

_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
_DARK = {
    INK: "#e6e9ed", MUTED: "#9aa4b0", GRID: "#2d333b", "#0072b2": "#4aa3df", "#d55e00": "#ff7f3f",
    "#009e73": "#2fc79a", "#7f5539": "#c29a7c", "#6c6c6c": "#a9a9a9",
}  # fmt: skip


def _variables(dark: bool) -> str:
    shown = {name: _DARK.get(colour, colour) if dark else colour for colour, name in _NAMES.items()}
    return " ".join(f"--{name}: {colour};" for name, colour in shown.items())


CSS = f""":root {{ {_variables(False)} --paper: #ffffff; --band: #f5f7f9; }}
@media (prefers-color-scheme: dark) {{
  :root {{ {_variables(True)} --paper: #14171b; --band: #1c2127; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--grid); }}
h3 {{ font-size: 1rem; margin: 1.5rem 0 .5rem; }}
p, li {{ max-width: 46rem; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: .5rem 0 1rem; font-size: .875rem;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .6rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }}
th {{ color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; }}
tbody tr:hover {{ background: var(--band); }}
th:first-child, td:first-child {{ padding-left: 0; }}
code, pre {{ font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
td code {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
pre {{ background: var(--band); padding: .75rem 1rem; border-radius: 6px; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }}
figure {{ margin: 1rem 0 1.75rem; }}
figure svg {{ display: block; width: 100%; height: auto; }}
figure svg text {{ font-family: inherit !important; }}
figcaption {{ color: var(--muted); font-size: .875rem; max-width: 46rem; }}
summary {{ cursor: pointer; color: var(--muted); }}
@media print {{ main {{ max-width: none; padding: 0; }} figure, table {{ break-inside: avoid; }} }}
"""


def themed(tag: str) -> str:
    """A tag of an SVG in the colours above, which change between light and dark with the page."""
    colour = lambda match: f"{match[1]}: var(--{_NAMES[match[2]]})"
    return re.sub(rf"(fill|stroke): ({'|'.join(_NAMES)})\b", colour, tag)
