"""Checkpoints of runs that are killed, and of runs of several processes."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

from lorax.io.run_checkpoint import Checkpoints
from tests.io.saver import state
from tests.io.test_named_tree import assert_same
from tests.io.test_run_checkpoint import hidden

ROOT = pathlib.Path(__file__).parents[2]


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


def test_two_processes_restore_what_the_first_saved(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.io.one_of_two"]
    environment = os.environ | {"XLA_FLAGS": ""}
    runs = [
        subprocess.Popen(
            [*command, port, str(process), str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        for process in (0, 1)
    ]
    try:
        texts = [run.communicate(timeout=120)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], "\n".join(texts)
