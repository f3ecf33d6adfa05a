"""One config on one device, on a mesh, in two processes: the same run; and one of them killed."""

import os
import re
import signal
import time

import jax
import numpy as np
import pytest

from lorax.io.checkpoint import load_adapter
from lorax.parallel.watch import EXIT_CODE
from lorax.train.metrics import read_metrics
from tests.experiments.runs import losses
from tests.processes import ended, free_address, process

pytestmark = pytest.mark.runs

FLAGS = (
    "--config=configs/quickstart.py:smoke",
    "--config.model.tokenizer=bpe:320",
    "--config.model.scan=true",
    "--config.model.remat=full",
    "--config.mesh.replicate_below=1",
    "--config.pretrain.batch=8",
    "--config.train.batch=8",
    "--config.train.steps=6",
    "--config.train.log_every=1",
    "--config.eval.prompt=once",
)
"""A scanned LLaMA that is pretrained, adapted, evaluated, and continues a prompt."""

LONG = (*FLAGS, "--config.train.steps=400", "--config.checkpoint.every=20")
"""The same for long enough to be interrupted."""

MESHES = {
    "data=8": ("--config.mesh.data=8",),
    "fsdp=8": ("--config.mesh.fsdp=8",),
    "2x2x2": ("--config.mesh.fsdp=2", "--config.mesh.tensor=2"),
}
FOUR = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
"""The mesh of two processes with two devices each."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder of compiled programs, for the processes of this module."""
    pytest.importorskip("grain")
    pytest.importorskip("matplotlib")
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="module")
def train(cache):
    """Starts `experiments.train` in a process of so many devices."""
    return lambda workdir, devices, *flags: process(
        ["-m", "experiments.train", f"--workdir={workdir}", *flags], devices, **cache
    )


@pytest.fixture(scope="module")
def pair(train):
    """Starts two that share a run, two devices each."""

    def start(workdir, *flags, other=()):
        address = free_address()
        found = []
        for index in (0, 1):
            own = (f"--distributed={address},2,{index}", *(other if index else ()))
            found.append(train(workdir, 2, *flags, *own))
        return found

    return start


@pytest.fixture(scope="module")
def one(train, tmp_path_factory):
    """The workdir of `FLAGS` on one device."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    ((code, _, said),) = ended([train(workdir, 1, *FLAGS)])
    assert code == 0, said
    return workdir


def numbers(workdir):
    """The losses, and every number of the evaluations and of the result that a run tells."""
    records = read_metrics(workdir / "metrics.jsonl")
    told = [(k, v) for r in records if r["kind"] != "train" for k, v in r.items() if "/" in k]
    names, values = zip(*told, strict=True)
    return losses(workdir), names, values


def same_run(workdir, one):
    """Numbers, files and delta are those of one device, but for the order of sums."""
    (found, names, told), (wanted, all_names, all_told) = numbers(workdir), numbers(one)
    assert len(wanted) == 6 and names == all_names
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(told, all_told, rtol=1e-5)
    files = [{path.name for path in place.iterdir()} for place in (workdir, one)]
    assert files[0] == files[1]
    (adapter, delta), (other, expected) = (load_adapter(w / "adapter") for w in (workdir, one))
    assert adapter == other
    assert jax.tree.structure(delta) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(delta), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_changes_no_number(mesh, train, one, tmp_path):
    ((code, _, said),) = ended([train(tmp_path / "mesh", 8, *FLAGS, *MESHES[mesh])])
    assert code == 0, said
    same_run(tmp_path / "mesh", one)


def test_two_processes_are_one_run(pair, one, tmp_path):
    (code, out, err), (other, quiet, silent) = ended(pair(tmp_path / "two", *FLAGS, *FOUR))
    assert (code, other) == (0, 0), err + silent
    assert "Done: " in out and quiet.startswith("Process 1 of 2 waits") and "loss" not in quiet
    same_run(tmp_path / "two", one)


def test_a_cluster_is_found_by_its_variables(train, cache, tmp_path):
    """Those of SLURM: two tasks on this machine."""
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    flags = (
        *FLAGS,
        "--config.train.steps=2",
        "--distributed=auto",
        f"--workdir={tmp_path / 'job'}",
    )
    tasks = [
        process(["-m", "experiments.train", *flags], 1, **cache, **job, SLURM_PROCID=index,
                SLURM_LOCALID=index)
        for index in ("0", "1")
    ]  # fmt: skip
    (code, out, err), (other, _, _) = ended(tasks)
    assert (code, other) == (0, 0), err
    assert "Done: " in out


def until(workdir, step, processes, seconds=120):
    """Waits for a record of a step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(one.poll() is None for one in processes):
        if (workdir / "metrics.jsonl").exists():
            records = read_metrics(workdir / "metrics.jsonl")
            if any(r["run"] == "train" and r["step"] >= step for r in records):
                return
        time.sleep(0.05)
    raise AssertionError([one.communicate() for one in processes if one.poll() is not None])


