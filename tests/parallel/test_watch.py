"""A process of several that is gone is missed by the others, in seconds and in one line."""

import time

import pytest

from lorax.parallel.watch import EXIT_CODE, watched
from tests.processes import ended, started

pytestmark = pytest.mark.runs

SCRIPT = """
import os, signal, sys, time
from jax.experimental import multihost_utils
from lorax.core.errors import LoraxError
from lorax.parallel.watch import leave, watched
index, case = jax.process_index(), sys.argv[4]
try:
    with watched():
        for step in range(4):
            multihost_utils.sync_global_devices(str(step))
            if step == 2 and case == f"kill {index}":
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 2 and case in (f"leave {index}", "all"):
                time.sleep(4 * index)
                raise LoraxError("own mistake")
            if case == f"late {index}":
                time.sleep(0.3)
except LoraxError as error:
    print(error, file=sys.stderr)
    leave(1)
"""


@pytest.mark.parametrize("case", ["kill 0", "kill 1", "leave 1"])
def test_who_is_left_says_who_is_gone(case):
    how, gone = case.split()
    begun = time.monotonic()
    found = ended(started(SCRIPT, 2, 1, case))
    assert time.monotonic() - begun < 60
    code, _, said = found[1 - int(gone)]
    assert code == EXIT_CODE, said
    # JAX's own threads may have a line before it
    assert f"process {gone} of 2 is gone, and this one cannot go on without it: run" in said
    assert found[int(gone)][0] == (-9 if how == "kill" else 1)


def test_the_third_hears_it_from_the_first():
    found = ended(started(SCRIPT, 3, 1, "kill 2"))
    assert [code for code, _, _ in found] == [EXIT_CODE, EXIT_CODE, -9]
    assert all("process 2 of 3 is gone" in said for _, _, said in found[:2])


@pytest.mark.parametrize("case", ["none", "late 1"])
def test_processes_that_end_as_they_should_are_not_missed(case):
    assert [code for code, _, _ in ended(started(SCRIPT, 2, 1, case))] == [0, 0]


def test_a_mistake_of_all_is_told_by_each():
    for code, _, said in ended(started(SCRIPT, 2, 1, "all")):
        assert code == 1 and "own mistake" in said and "gone" not in said


def test_a_single_process_is_not_watched():
    with watched():
        pass
