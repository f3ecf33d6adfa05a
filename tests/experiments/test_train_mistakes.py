"""What do mistakes of a user look like? One line with the cure, and nothing written or lost."""

import json
import math
import pathlib
import shutil
import signal
import struct

import numpy as np
import pytest

from lorax.train.metrics import read_metrics
from tests.experiments.runs import (
    LANGUAGE,
    TOY,
    compiled_once,
    cue,
    listing,
    refused,
    run,
    send,
)

pytestmark = pytest.mark.runs

PAGES = sorted(p.stem for p in pathlib.Path("configs").glob("[!_]*.py") if "compare" not in p.stem)


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    pytest.importorskip("grain")
    pytest.importorskip("matplotlib")
    with compiled_once(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config.optimizer.learningrate=1"], ["'config.optimizer'", "mean 'learning_rate'?"]),
        (["--config.train.steps=two"], ["train.steps=two: expected an integer such as 8"]),
        (["--config.train=3"], ["'config.train' is no field"]),
        (["--config.data.split=(1,"], ["expected a tuple such as (0.95, 0.05, 0.0)"]),
        (["--config.data.split=('a',)"], ["config.data.split is ('a',)", "shares of train"]),
        (["--config.adapter.where=(['a'],)"], ["tuples in place of lists", "write (('a',),)"]),
        (["--config.adapter.where=['a']"], ["pattern 'a' matches none"]),
        (["--dryrun"], ["unknown flag '--dryrun'", "'--dry_run'?"]),
        (["--distributed=2"], ["HOST:PORT,PROCESSES,INDEX"]),
        (["--config=configs/gpt3_175b.py"], ["a plan, too large to be run", "--dry_run"]),
        (["--config=configs/mnist.py"], ["'configs/mnist.py' does not exist", "mnist_mlp.py'?"]),
        (["--config.train.batch=6", "--config.train.accumulate=4"], ["6 in 4 parts"]),
        (["--config.eval.limit=-1"], ["config.eval.limit is -1: expected 0 or more"]),
        (["--config.data.on_bad_row=drop"], ["config.data.on_bad_row is 'drop'", "'skip'"]),
        (["--config.checkpoint.best=validation/acuracy"], ["mean 'validation/accuracy'?"]),
        (["--config.checkpoint.mode=most"], ["config.checkpoint.mode is 'most'"]),
        (["--config.adapter_from=nowhere"], ["config.adapter_from: no adapter at", "nowhere"]),
        (["--config.adapter.rank=0"], ["config.adapter: rank is 0"]),
        (["--config.optimizer.learning_rate=-1.0"], ["config.optimizer: learning rate is -1.0"]),
        (["--config.data.format=mnist", "--config.data.train=gone"], ["'gone", "LORAX_DATA"]),
        (["--config.pretrain.steps=2", "--config.pretrain.format=mnist"],
         ["config.pretrain, of which the base is made: config.data.train is empty"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, flags, words):
    monkeypatch.delenv("LORAX_DATA", raising=False)
    line = refused(tmp_path / "run", *TOY, *flags)
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config.data.length=257"], ["config.data.length is 257", "reads at most 256 tokens"]),
        (["--config.model.tokenizer="], ["config.model.tokenizer is empty", "bpe:1024"]),
        (["--config.model.tokenizer=gone"], ["'gone' is not in"]),
        (["--config.model.source=/gone"], ["no model at '/gone'"]),
        (["--config.data.task=langage"], ["config.data.task is 'langage'", "'language'"]),
        (
            ["--config.data.format=txt", "--config.data.train=a"],
            ["config.data.format is 'txt'", "'text'"],
        ),
    ],
)
def test_a_mistake_in_model_or_text_is_one_line(tmp_path, monkeypatch, flags, words):
    monkeypatch.delenv("LORAX_DATA", raising=False)
    line = refused(tmp_path / "run", *LANGUAGE, *flags)
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.fixture
def films(tmp_path):
    """Flags of a classification of the rows that it is given, as a CSV file."""

    def flags(rows, *more, name="films.csv"):
        file = tmp_path / name
        file.write_text("\n".join(["text,label", *rows]) + "\n")
        return (
            "--config=configs/nsmc_korean.py:smoke",
            "--config.data.format=csv", f"--config.data.train={file}",
            "--config.data.columns.text=text", "--config.data.on_bad_row=error",
            "--config.data.split=(0.8,0.2,0.0)", *more,
        )  # fmt: skip

    return flags


ROWS = [f"film {i} was {'good' if i % 2 else 'bad'},{i % 2}" for i in range(20)]


def changed(number, text):
    """`ROWS` with another row, whose line in the file is two more."""
    return [*ROWS[:number], text, *ROWS[number + 1 :]]