@pytest.mark.parametrize("gone", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_killed_process_is_missed_and_one_alone_goes_on(gone, pair, train, tmp_path):
    workdir = tmp_path / "run"
    both = pair(workdir, *LONG, *FOUR)
    until(workdir, 45, both)
    both[gone].kill()
    killed = time.monotonic()
    both[1 - gone].wait(timeout=60)
    assert time.monotonic() - killed < 60
    found = ended(both)
    code, _, said = found[1 - gone]
    assert code == EXIT_CODE and f"process {gone} of 2 is gone" in said, (code, said)
    assert found[gone][0] == -signal.SIGKILL

    # another number of hosts, and another mesh
    ((code, out, said),) = ended([train(workdir, 4, *LONG, "--config.mesh.fsdp=4")])
    assert code == 0, said
    resumed = re.search(r"Resumed train after step (\d+) of 400", out)
    assert resumed and int(resumed[1]) >= 40, out
    steps = [r["step"] for r in read_metrics(workdir / "metrics.jsonl") if r["kind"] == "train"]
    assert steps[-400:] == list(range(1, 401))


def test_a_signal_to_one_stops_both_after_the_same_step(pair, tmp_path):
    workdir = tmp_path / "run"
    both = pair(workdir, *LONG, *FOUR)
    until(workdir, 5, both)
    both[1].send_signal(signal.SIGTERM)
    found = ended(both)
    assert [code for code, _, _ in found] == [128 + signal.SIGTERM] * 2, found
    said = [re.search(r"stopped by SIGTERM after step (\d+) of 400", err) for _, _, err in found]
    assert said[0] and said[1] and said[0][1] == said[1][1], found
    assert said[0][1] in [folder.name for folder in (workdir / "checkpoints").iterdir()]


def test_other_flags_in_one_of_them_are_refused(pair, tmp_path):
    workdir = tmp_path / "run"
    found = ended(pair(workdir, *FLAGS, *FOUR, other=("--config.seed.init=7",)))
    for code, _, said in found:
        assert code == 1
        assert "config.seed.init: 0 in process 0, 7 in process 1" in said
    assert not workdir.exists()


def test_two_workdirs_are_refused(pair, tmp_path):
    found = ended(pair(tmp_path / "a", *FLAGS, *FOUR, other=(f"--workdir={tmp_path / 'b'}",)))
    assert [code for code, _, _ in found] == [1, 1]
    assert all("in one workdir that all of them see" in said for _, _, said in found)
    assert not list(tmp_path.iterdir())


def test_a_mesh_that_the_devices_do_not_make_is_refused(train, tmp_path):
    ((code, _, said),) = ended([train(tmp_path / "run", 2, *FLAGS, "--config.mesh.fsdp=3")])
    assert code == 1 and said.count("\n") == 1
    assert "config.mesh: mesh fsdp=3 × tensor=1 is 3 and there are 2 devices" in said
