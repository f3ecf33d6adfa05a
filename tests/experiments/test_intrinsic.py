"""experiments.intrinsic: what it leaves, how it goes on, and every mistake in one line."""

import json
import os
import shutil
import signal
import struct

import pytest

from experiments._intrinsic import flow, pack
from experiments._intrinsic.rows import ROWS, read
from experiments._intrinsic.task import Task
from tests.experiments.runs import compiled_once, listing
from tests.experiments.studies import SMOKE, TINY, run

pytestmark = pytest.mark.runs

pytest.importorskip("matplotlib")

NAMES = [
    "direct,lr=0.001,repeat=0",
    *(f"sparse,d={d},lr=0.01,repeat={repeat}" for d in (1, 3) for repeat in (0, 1)),
    "lora,r=1,lr=0.01,repeat=0",
    "lora,r=1,lr=0.01,repeat=1",
]
D = 784 * 16 + 16 + 16 * 10 + 10


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Packs that were compiled before are read back."""
    with compiled_once(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(workdir, what was said) of a whole study; tests only read it, or copy it."""
    workdir = tmp_path_factory.mktemp("study") / "run"
    said = run(workdir, *TINY, figures=True)
    assert (said.code, said.err) == (0, []), said
    return workdir, said


def test_a_study_leaves_its_rows_and_its_report(study):
    workdir, said = study
    files = {path.name for path in workdir.iterdir()}
    assert files >= {
        "config.json", "overrides.json", "env.json", ROWS, "report.md", "report.html", "plots",
        "DONE",
    }  # fmt: skip
    assert list((workdir / "plots").glob("*.png")) and not list(workdir.glob(".*.partial"))
    assert json.loads((workdir / "overrides.json").read_text())["study.grid"] == [1, 3]
    assert "d=1 is the first d whose mean passes" in said.out[-2]
    text = (workdir / "report.md").read_text()
    assert f"{D:,}" in text and all(f"`{name}`" in text for name in NAMES)


def test_rows_say_what_learnt_and_from_which_seeds(study):
    rows = {row.name: row for row in read(study[0] / ROWS)}
    assert sorted(rows) == sorted(NAMES)
    numbers = {f"{s}/{n}" for s in ("validation", "train") for n in ("loss", "accuracy")}
    for row in rows.values():
        assert (row.total, row.epochs, row.failed) == (D, 2, "")
        assert set(row.last) == numbers and len(row.curve) == 2
        assert row.curve[-1] == row.last["validation/accuracy"]
        assert row.best["validation/accuracy"] == max(row.curve) and row.best["epoch"] in (1, 2)
        assert row.start == rows[NAMES[0]].start and row.seconds > 0
        assert row.packed == (1 if row.method == "direct" else 2)
    assert [rows[name].trained for name in NAMES] == [D, 1, 1, 3, 3, 784 + 16 + 26, 826]
    seeds = {name: tuple(rows[name].seeds.values()) for name in NAMES}
    assert [seeds[name] for name in NAMES] == [(0, 0, 1)] + [(0, 0, 1), (0, 1, 1)] * 3
    assert [rows[name].dim for name in NAMES] == [None, 1, 1, 3, 3, None, None]
    assert rows[NAMES[0]].last["train/loss"] < rows[NAMES[1]].last["train/loss"]
    assert len({row.last["train/loss"] for row in rows.values()}) == len(rows)


def test_a_finished_study_is_shown_and_nothing_is_trained(study, monkeypatch):
    workdir, _ = study
    monkeypatch.setattr(pack, "train_pack", None)
    before = listing(workdir)
    again = run(workdir, *TINY)
    assert again.code == 0 and "finished before" in again.out[-2]
    assert "is the first d whose mean passes" in again.out[-1]
    assert any("## Intrinsic dimension" in line for line in again.out)
    other = run(workdir, *TINY, "--config.study.share=0.02")
    assert other.code == 1 and len(other.err) == 1 and "config.study.share" in other.err[0]
    assert listing(workdir) == before


def unfinished(study, tmp_path, units):
    """A copy of the study as it was when so many units were on the disk."""
    workdir = tmp_path / "run"
    shutil.copytree(study[0], workdir)
    for name in ("DONE", "report.md", "report.html"):
        (workdir / name).unlink()
    lines = (workdir / ROWS).read_text().splitlines(keepends=True)
    (workdir / ROWS).write_text("".join(lines[:units]))
    return workdir


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_study_goes_on_with_the_units_that_it_had(study, tmp_path, monkeypatch, signum):
    workdir = unfinished(study, tmp_path, 3)
    order, trained = Task.order, []

    def stopped(self, seed, epoch):
        os.kill(os.getpid(), signum)  # while the pack is trained
        return order(self, seed, epoch)

    monkeypatch.setattr(Task, "order", stopped)
    said = run(workdir, *TINY)
    assert said.code == 128 + signum and len(said.err) == 1, said
    assert "in epoch 1 of sparse,d=3" in said.err[0] and "run the same command again" in said.err[0]
    assert [row.name for row in read(workdir / ROWS)] == NAMES[:3]
    assert not (workdir / "DONE").exists()

    monkeypatch.setattr(Task, "order", order)
    train = pack.train_pack
    noted = lambda task, study, points, *rest: (
        trained.extend(points) or train(task, study, points, *rest)
    )
    monkeypatch.setattr(flow.pack, "train_pack", noted)
    said = run(workdir, *TINY)
    assert said.code == 0 and said.out[0] == "3 units were trained before.", said
    assert [point.name for point in trained] == NAMES[3:]
    assert (workdir / "DONE").exists() and (workdir / "report.md").exists()
    for row, wanted in zip(read(workdir / ROWS), read(study[0] / ROWS), strict=True):
        assert row.last == pytest.approx(wanted.last, rel=1e-6)
        assert (row.name, row.seeds, row.start) == (wanted.name, wanted.seeds, wanted.start)


