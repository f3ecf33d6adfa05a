"""The notebook runs from its first cell to its last, and what is kept of it was made from it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
MOST = 400_000
"""Bytes of a notebook with its pictures."""


def read(file):
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(file, as_version=4)


def outputs(notebook):
    return [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]


def check(file, cells):
    """A notebook with these cells, all of them run, in order and without an error."""
    notebook = read(file)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == cells
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [out for out in outputs(notebook) if out.output_type == "error"]
    pictures = [out for out in outputs(notebook) if "image/png" in out.get("data", {})]
    assert len(pictures) == 7, "loss, rates, curves, spectra, ranks, seeds, amplification"
    assert file.stat().st_size < MOST


@pytest.fixture(scope="module")
def cells():
    """Of the script."""
    jupytext = pytest.importorskip("jupytext")
    made = jupytext.read(FOLDER / "rank_sweep.py")
    return [(cell.cell_type, cell.source) for cell in made.cells]


def test_what_is_kept_was_made_from_the_script(cells):
    check(FOLDER / "rank_sweep.ipynb", cells)


def test_every_picture_is_explained():
    notebook = read(FOLDER / "rank_sweep.ipynb")
    for cell, after in zip(notebook.cells, notebook.cells[1:], strict=False):
        if any("image/png" in out.get("data", {}) for out in cell.get("outputs", ())):
            assert after.cell_type == "markdown", cell.source
            assert after.source.startswith("**"), after.source
            said = " ".join(after.source.split())
            assert ("Across" in said and "Up" in said) or "downwards" in said or "axes as" in said


def test_nothing_of_the_machine_is_kept():
    text = (FOLDER / "rank_sweep.ipynb").read_text("utf-8")
    assert "/tmp/" not in text and str(ROOT) not in text


@pytest.mark.runs
def test_it_runs(cells, tmp_path):
    pytest.importorskip("nbclient")
    # as its readers run it: the programs optimised, unlike in the other tests
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "notebooks.execute", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "rank_sweep.ipynb", cells)
