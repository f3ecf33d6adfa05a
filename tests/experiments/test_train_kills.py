"""Kills, signals, full disks, damaged checkpoints: a run ends as the one that nothing disturbed."""

import errno
import os
import re
import shutil
import signal
import time

import jax
import pytest

from experiments._train import answers, scoring
from experiments.benchmarks import kills
from experiments.benchmarks.kills import differences, outcome
from lorax.train.metrics import read_metrics
from tests.experiments.runs import LANGUAGE, TOY, compiled_once, cue, run, send
from tests.io.full_disk import small_disk, small_files

pytestmark = pytest.mark.runs

WORK = kills.Work(
    ("--config=configs/mnist_mlp.py:lora,smoke", "--config.pretrain.format=toy"), steps=30, base=4
)


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    pytest.importorskip("grain")
    pytest.importorskip("matplotlib")
    with compiled_once(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run of `TOY` comes to that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert run(workdir, *TOY).code == 0
    return outcome(workdir)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """A folder for runs in processes of one device; `whole` in it was not disturbed."""
    jax.devices()  # this process keeps those that it began with
    flags = re.sub(r"--xla_force_host\S+", "", os.environ.get("XLA_FLAGS", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", flags)
        folder = tmp_path_factory.mktemp("processes")
        kills.finish(folder / "whole", WORK)
        yield folder


def test_five_kills_change_nothing(processes):
    aims = ("base", "save", "save", "evaluation", "finish")
    found = kills.survive(processes, WORK, len(aims), seed=4, aims=aims)
    assert found["differing"] == {} and found["equal_runs"] == found["runs"] >= 1
    assert found["kills"] == sum(found["struck_in"].values()) == 5
    assert found["inside_a_save"] >= 1 and len(found["struck_in"]) >= 2, found


def test_a_process_that_is_asked_to_end_saves_within_seconds(processes):
    workdir = processes / "asked"
    for signum, code, least in ((signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 8)):
        process = kills.start(workdir, WORK)
        while process.poll() is None and steps(workdir) < least:
            time.sleep(0.01)
        sent = time.time()
        process.send_signal(signum)
        said = process.communicate()[0].splitlines()
        assert process.returncode == code, said
        told = rf"stopped by {signum.name} after step (\d+) of 30 in train: run the same command "
        number = re.fullmatch(rf"{told}again to go on from what is in {workdir}", said[-1])[1]
        saved = workdir / "checkpoints" / number
        assert saved.is_dir() and saved.stat().st_mtime - sent < 5
        assert int(number) < 30 and not (workdir / "DONE").exists()
    kills.finish(workdir, WORK)
    assert differences(outcome(workdir), outcome(processes / "whole")) == []


def steps(workdir):
    """Of the last record; 0 where there is none."""
    file = workdir / "metrics.jsonl"
    records = read_metrics(file) if file.is_file() else []
    return records[-1]["step"] if records else 0


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_an_evaluation(whole, tmp_path, monkeypatch, signum, code):
    make, calls = scoring.make_evaluate_examples, []

    def made(apply):
        evaluate = make(apply)

        def interrupted(batches, *rest, **named):
            calls.append(len(calls))
            at = 2 if len(calls) == 2 else None  # the evaluation after step 4, amid its batches
            return evaluate(sent(batches, at), *rest, **named)

        return interrupted

    def sent(batches, at):
        for number, batch in enumerate(batches):
            if number == at:
                os.kill(os.getpid(), signum)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "make_evaluate_examples", made)
        said = run(tmp_path / "run", *TOY)
    assert said.code == code and "after step 4 of 8 in train" in said.err[-1], said
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "eval"] == [0] and len(calls) == 2
    assert run(tmp_path / "run", *TOY).code == 0
    assert differences(outcome(tmp_path / "run"), whole) == []


def test_a_signal_while_texts_are_decoded(tmp_path, monkeypatch):
    flags = (*LANGUAGE, "--config.eval.prompt=to", "--config.eval.max_new_tokens=2")
    decode = answers.decode
    with monkeypatch.context() as patch:
        patch.setattr(answers, "decode", lambda *a, **k: [send(signal.SIGTERM)(), decode(*a, **k)])
        said = run(tmp_path / "run", *flags)
    assert said.code == 143
    assert said.err[-1].startswith("stopped by SIGTERM after the last step: run the same command")
    before = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert run(tmp_path / "run", *flags).code == 0
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert records[:-1] == before and records[-1]["kind"] == "result"
    assert (tmp_path / "run" / "samples.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_a_full_disk_is_told_and_costs_nothing_that_was_saved(whole, tmp_path, kind):
    if kind == "tmpfs":
        with small_disk(tmp_path / "disk", 4) as disk:
            full(disk / "run", whole, lambda: fill(disk / "ballast"), (disk / "ballast").unlink)
        return
    limit = small_files(2048)  # bytes: a record more fits, a checkpoint does not
    full(tmp_path / "run", whole, limit.__enter__, lambda: limit.__exit__(None, None, None))


def fill(file):
    """Takes all space that its disk has."""
    with open(file, "wb", buffering=0) as ballast, pytest.raises(OSError) as caught:
        while True:
            ballast.write(bytes(1 << 12))
    assert caught.value.errno == errno.ENOSPC


def full(workdir, whole, begin, end):
    """A run whose disk is full from step 5 on, and then no longer."""
    with cue(begin, kind="train", step=5):
        try:
            said = run(workdir, *TOY)
        finally:
            end()
    assert said.code == 1 and len(said.err) == 1, said
    assert said.err[0].startswith("error: ") and "free some space" in said.err[0]
    last = max(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*"))
    assert last >= 2  # that of step 4 was perhaps on its way
    again = run(workdir, *TOY)
    assert again.code == 0 and f"Resumed train after step {last} of 8." in again.out
    assert differences(outcome(workdir), whole) == []


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over(whole, tmp_path, harm):
    workdir = tmp_path / "run"
    with cue(send(signal.SIGTERM), kind="train", step=5):
        assert run(workdir, *TOY).code == 143
    before, newest = sorted(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*"))[-2:]
    damage(workdir / "checkpoints" / str(newest), harm)
    said = run(workdir, *TOY)
    (told,) = [line for line in said.out if line.startswith(f"checkpoint {newest} is damaged")]
    assert "passed over" in told
    assert said.code == 0 and f"Resumed train after step {before} of 8." in said.out
    assert differences(outcome(workdir), whole) == []
    assert list((workdir / "checkpoints").glob("*.corrupt"))


def damage(folder, harm):
    """Changes one byte of the largest file, cuts it off, or removes the arrays."""
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if harm == "gone":
        shutil.rmtree(folder / "arrays")
        return
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data if harm == "changed" else data[: len(data) // 2])


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tmp_path):
    with cue(send(signal.SIGTERM), kind="train", step=3):
        assert run(tmp_path / "run", *TOY).code == 143
    for folder in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        damage(folder, "changed")
    said = run(tmp_path / "run", *TOY)
    assert said.code == 1 and len(said.err) == 1
    assert "every checkpoint" in said.err[0] and "is damaged" in said.err[0]
