"""Tasks of a sweep in processes: every unit gets its result, whatever befalls its workers."""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import sweep
from experiments._cli import UsageError
from experiments._sweep import launch as launching
from experiments._sweep.launch import at_a_time, check, launch, split
from experiments._sweep.tasks import TRIES
from lorax.core.errors import LoraxError
from lorax.train.stop import Stop, Stopped, catch
from tests.experiments.launches import driver, launched, no_workers, results, send, starts
from tests.experiments.runs import losses


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks at the tasks more often."""
    monkeypatch.setattr(launching, "PAUSE", 0.02)


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 9))
def test_tasks_are_balanced_and_never_mix_programs(sizes, workers):
    programs = [[SimpleNamespace(name=f"{p}/{u}") for u in range(n)] for p, n in enumerate(sizes)]
    tasks = split(programs, workers)
    assert sorted(n for t in tasks for n in t) == sorted(u.name for p in programs for u in p)
    assert all(len({name[0] for name in task}) == 1 for task in tasks)
    lengths = [len(task) for task in tasks]
    assert lengths == sorted(lengths, reverse=True)
    some = sum(size > 0 for size in sizes)
    if workers:
        assert max(lengths, default=0) <= -(-sum(sizes) // workers)
        assert len(tasks) <= some + workers
    else:
        assert len(tasks) == some


def test_all_units_are_trained_by_as_many_workers_as_asked(tmp_path):
    said = launched(tmp_path, [["a", "b"], ["c"], ["r=1,lr=0.1"]], workers=2)
    assert results(tmp_path) == dict.fromkeys(["a", "b", "c", "r=1,lr=0.1"], "DONE")
    assert said[0].startswith("4 units in 3 tasks, 2 at a time") and len(said) == 4
    assert said[-1].endswith("0 units left")
    assert json.loads((tmp_path / "tasks" / "000.json").read_text()) == ["a", "b"]
    assert launched(tmp_path, [["a", "b"], ["c"]], workers=2) == []  # nothing is left


def test_what_is_left_is_all_that_is_started(tmp_path):
    launched(tmp_path, [["a"]])
    launched(tmp_path, [["a", "b"]])
    assert json.loads((tmp_path / "tasks" / "000.json").read_text()) == ["b"]
    assert starts(tmp_path, "a") == starts(tmp_path, "b") == 1


def test_a_killed_worker_is_started_again_and_goes_on(tmp_path):
    said = launched(tmp_path, [["a", "b", "c"], ["d"]], "kill:b", "nan:d", workers=2)
    assert results(tmp_path) == {"a": "DONE", "b": "DONE", "c": "DONE", "d": "FAILED"}
    assert (starts(tmp_path, "a"), starts(tmp_path, "b")) == (1, 2)
    assert "task 000 was killed by SIGKILL (out of memory?): resumed with 2 units" in said


def test_a_worker_that_gets_no_further_is_given_up_and_the_others_end(tmp_path):
    with pytest.raises(LoraxError) as caught:
        launched(tmp_path, [["a", "b"], ["c"]], "bug:b")
    assert results(tmp_path) == {"a": "DONE", "c": "DONE"}
    assert starts(tmp_path, "b") == TRIES + 2  # in the first one, a was done
    assert "1 unit left, of task 000" in str(caught.value)
    assert "RuntimeError: a bug" in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_of_the_user_is_told_at_once(tmp_path):
    with pytest.raises(LoraxError, match="no data at 'x': check the path; see .*000.log"):
        launched(tmp_path, [["a"], ["b"]], "mistake:a")
    assert starts(tmp_path, "a") == 1 and results(tmp_path) == {"b": "DONE"}


def test_each_worker_has_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert at_a_time("local", 0) == 2 and at_a_time("local", 3) == 3 and at_a_time("ray", 0) == 0
    launched(tmp_path, [[name] for name in "abcd"], step=0.05)
    used = [(tmp_path / "units" / name / "DONE").read_text() for name in "abcd"]
    assert sorted(used) == ["3", "3", "5", "5"]


def test_the_launching_process_leaves_the_devices_to_its_workers(tmp_path):
    program = (
        "import os, jax\nfrom experiments._sweep.launch import leave_devices\n"
        "leave_devices()\nprint(jax.default_backend(), os.environ['JAX_PLATFORMS'])"
    )
    env = os.environ | {"JAX_PLATFORMS": "nonsense"}
    said = subprocess.run([sys.executable, "-c", program], env=env, text=True, capture_output=True)
    assert said.stdout.split() == ["cpu", "nonsense"], said.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_has_the_workers_save_and_end(tmp_path, signum):
    with catch() as stop, pytest.raises(Stopped) as caught:
        threading.Thread(target=send, args=(signum, tmp_path, 2), daemon=True).start()
        launched(tmp_path, [["a"], ["b"]], workers=2, step=0.3, stop=stop)
    assert caught.value.signum == signum and "with 2 units left" in str(caught.value)
    assert no_workers(tmp_path)
    assert (tmp_path / "tasks" / "000.log").read_text().endswith("stopped\n")
    launched(tmp_path, [["a"], ["b"]])
    assert results(tmp_path) == {"a": "DONE", "b": "DONE"}


@pytest.mark.runs
def test_the_verb_itself_is_the_command(tmp_path):
    argv = ["--config=configs/quickstart.py:smoke", "--sweep=rank", f"--workdir={tmp_path}"]
    with pytest.raises(LoraxError, match="no sweep .* in .*; see .*000.log"):
        launch("local", [["rank=1"]], argv, tmp_path, stop=Stop())


@pytest.mark.runs
def test_a_killed_worker_changes_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    argv = [
        "--config=configs/mnist_mlp.py:lora,smoke", "--sweep=rank,seed", "--config.train.steps=40",
        "--config.checkpoint.every=1", "--config.pretrain.steps=2", "--config.pretrain.format=toy",
    ]  # fmt: skip
    assert sweep.main([*argv, f"--workdir={whole}"]) == 0
    killer = threading.Thread(target=kill_one, args=(shared,), daemon=True)
    killer.start()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert sweep.main([*argv, f"--workdir={shared}", "--launcher=local", "--workers=2"]) == 0
    killer.join()
    assert "was killed by SIGKILL (out of memory?): resumed with 2 units" in out.getvalue()
    units = sorted(unit.name for unit in (whole / "units").iterdir())
    assert len(units) == 4
    for unit in units:
        found, wanted = losses(shared / "units" / unit), losses(whole / "units" / unit)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def kill_one(folder):
    """SIGKILL to the first worker, amid its steps."""
    while not list(folder.glob("units/rank=1,seed=0/checkpoints/[0-9]*")):
        time.sleep(0.01)
    only = f"--only={folder / 'tasks' / '000.json'}".encode()
    for cmdline in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if only in cmdline.read_bytes().split(b"\0"):
                os.kill(int(cmdline.parent.name), signal.SIGKILL)


@pytest.mark.runs
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of such an end")
def test_workers_end_after_a_save_when_their_launcher_is_killed(tmp_path):
    process = driver(tmp_path)
    process.kill()
    process.communicate()
    said = launched(tmp_path, [["a"], ["b"]])
    assert said[0].startswith("waiting for 2 workers of an earlier command to end")
    assert results(tmp_path) == {"a": "DONE", "b": "DONE"}
    for unit, log in (("a", "000.log"), ("b", "001.log")):
        assert starts(tmp_path, unit) == 2
        assert (tmp_path / "tasks" / log).read_text().count("stopped\n") == 1


def test_launchers_and_options_that_do_not_exist(monkeypatch):
    with pytest.raises(UsageError, match="--launcher is 'sulrm': expected one of 'local', 'slurm'"):
        check("sulrm", {})
    with pytest.raises(LoraxError, match="--launcher=local has no option 'cpus': it has none"):
        check("local", {"cpus": "1"})
    with pytest.raises(LoraxError, match="no option 'num_gpu'; did you mean 'num_gpus'?"):
        check("ray", {"num_gpu": "1"})
    with pytest.raises(LoraxError, match="num_cpus=two: expected a number such as 1"):
        check("ray", {"num_cpus": "two"})
    with pytest.raises(LoraxError, match="cluster is 'aws'"):
        check("slurm", {"cluster": "aws"})


@pytest.mark.parametrize("name, library", [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_names_its_extra(monkeypatch, tmp_path, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LoraxError, match=rf"takes {library}: pip install 'lorax-flax\[{name}\]'"):
        launched(tmp_path, [["a"]], name=name)
    assert not results(tmp_path)


def test_slurm_where_there_is_none(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LoraxError, match="there is no SLURM here"):
        check("slurm", {})
    with pytest.raises(LoraxError, match="no option 'partitoin'; did you mean 'partition'?"):
        check("slurm", {"partitoin": "x", "cluster": "local"})
    with pytest.raises(LoraxError, match="--launcher_options: .*timeout_min"):
        launched(tmp_path, [["a"]], name="slurm", options={"timeout_min": "x", "cluster": "local"})