@pytest.mark.parametrize(
    "rows, more, words",
    [
        (changed(5, "no comma"), [], ["films.csv:7: 1 field", "config.data.on_bad_row=skip"]),
        (changed(5, "odd,7"), ["--config.data.labels=('0','1')"],
         ["films.csv:7: label '7' is unknown: expected one of 0, 1"]),
        ([], [], ["films.csv' holds no rows"]),
        (ROWS[:2], [], ["2 rows are too few for a share of 0.2"]),
        (changed(5, f"{'long ' * 20},1"),
         ["--config.data.too_long=error", "--config.data.length=32"],
         ["films.csv:7: ", "tokens, the most is 32", "config.data.too_long"]),
        (ROWS, ["--config.data.columns.text=txt"], ["films.csv:2", "no column 'txt'", "'text'?"]),
    ],
)  # fmt: skip
def test_a_mistake_in_the_data_names_file_and_line(tmp_path, films, rows, more, words):
    line = refused(tmp_path / "run", *films(rows, *more))
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path):
    rows = [
        json.dumps({"text": f"Sentence {i} of a text that is to be learnt."}) for i in range(40)
    ]
    rows[6], rows[9] = "no JSON", '{"other": 1}'
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(rows))
    flags = (*LANGUAGE, "--config.data.format=jsonl", f"--config.data.train={file}")
    assert "texts.jsonl:7: no JSON" in refused(tmp_path / "run", *flags)
    said = run(tmp_path / "run", *flags, "--config.data.on_bad_row=skip")
    assert said.code == 0
    (told,) = [line for line in said.out if "bad rows" in line]
    assert told.startswith("Left out 2 bad rows, the first: ") and "texts.jsonl:7" in told


def stopped(workdir, step, *flags):
    """A run that ended early."""
    with cue(send(signal.SIGTERM), kind="train", step=step):
        assert run(workdir, *TOY, *flags).code == 143


def test_a_workdir_of_another_experiment_is_left_alone(tmp_path):
    workdir = tmp_path / "run"
    stopped(workdir, 3)
    line = refused(workdir, *TOY, "--config.adapter.rank=3", "--config.seed.init=5")
    assert "config.adapter.rank: 2 there, 3 here" in line and "config.seed.init: 0 there" in line
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    assert "holds 'thesis.tex' but no config.json" in refused(other, *TOY)


def test_checkpoints_of_another_rank_or_base_are_refused(tmp_path):
    workdir = tmp_path / "run"
    stopped(workdir, 3)
    paper = workdir / "config.json"
    for field, value, words in (
        ("rank", "3", ["does not fit", "asks 3 at 'params/dense_0/kernel'"]),
        ("base", "9", ["is of another run", "base is"]),
    ):
        config = paper.read_text()
        old = {"rank": '"rank": 2', "base": '"base": 0'}[field]
        assert old in config
        paper.write_text(config.replace(old, f'"{field}": {value}'))
        before = listing(workdir / "checkpoints")
        part = "adapter.rank" if field == "rank" else "seed.base"
        said = run(workdir, *TOY, f"--config.{part}={value}")
        assert said.code == 1 and len(said.err) == 1
        assert all(word in said.err[0] for word in words), said.err
        assert listing(workdir / "checkpoints") == before
        paper.write_text(config)
    assert run(workdir, *TOY).code == 0


def test_data_that_changed_under_a_run_is_told(tmp_path):
    def images(count):
        parts = {"images.idx3": np.zeros((count, 28, 28)), "labels.idx1": np.arange(count) % 10}
        for name, array in parts.items():
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
            (tmp_path / f"set-{name}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())

    flags = ("--config.data.format=mnist", f"--config.data.train={tmp_path / 'set'}")
    images(60)
    stopped(tmp_path / "run", 3, *flags)
    images(50)
    said = run(tmp_path / "run", *TOY, *flags)
    assert said.code == 1 and "examples 57 -> 48" in said.err[-1]
    assert "the data's order is not the one of the saved state" in said.err[-1]


def test_nan_ends_a_run_with_its_checkpoints_and_records_kept(tmp_path):
    flags = (*TOY, "--config.optimizer.learning_rate=1e35", "--config.optimizer.clip=0.0")
    said = run(tmp_path / "run", *flags)
    assert said.code == 1 and len(said.err) == 1
    assert "training stopped at step" in said.err[0] and "lower the learning rate" in said.err[0]
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert None in (records[-1]["loss"], records[-1]["l2_grads"])
    assert math.isfinite(records[1]["loss"])
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert not (tmp_path / "run" / "DONE").exists()
    again = run(tmp_path / "run", *flags)
    assert again.err == said.err
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == len(records)


@pytest.mark.filterwarnings("ignore:lorax merged")  # LoHa and LoKr, in a model so small
@pytest.mark.parametrize("page", PAGES)
def test_a_dry_run_writes_nothing(page, tmp_path, monkeypatch):
    configs = pathlib.Path("configs").absolute()
    shutil.copytree(configs, tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORAX_DATA", raising=False)
    before = listing(tmp_path)
    said = run(tmp_path / "run", f"--config={configs / page}.py", "--dry_run")
    assert listing(tmp_path) == before
    if said.code:  # data that is not here
        assert len(said.err) == 1 and "LORAX_DATA" in said.err[0]
    else:
        shown = "\n".join(said.out)
        assert all(word in shown for word in ("Config", "Adapted", "Parameters", "Memory"))
