"""Evaluation of a finished run gives the numbers of its result, and changes nothing."""

import json

import pytest

from experiments import evaluate, generate, train
from lorax.train.metrics import read_metrics

pytestmark = pytest.mark.runs

OFF = "--config.pretrain.steps=0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "q"
    config = "--config=configs/quickstart.py:smoke"
    assert train.main([config, OFF, f"--workdir={workdir}"]) == 0
    return workdir


def test_the_numbers_are_those_of_the_result(finished, tmp_path, capsys):
    before = {f: f.stat().st_mtime_ns for f in finished.rglob("*")}
    out = tmp_path / "numbers.json"
    assert evaluate.main([f"--workdir={finished}", f"--out={out}"]) == 0
    result = read_metrics(finished / "metrics.jsonl")[-1]
    numbers = json.loads(out.read_text())
    # the run had all devices of this process: sums may be taken in another order
    assert numbers == pytest.approx({name: result[name] for name in numbers}, rel=1e-6)
    assert "validation/loss" in capsys.readouterr().out
    assert {f: f.stat().st_mtime_ns for f in finished.rglob("*")} == before


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--workdir={tmp}"], "no run at"),
        (["--workdir={run}", "--adapter={tmp}/none"], "no adapter at"),
        ([], "--workdir"),
    ],
)
def test_mistakes_are_one_line(finished, tmp_path, capsys, argv, words):
    argv = [arg.format(tmp=tmp_path, run=finished) for arg in argv]
    assert evaluate.main(argv) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and words in lines[0]


def test_a_run_is_a_model_for_other_verbs(finished, capsys):
    argv = [f"--model={finished}", f"--adapter={finished / 'adapter'}", "--prompt=def "]
    assert generate.main([*argv, "--max_new_tokens=3"]) == 0
    assert capsys.readouterr().out.startswith("def ")


def test_the_same_command_again_shows_the_numbers(finished, capsys):
    config = "--config=configs/quickstart.py:smoke"
    assert train.main([config, OFF, f"--workdir={finished}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("This run was finished before") and "validation/loss" in out