def test_a_preview_writes_nothing(tmp_path):
    said = run(tmp_path / "run", *TINY, "--dry_run")
    assert said.code == 0 and f"D = {D:,} in 4 leaves, 8 updates a unit" in said.out[0]
    assert [line.strip() for line in said.out if "lr=" in line] == NAMES
    assert not (tmp_path / "run").exists()


MISTAKES = [
    (["--config=configs/mnist_mlp.py:smoke"], "no config.study: expected a page such as"),
    (["--config=configs/intrinsic_digits.py:full,smoke"], "config.adapter is Full: expected Subs"),
    ([SMOKE, "--config.study.grid=(20,20000)"], f"d=20000 of the study: expected 1 to D={D}"),
    ([SMOKE, "--config.optimizer.learning_rate=0.5"], "use --config.study.rates"),
    ([SMOKE, "--config.study.share=90"], "config.study.share is 90.0: expected above 0"),
    ([SMOKE, f"--config.adapter.dim={D + 1}"], "dim is 12,731 but the chosen leaves have 12,730"),
    (
        [SMOKE, "--config.adapter.layerwise=True", "--config.study.grid=(2,20)"],
        f"d=2 of the study: expected 3 to D={D}",
    ),
    (
        [SMOKE, "--config.adapter.layerwise=True", "--config.adapter.dim=2"],
        "dim is 2 but 2 layers have a scale each: expected at least 3",
    ),
    ([SMOKE, "--config.adapter.where=('.*/heads',)"], "'.*/heads'"),
    ([SMOKE, "--config.adapter.exclude=('.*',)"], "no leaf is chosen: exclude=('.*',) leaves none"),
    ([SMOKE, "--config.study.metric=validation/f1"], "'validation/f1', which nothing reports: did"),
    ([SMOKE, "--config.study.metric=test/accuracy"], "'test/accuracy', which nothing reports: did"),
    ([SMOKE, "--config.data.packing=pack"], "config.data.packing is 'pack': expected none"),
    ([SMOKE, "--config.train.epochs=0"], "config.train.epochs is 0: expected 1 or more"),
    ([SMOKE, "--config.study.mode=min"], "set study.relative='gain'"),
    ([SMOKE, "--pack=two"], "--pack=two: expected a positive integer"),
]


def refused(workdir, *flags):
    """The one line of a study that must not begin; nothing is written."""
    said = run(workdir, *flags)
    assert said.code in (1, 2) and not said.out, said
    assert len(said.err) == 1 and said.err[0].startswith("error: "), said
    assert not workdir.exists()
    return said.err[0]


@pytest.mark.parametrize("flags, told", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, flags, told):
    assert told in refused(tmp_path / "run", *flags)


def test_missing_and_truncated_files_of_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAX_DATA", str(tmp_path))
    page, workdir = "--config=configs/intrinsic_mnist.py", tmp_path / "run"
    assert "mnist/train-images-idx3-ubyte" in refused(workdir, page)
    (tmp_path / "mnist").mkdir()
    images = tmp_path / "mnist" / "train-images-idx3-ubyte"
    images.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3i", 60, 28, 28) + bytes(1000))
    told = refused(workdir, page)
    assert str(images) in told and "expected 47,056 bytes" in told and "found 1,016" in told


def test_a_threshold_that_is_never_reached(tmp_path):
    flags = [SMOKE, "--config.study.baseline=1.5", "--config.study.target=global",
             "--config.study.share=1.0", "--config.study.grid=(1,)", "--config.study.ranks=()",
             "--config.train.batch=16"]  # fmt: skip
    said = run(tmp_path / "run", *flags)
    assert said.code == 1 and len(said.err) == 1, said
    best = max(row.last["validation/accuracy"] for row in read(tmp_path / "run" / ROWS)[1:])
    assert "error: the threshold 1.5 is never reached" in said.err[0]
    assert f"the best value seen is {best:.4g}, at d=1" in said.err[0]
    assert "is never reached" in (tmp_path / "run" / "report.md").read_text()
    again = run(tmp_path / "run", *flags)
    assert (again.code, again.err) == (said.code, said.err)  # a script knows the second time too
