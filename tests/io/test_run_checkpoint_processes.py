"""Checkpoints of runs that are killed, and of runs of several processes."""

import os
import random
import signal
import subprocess
import sys
import time

import jax
import pytest

from lorax.io.run_checkpoint import Checkpoints
from tests.io.one_of_several import placed, same
from tests.io.saver import state
from tests.io.several import ROOT, started, together
from tests.io.test_named_tree import assert_same
from tests.io.test_run_checkpoint import hidden


def newest(folder):
    names = os.listdir(folder) if folder.is_dir() else ()
    return max((int(name) for name in names if name.isdecimal()), default=0)


def kill_one(saver, folder):
    """Kills -9 the process that saves into `folder`, at a random moment after its second save."""
    process, patience = int(saver.stdout.readline()), time.monotonic() + 60
    while newest(folder) < 2:
        assert saver.poll() is None and time.monotonic() < patience
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.4))
    os.kill(process, signal.SIGKILL)


def test_kill_9_within_saves(tmp_path):
    folders = [tmp_path / str(i) for i in range(5)]
    command = [sys.executable, "-m", "tests.io.saver", *map(str, folders)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as saver:
        try:
            for folder in folders:
                kill_one(saver, folder)
            assert saver.wait(20) == 0
        finally:
            if saver.poll() is None:
                os.killpg(saver.pid, signal.SIGKILL)
    for folder in folders:
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.latest(state(0))
            assert restored.skipped == () and restored.info == {"step": restored.step}
            assert_same(restored.tree, state(restored.step))
            assert restored.step == newest(folder) >= 2
            for step in checkpoints.steps():
                assert_same(checkpoints.restore(step, restored.tree).tree, state(step))
            assert hidden(folder) == []
            checkpoints.save(restored.step + 1, state(7), {}, wait=True)


@pytest.mark.runs
def test_two_processes_save_and_restore_together(tmp_path):
    together(2, tmp_path, "save_and_restore", "the_same_one_is_picked", "fingerprints_agree",
             "an_adapter_is_gathered")  # fmt: skip
    folder = tmp_path / "save_and_restore"
    with Checkpoints(folder) as checkpoints:  # and one alone, onto its own four devices
        mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        assert same(checkpoints.latest(placed(0, mesh)).tree, 3)
        assert hidden(folder) == []


@pytest.mark.runs
def test_failures_are_told_to_all_and_nobody_waits_for_ever(tmp_path):
    together(2, tmp_path, "a_failure_is_told_to_all", "nobody_waits_for_ever")


@pytest.mark.runs
def test_four_processes_restore_what_one_and_two_saved(tmp_path):
    folder = tmp_path / "another_number_of_processes"
    together(2, tmp_path, "save_and_restore")
    (tmp_path / "save_and_restore").rename(folder)
    together(4, tmp_path, folder.name)
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(9, placed(9, mesh), {}, wait=True)
    together(2, tmp_path, folder.name)


@pytest.mark.runs
@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_one_of_two_leaves_a_whole_checkpoint(tmp_path, victim):
    folder = tmp_path / "save_without_end"
    with started(2, tmp_path, folder.name) as runs:
        patience = time.monotonic() + 60
        while newest(folder) < 4:
            assert runs[victim].poll() is None and time.monotonic() < patience
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.2))
        runs[victim].kill()
        assert runs[1 - victim].wait(120) != 0
    (tmp_path / "another_number_of_processes").symlink_to(folder)
    together(2, tmp_path, "another_number_of_processes")
    assert newest(folder) >= 4 and hidden(folder) == []
