"""Freed memory is kept: repeated large allocations stop faulting pages in."""

import subprocess
import sys

import pytest

from experiments import _memory

FAULTS = """
import resource, sys
import numpy as np
from experiments import _memory
kept = _memory.keep_freed() if sys.argv[1] == "kept" else None
for _ in range(20):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_faults_go_away():
    assert faults("kept") < faults("plain")


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _memory.keep_freed() is False
