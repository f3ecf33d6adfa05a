"""A run from end to end: what it leaves, how it goes on, and that it repeats itself."""

import json
import signal

import jax
import numpy as np
import pytest

from experiments._page_file import load_config
from experiments._train import method
from experiments._train.model import drawn
from experiments._train.setting import make_setting
from experiments.benchmarks.kills import TIMES, differences, outcome
from lorax.train.metrics import read_metrics
from tests.experiments.runs import LANGUAGE, TOY, compiled_once, cue, listing, losses, run, send

pytestmark = pytest.mark.runs


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    pytest.importorskip("grain")
    pytest.importorskip("matplotlib")
    with compiled_once(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(workdir, what it said) of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    said = run(workdir, *TOY, report=True)
    assert said.code == 0, said
    return workdir, said


def test_what_a_run_leaves(whole):
    workdir, said = whole
    assert {entry.name for entry in workdir.iterdir()} == {
        ".lock", "config.json", "overrides.json", "env.json", "metrics.jsonl", "checkpoints",
        "adapter", "plots", "report.md", "report.html", "DONE",
    }  # fmt: skip
    kinds = [(r["kind"], r["step"]) for r in read_metrics(workdir / "metrics.jsonl")]
    assert kinds == [
        ("eval", 0), *[("train", step) for step in (1, 2, 3, 4)],
        ("eval", 4), *[("train", step) for step in (5, 6, 7, 8)],
        ("eval", 8), ("result", 8),
    ]  # fmt: skip
    shown = "\n".join(said.out)
    for words in ("majority/validation/accuracy", "base/validation/loss", "Done: ", "Waiting for"):
        assert words in shown
    assert len(said.err) == 1 and said.err[0].startswith("train  8/8  loss")


def test_a_finished_run_tells_its_result_again_and_does_nothing(whole):
    workdir, first = whole
    before = listing(workdir)
    again = run(workdir, *TOY)
    assert again.code == 0 and not again.err
    assert any("finished before" in line for line in again.out)
    numbers = [line for line in first.out if line.startswith(("validation/", "base/"))]
    assert len(numbers) == 4 and set(numbers) <= set(again.out)
    assert any("report.md" in line for line in again.out)
    assert listing(workdir) == before


def test_the_same_config_twice_gives_the_same_bytes(whole, tmp_path):
    workdir, _ = whole
    assert run(tmp_path / "run", *TOY).code == 0
    assert without_times(tmp_path / "run") == without_times(workdir)
    assert differences(outcome(tmp_path / "run"), outcome(workdir)) == []


def without_times(workdir):
    """The lines of metrics.jsonl, times taken out of their text."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = []
    for line in lines:
        for name, value in json.loads(line).items():
            if name in TIMES:
                line = line.replace(f', "{name}": {json.dumps(value)}', "")
        found.append(line)
    assert "step_time_sec" not in "".join(found)
    return found


def test_an_unfinished_run_goes_on_and_repeats_no_record(whole, tmp_path):
    workdir = tmp_path / "run"
    with cue(send(signal.SIGTERM), kind="train", step=3):
        assert run(workdir, *TOY).code == 143
    said = run(workdir, *TOY)
    assert said.code == 0
    assert sum(line.startswith("Resumed train after step ") for line in said.out) == 1
    assert differences(outcome(workdir), outcome(whole[0])) == []
    assert len(json.loads((workdir / "env.json").read_text())["started"]) == 2


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """Losses of `LANGUAGE` on one device, in one part."""
    workdir = tmp_path_factory.mktemp("language") / "run"
    assert run(workdir, *LANGUAGE).code == 0
    tokens = [r["tokens"] for r in read_metrics(workdir / "metrics.jsonl") if r["kind"] == "train"]
    assert len(set(tokens)) > 1
    return losses(workdir)


@pytest.mark.parametrize("parts", [2, 4])
def test_an_accumulated_batch_gives_the_losses_of_a_whole_one(language, tmp_path, parts):
    assert run(tmp_path / "run", *LANGUAGE, f"--config.train.accumulate={parts}").code == 0
    np.testing.assert_allclose(losses(tmp_path / "run"), language, rtol=1e-5)


def configured(**seeds):
    """The setting of `LANGUAGE` with other seeds, and its first delta on its own base."""
    config = load_config("configs/quickstart.py:smoke")
    config.seed.update(seeds)
    setting = make_setting(config)
    base = drawn(setting.subject, config, setting.example, setting.layout).base
    example = np.zeros(setting.example.shape, setting.example.dtype)
    delta = method.first_delta(config, setting.fn, setting.adapter, base, example)
    return setting.data.pipeline, base, delta


def equal(a, b):
    """Whether two trees hold the same bits."""
    return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


def test_seeds_of_the_first_delta_and_of_the_data_leave_each_other_alone():
    batches, base, delta = configured()
    other_batches, other_base, same_delta = configured(data=7)
    same_batches, same_base, other_delta = configured(init=7)
    steps = range(2 * batches.steps_per_epoch)
    assert all(equal(batches[step], same_batches[step]) for step in steps)
    assert not all(equal(batches[step], other_batches[step]) for step in steps)
    assert equal(delta, same_delta) and not equal(delta, other_delta)
    assert equal(base, same_base) and equal(base, other_base)
