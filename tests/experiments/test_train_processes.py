"""Several devices or processes share a batch: the losses of one, one set of records, one report."""

import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import train
from lorax.io.checkpoint import load_adapter
from lorax.train.metrics import read_metrics
from tests.experiments.runs import compiled_once, losses, run

pytestmark = pytest.mark.runs

FLAGS = (
    "--config=configs/mnist_mlp.py:lora,smoke",
    "--config.train.batch=4",
    "--config.data.limit=10",  # the last batch of an epoch is filled up
    "--config.train.steps=6",
    "--config.pretrain.steps=2",
    "--config.pretrain.format=toy",
    "--config.pretrain.batch=4",
)


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    pytest.importorskip("grain")
    pytest.importorskip("matplotlib")
    with compiled_once(tmp_path_factory.getbasetemp() / "compiled"):
        yield


def numbers(workdir):
    """The losses, and every number of the evaluations and of the result that a run tells."""
    records = read_metrics(workdir / "metrics.jsonl")
    told = [(k, v) for r in records if r["kind"] != "train" for k, v in r.items() if "/" in k]
    names, values = zip(*told, strict=True)
    return losses(workdir), names, values


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The workdir of `FLAGS` on one device."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    assert run(workdir, *FLAGS, report=True).code == 0
    return workdir


def same_numbers(workdir, one):
    """They are those of one device, but for the order in which sums were taken."""
    (found, names, told), (wanted, all_names, all_told) = numbers(workdir), numbers(one)
    assert len(wanted) == 6 and names == all_names
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(told, all_told, rtol=1e-5)


def test_devices_of_one_process_share_a_batch(one, tmp_path):
    assert jax.device_count() > 1
    assert train.main([*FLAGS, f"--workdir={tmp_path / 'all'}"]) == 0
    same_numbers(tmp_path / "all", one)


def started(workdir, port, index):
    """One of two processes with a device each."""
    flags = re.sub(r"--xla_force_host\S+", "", os.environ.get("XLA_FLAGS", ""))
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *FLAGS, f"--workdir={workdir}",
         f"--distributed=127.0.0.1:{port},2,{index}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
    )  # fmt: skip


def test_two_processes_are_one_run(one, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workdir = tmp_path / "two"
    processes = [started(workdir, port, index) for index in (0, 1)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "Done: " in said[0] and "loss" not in said[1] and "Done" not in said[1], said[1]

    same_numbers(workdir, one)
    assert {path.name for path in workdir.iterdir()} == {path.name for path in one.iterdir()}
    assert load_adapter(workdir / "adapter")[0] == load_adapter(one / "adapter")[0]
