"""The verb for lm-eval's tasks: a task of one's own from a file, on a model that numpy can read."""

import json
import types

import pytest

from experiments import _flags, lm_eval_tasks
from tests.evaluation.programs import Bigram, Tokenizer, table

TASK = """
task: chosen
dataset_path: json
dataset_kwargs: {{data_files: {{test: {docs}}}, cache_dir: {folder}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
DOCS = [{"question": "one", "choices": ["a", "bc"], "label": 0}] * 3


def fails(capsys, *argv):
    """The one line of standard error of a call that must fail."""
    assert lm_eval_tasks.main(list(argv)) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture
def task(tmp_path):
    """The YAML file of a task with three questions."""
    pytest.importorskip("lm_eval", reason="lm-eval is an extra: lorax-flax[lm-eval]")
    pytest.importorskip("datasets")
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    file = tmp_path / "chosen.yaml"
    file.write_text(TASK.format(docs=tmp_path / "docs.jsonl", folder=tmp_path))
    return file


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_ones_own(task, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        _flags,
        "load_model",
        lambda flags: types.SimpleNamespace(model=Bigram(), base=table(), tokenizer=Tokenizer()),
    )
    out = tmp_path / "out.json"
    argv = ["--model=m", f"--tasks={task}", "--limit=2", f"--out={out}"]
    assert lm_eval_tasks.main(argv) == 0
    head, _, row = capsys.readouterr().out.strip().splitlines()
    assert "task and metric" in head
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    found = json.loads(out.read_text())
    assert cells[:2] == ["chosen acc", f"{found['results']['chosen']['acc,none']:.4f}"]
    assert cells[3] == "2"
    assert found["config"]["model_args"] == {"model": "m", "adapter": None}
    line = fails(capsys, *argv)
    assert "exists already" in line and "--overwrite" in line


@pytest.mark.filterwarnings("ignore")
def test_tasks_that_cannot_be_loaded_are_one_line(task, capsys):
    task.write_text(task.read_text().replace("docs.jsonl", "nowhere.jsonl"))
    line = fails(capsys, "--model=nowhere", f"--tasks={task}")
    assert "cannot load" in line and "nowhere.jsonl" in line
    task.write_text("task: [")
    assert "cannot load" in fails(capsys, "--model=nowhere", f"--tasks={task}")


def test_an_unknown_task_is_told_with_the_nearest_name(monkeypatch, capsys):
    manager = types.SimpleNamespace(all_tasks=["piqa", "hellaswag"])
    monkeypatch.setattr(lm_eval_tasks, "_manager", lambda defaults: manager)
    line = fails(capsys, "--model=nowhere", "--tasks=hellaswg")
    assert "knows no 'hellaswg'" in line and "did you mean 'hellaswag'" in line


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "--tasks"),
        (["--tasks= ,"], "names none"),
        (["--tasks=x", "--limit=0"], "--limit: it is 0: expected a whole number above 0"),
        (["--tasks=x", "--out=nowhere/out.json"], "its folder is missing"),
        (["--tasks=x", "--out=."], "choose another file"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(argv, words, capsys):
    assert words in fails(capsys, "--model=nowhere", *argv)


def test_help_names_the_module_and_its_flags(capsys):
    assert lm_eval_tasks.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "python -m experiments.lm_eval_tasks" in text and "--adapter" in text


def test_a_table_of_any_results():
    found = {
        "results": {
            "a": {"alias": "a", "acc,none": 0.25, "acc_stderr,none": 0.0125, "sample_len": 4},
            "b": {"exact_match,flexible": 1.0, "exact_match_stderr,flexible": "N/A"},
        },
        "n-samples": {"a": {"original": 9, "effective": 4}},
    }
    rows = [[c.strip() for c in line.strip("|").split("|")]
            for line in lm_eval_tasks.table(found).splitlines()]  # fmt: skip
    assert rows[2:] == [
        ["a acc", "0.2500", "0.0125", "4"],
        ["b exact_match (flexible)", "1.0000", "", ""],
    ]
