"""The quickstart from end to end on a tiny model, then what it does with mistakes."""

import json

import jax
import numpy as np
import pytest

import lorax
from configs.quickstart_compare import get_config
from experiments import quickstart
from experiments._quickstart import table
from experiments.figures import curves
from lorax.io.checkpoint import JSON_NAME, load_adapter
from lorax.io.fingerprint import fingerprint
from lorax.models import BYTE_1M, Llama, LlamaConfig
from lorax.train.metrics import read_metrics

pytestmark = pytest.mark.runs

SMOKE = "--config=configs/quickstart_compare.py:smoke"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, what it printed) of one smoke run."""
    pytest.importorskip("matplotlib")
    workdir = tmp_path_factory.mktemp("quickstart") / "run"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *args, **kwargs: printed.append(" ".join(args)))
        assert quickstart.main([SMOKE, f"--workdir={workdir}"]) == 0
    return workdir, "\n".join(printed)


def saved_base(workdir):
    """The model and the parameters that a run left behind."""
    model = Llama(LlamaConfig(**get_config("smoke").model))
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4), np.int32))
    full, weights = load_adapter(workdir / "base")
    return model, full.merge(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), weights)


def fails(capsys, *argv):
    """The one line of standard error of a run that must fail."""
    assert quickstart.main(list(argv)) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_workdir_holds_everything(finished):
    workdir, printed = finished
    names = {entry.name for entry in workdir.iterdir()}
    assert names == {
        "config.json", "overrides.json", "env.json", "metrics.jsonl", "base", "adapter", "plots",
        "report.md", "DONE", ".lock",
    }  # fmt: skip
    assert (workdir / "report.md").read_text() in printed
    assert (workdir / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_report_has_one_row_a_method_and_the_checks(finished):
    _, printed = finished
    for words in ("| frozen base", "| LoRA r = 4", "| full fine-tuning", "bit-identical", "def "):
        assert words in printed
    assert printed.count("| method") == 1


def test_numbers_of_the_table_are_those_of_the_files(finished):
    workdir, _ = finished
    results = {
        r["run"]: r for r in read_metrics(workdir / "metrics.jsonl") if r["kind"] == "result"
    }
    assert set(results) == {"base", "lora_r4", "full"}
    parameters = results["base"]["parameters"]
    assert results["full"]["trainable"] == parameters
    for name in ("lora_r4", "full"):
        folder, row = workdir / "adapter" / name, results[name]
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        _, delta = load_adapter(folder)
        assert row["adapter_bytes"] == size
        assert row["trainable"] == sum(leaf.size for leaf in jax.tree.leaves(delta))
        # two moments in float32, and the counts of Adam and of the schedule
        assert row["optimizer_bytes"] == 8 * row["trainable"] + 8


def test_saved_base_and_adapter_give_the_model_back(finished):
    workdir, _ = finished
    adapter, delta = load_adapter(workdir / "adapter" / "lora_r4")
    model, base = saved_base(workdir)
    logits = lorax.adapt(model.apply, adapter, on_fallback="error")(
        base, delta, np.ones((1, 4), int)
    )
    assert np.isfinite(logits).all()


def test_the_adapters_say_of_which_base_they_are(finished):
    workdir, _ = finished
    folders = [workdir / "base", *sorted((workdir / "adapter").iterdir())]
    marks = [json.loads((folder / JSON_NAME).read_text())["base"] for folder in folders]
    assert marks == [fingerprint(saved_base(workdir)[1])] * 3


def test_a_second_run_prints_the_report_and_does_nothing(finished, capsys):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert quickstart.main([SMOKE, f"--workdir={workdir}"]) == 0
    printed = capsys.readouterr().out
    assert (workdir / "report.md").read_text() in printed and "finished before" in printed
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_another_config_in_the_same_workdir_is_refused(finished, capsys):
    workdir, _ = finished
    line = fails(capsys, SMOKE, f"--workdir={workdir}", "--config.adapt.steps=3")
    assert "config.adapt.steps: 2 there, 3 here" in line


def test_figure_needs_nothing_but_the_metrics(finished, tmp_path):
    workdir, _ = finished
    (tmp_path / "metrics.jsonl").write_bytes((workdir / "metrics.jsonl").read_bytes())
    curves.draw(tmp_path / "metrics.jsonl", tmp_path / "plots" / "again.png")
    assert (tmp_path / "plots" / "again.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "override, words",
    [
        ("--config.model.dim=33", ["config cannot be used", "dim must be a multiple of heads"]),
        ("--config.model.layers=0", ["layers must be a positive integer"]),
        ("--config.methods.lora_r4.adapter.rank=0", ["methods.lora_r4.adapter", "rank is 0"]),
        ("--config.methods.lora_r4.adapter.alpha=nan", ["alpha is nan"]),
        ("--config.methods.lora_r4.adapter.where=all", ["methods.lora_r4.adapter", "is 'all'"]),
        ("--config.data.length=600", ["max_length=512"]),
        ("--config.sample.temperature=0.0", ["temperature above 0"]),
        ("--config.sample.length=512", ["1 to 508 bytes"]),
        ("--config.compare=('lora_r3',)", ["'lora_r3'", "lora_r4"]),
        ("--config.data.hold_out_every=9999", ["too few"]),
        ("--config.data.hold_out_every=1", ["2 or more"]),
        ("--config.adapt.warmup=9", ["warmup is 9 of 2 steps"]),
        ("--config.methods.full.learning_rate=-1.0", ["learning rate is -1.0"]),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_one_line_and_no_workdir(capsys, tmp_path, override, words):
    workdir = tmp_path / "run"
    line = fails(capsys, SMOKE, f"--workdir={workdir}", override)
    assert all(word in line for word in words), line
    assert not workdir.exists()


def test_unknown_config_argument(capsys, tmp_path):
    page = SMOKE.replace("smoke", "big")
    line = fails(capsys, page, f"--workdir={tmp_path / 'run'}")
    assert "'big' is unknown" in line


def test_nan_is_one_line_and_keeps_the_metrics(capsys, tmp_path):
    workdir = tmp_path / "run"
    code = quickstart.main(
        [SMOKE, f"--workdir={workdir}", "--config.pretrain.learning_rate=1e30",
         "--config.pretrain.steps=6"]
    )  # fmt: skip
    line = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and "pretrain: training stopped at step" in line and "learning rate" in line
    records = read_metrics(workdir / "metrics.jsonl")
    assert None in records[-1].values() and None not in records[0].values()
    assert not (workdir / "DONE").exists()


def test_the_default_model_is_the_million_parameter_one():
    assert LlamaConfig(**get_config().model) == BYTE_1M


def test_configs_hold_no_lists():
    assert "[" not in json.dumps(repr(get_config().to_dict()))


def test_reading_of_a_table():
    rows = [
        {"run": "base", "python": 3.0, "english": 2.0, "parameters": 100},
        {"run": "lora_r1", "python": 2.5, "trainable": 10, "optimizer_bytes": 80},
        {"run": "full", "python": 2.0, "trainable": 100, "optimizer_bytes": 800},
    ]
    assert table.reading(rows) == (
        "LoRA r = 1 gains 50% of what full fine-tuning gains on Python, with 10.0% of its "
        "trainable parameters and 10.0 times less optimizer memory."
    )
    assert table.reading(rows[:2]) == ""
    assert "train longer" in table.reading([rows[0], rows[1], {**rows[2], "python": 3.5}])
