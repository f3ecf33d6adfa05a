"""Notebooks run from the first cell to the last, and what is kept of them was made from them."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
MOST = 400_000
"""Bytes of a notebook with its pictures."""

PICTURES = {
    "intrinsic_dimension": 4,  # P, way by hand, accuracy against d, LoRA beside it
    "rank_sweep": 7,  # loss, rates, curves, spectra, ranks, seeds, amplification
}


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
    assert len(pictures) == PICTURES[file.stem]
    assert file.stat().st_size < MOST


@pytest.fixture(params=PICTURES)
def name(request):
    return request.param


@pytest.fixture
def cells(name):
    """Of the script."""
    jupytext = pytest.importorskip("jupytext")
    made = jupytext.read(FOLDER / f"{name}.py")
    return [(cell.cell_type, cell.source) for cell in made.cells]


def test_all_are_here():
    from notebooks import execute

    assert [script.stem for script in execute.scripts()] == sorted(PICTURES)


def test_what_is_kept_was_made_from_the_script(name, cells):
    check(FOLDER / f"{name}.ipynb", cells)


def test_every_picture_is_explained(name):
    notebook = read(FOLDER / f"{name}.ipynb")
    for cell, after in zip(notebook.cells, notebook.cells[1:], strict=False):
        if any("image/png" in out.get("data", {}) for out in cell.get("outputs", ())):
            assert after.cell_type == "markdown", cell.source
            assert after.source.startswith("**"), after.source
            said = " ".join(after.source.split())
            assert ("Across" in said and "Up" in said) or "ownwards" in said or "axes as" in said


def test_nothing_of_the_machine_is_kept(name):
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert "/tmp/" not in text and str(ROOT) not in text


def test_a_notebook_that_is_not_there_is_told(capsys):
    from notebooks import execute

    assert execute.main(["nothing"]) == 1
    said = "error: no notebook 'nothing': expected intrinsic_dimension, rank_sweep\n"
    assert capsys.readouterr().err == said


@pytest.mark.runs
def test_it_runs(name, cells, tmp_path):
    pytest.importorskip("nbclient")
    # as its readers run it: the programs optimised, unlike in the other tests
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "notebooks.execute", name, f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(tmp_path / f"{name}.ipynb", cells)
