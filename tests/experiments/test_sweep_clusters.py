"""Tasks of a sweep on clusters: Ray on this machine, submitit without SLURM, arrays of jobs."""

import os
import re
import signal
import threading

import pytest

from experiments._sweep import launch as launching
from lorax.core.errors import LoraxError
from tests.experiments import fake_slurm
from tests.experiments.launches import (
    await_workers,
    driver,
    launched,
    no_workers,
    results,
    starts,
)

pytestmark = pytest.mark.runs


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks at the tasks more often."""
    monkeypatch.setattr(launching, "PAUSE", 0.02)


CLUSTERS = [("slurm", "submitit", {"cluster": "local"}), ("ray", "ray", {})]


@pytest.mark.parametrize("name, library, options", CLUSTERS)
def test_two_workers_of_a_cluster_one_of_them_killed(tmp_path, name, library, options):
    pytest.importorskip(library)
    ways = ("kill:b", "orphan:c", "nan:d", "mistake:e")
    with pytest.raises(LoraxError, match="1 unit left, of task 002: no data at 'x'"):
        launched(
            tmp_path, [["a", "b"], ["c", "d"], ["e"]], *ways, name=name, workers=2, step=0.05,
            options=options,
        )  # fmt: skip
    assert results(tmp_path) == {"a": "DONE", "b": "DONE", "c": "DONE", "d": "FAILED"}
    assert [starts(tmp_path, unit) for unit in "abcde"] == [1, 2, 2, 1, 1]
    assert "stopped\n" in (tmp_path / "tasks" / "001.log").read_text()


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("name, library, options", CLUSTERS)
def test_a_signal_reaches_the_workers_of_a_cluster(tmp_path, name, library, options, signum, code):
    pytest.importorskip(library)
    text = ",".join(f"{k}={v}" for k, v in options.items())
    process = driver(tmp_path, name, step=2.0, options=text)
    if signum == signal.SIGINT:  # as a terminal does, to all that the command has started
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    said = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == code, said
    assert re.fullmatch(f"stopped by {signum.name} with (1 unit|2 units) left", said[-1])
    assert no_workers(tmp_path)
    assert (tmp_path / "tasks" / "001.log").read_text().endswith("stopped\n")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder in which SLURM's commands, as far as they are needed, keep their state."""
    pytest.importorskip("submitit")
    state = tmp_path / "slurm"
    state.mkdir()
    fake_slurm.install(state)
    monkeypatch.setenv("FAKE_SLURM", str(state))
    monkeypatch.setenv("PATH", f"{state}:{os.environ['PATH']}")
    return state


def test_tasks_are_one_job_array(tmp_path, slurm):
    options = {"partition": "gpu", "gpus_per_node": "2", "timeout_min": "90"}
    ways, tasks = ("kill:b", "nan:c"), [["a", "b"], ["c"], ["d"]]
    said = launched(tmp_path, tasks, *ways, name="slurm", workers=2, options=options)
    assert results(tmp_path) == {"a": "DONE", "b": "DONE", "c": "FAILED", "d": "DONE"}
    array, again = [file.read_text() for file in sorted(slurm.glob("*.sbatch"))]
    for line in ("array=0-2%2", "partition=gpu", "gpus-per-node=2", "time=90"):
        assert f"#SBATCH --{line}\n" in array
    assert "--array" not in again and any("task 000 was killed" in line for line in said)
    with pytest.raises(LoraxError, match="SLURM refuses the jobs: .*invalid partition"):
        launched(tmp_path, [["e"]], name="slurm", options={"partition": "none"})


def test_a_job_whose_time_is_up_saves_and_is_queued_again(tmp_path, slurm):
    waiting = threading.Thread(target=warn, args=(tmp_path, slurm), daemon=True)
    waiting.start()
    launched(tmp_path, [["a"], ["b"]], name="slurm", step=0.5)
    waiting.join()
    assert results(tmp_path) == {"a": "DONE", "b": "DONE"}
    assert [starts(tmp_path, unit) for unit in "ab"] == [2, 1]
    assert (tmp_path / "tasks" / "000.log").read_text().count("stopped\n") == 1


def warn(folder, slurm):
    """What SLURM does before the time of the first job is up."""
    await_workers(folder, 2)
    (pid,) = slurm.glob("*_0.pid")
    fake_slurm.STATE = slurm
    fake_slurm.deliver(pid.stem, signal.SIGUSR2)


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_cancels_the_jobs_which_save(tmp_path, slurm, signum, code):
    process = driver(tmp_path, "slurm", step=0.5)
    os.killpg(process.pid, signum)
    said = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == code, said
    assert re.fullmatch(f"stopped by {signum.name} with (1 unit|2 units) left", said[-1])
    assert no_workers(tmp_path, 5)
    assert (tmp_path / "tasks" / "001.log").read_text().endswith("stopped\n")
