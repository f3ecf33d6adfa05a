"""The comparison of methods from end to end on a toy, and its report."""

import pytest

from experiments import compare
from experiments._compare import study
from lorax.io.checkpoint import load_adapter
from lorax.train.metrics import MetricsWriter, read_metrics

pytestmark = pytest.mark.runs

SMOKE = "--config=configs/stories260k_compare.py:smoke"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of one smoke run."""
    workdir = tmp_path_factory.mktemp("compare") / "run"
    assert compare.main([SMOKE, f"--workdir={workdir}"]) == 0
    return workdir


def test_every_rate_is_tried_and_the_best_is_kept(finished):
    results = [r for r in read_metrics(finished / "metrics.jsonl") if r["kind"] == "result"]
    tried = [(r["run"], r.get("learning_rate")) for r in results]
    assert tried == [("base", None), ("lora_r8", 0.01), ("lora_r8", 0.02), ("full", 0.001)]
    adapter, _ = load_adapter(finished / "adapter" / "lora_r8")
    assert adapter.rank == 8


def test_the_report_is_made_from_the_metrics_alone(finished):
    report = (finished / "report.md").read_text()
    assert report == study.summary(finished / "metrics.jsonl")
    for words in ("| frozen base", "| LoRA r = 8", "| full fine-tuning", "gap closed"):
        assert words in report


def test_the_rate_is_chosen_on_validation_and_reported_on_test(tmp_path):
    row = {"kind": "result", "trainable": 1, "seconds_per_step": 0.1, "retention": 2.0}
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(run="base", kind="result", validation=5.0, test=5.0, retention=1.0)
        for run, rate, validation, test in [
            ("lora_r8", 0.1, 3.0, 3.2), ("lora_r8", 0.2, 3.1, 2.9), ("full", 0.3, 2.9, 3.0),
            ("full", 0.4, float("nan"), float("nan")),
        ]:  # fmt: skip
            writer.write(run=run, learning_rate=rate, validation=validation, test=test, **row)
    report = study.summary(tmp_path / "metrics.jsonl")
    assert "90.0%" in report  # (5 - 3.2) / (5 - 3): the test loss of the rate best on validation
    assert "NaN" in report


def test_a_second_run_prints_the_report(finished, capsys):
    assert compare.main([SMOKE, f"--workdir={finished}"]) == 0
    assert "finished before" in capsys.readouterr().out


def test_missing_data_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LORAX_DATA", raising=False)
    code = compare.main([SMOKE, "--config.data.text=nowhere.txt", f"--workdir={tmp_path / 'run'}"])
    error = capsys.readouterr().err
    assert code == 1 and "'nowhere.txt' is not in" in error and "LORAX_DATA" in error
    assert not (tmp_path / "run").exists()
