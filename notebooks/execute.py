"""Runs the notebooks of this folder for real, and writes them with what they showed.

    python -m notebooks.execute                # every script here; NAME.ipynb is written beside it
    python -m notebooks.execute rank_sweep     # this one alone
    python -m notebooks.execute --out=DIR      # ... is written there; what is here stays as it is

A notebook is a script in the percent format of jupytext; NAME.ipynb is made from it, and is never
edited by hand. A cell that fails ends it: the exit code is 1, and nothing of that one is written.
"""

import argparse
import os
import pathlib
import sys
import tempfile
from typing import Any

HERE = pathlib.Path(__file__).parent
LONGEST = 1800
"""Seconds of a cell; on two idle cores none takes a tenth of that."""


def scripts() -> list[pathlib.Path]:
    """The scripts of this folder that are notebooks."""
    begins = lambda path: path.read_text("utf-8").startswith("# ---\n# jupyter:")
    return [path for path in sorted(HERE.glob("*.py")) if begins(path)]


def notebook(script: pathlib.Path) -> Any:
    """A script as a notebook without outputs; the same one every time."""
    import jupytext

    made = jupytext.read(script)
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    return made


def execute(made: Any) -> None:
    """Runs every cell in a kernel of its own, whose temporary files go with it.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell fails.
    """
    import nbclient

    with tempfile.TemporaryDirectory(prefix="notebook_") as scratch:
        client = nbclient.NotebookClient(
            made, timeout=LONGEST, kernel_name="python3", record_timing=False,
            resources={"metadata": {"path": str(HERE)}},
        )  # fmt: skip
        client.execute(env=os.environ | {"TMPDIR": scratch})
    made.metadata.pop("language_info", None)  # the version of this Python


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        "notebooks.execute",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, metavar="DIR")
    arguments = parser.parse_args(argv)
    out, known = arguments.out, {script.stem: script for script in scripts()}
    for name in arguments.names:
        if name not in known:
            print(f"error: no notebook '{name}': expected {', '.join(known)}", file=sys.stderr)
            return 1
    try:
        import jupytext
        import nbclient
    except ImportError as error:
        print(
            f"error: {error.name} is not installed: pip install -e '.[notebooks]'", file=sys.stderr
        )
        return 1
    for script in [known[name] for name in arguments.names or known]:
        made = notebook(script)
        try:
            execute(made)
        except nbclient.exceptions.CellExecutionError as error:
            print(f"error: {script.name} fails:\n{error}", file=sys.stderr)
            return 1
        out.mkdir(parents=True, exist_ok=True)
        jupytext.write(made, out / f"{script.stem}.ipynb")
        print(out / f"{script.stem}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
