"""Starts several processes of one program, and sees to it that none is left over."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def started(count, folder, *scenarios, module="tests.io.one_of_several"):
    """`count` processes at `scenarios`; those that still run at the end are killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", module, port, str(i), str(count), str(folder), *scenarios],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            cwd=ROOT,
        )
        for i in range(count)
    ]
    try:
        yield runs
    finally:
        for run in runs:
            run.kill()
            run.communicate()


def together(count, folder, *scenarios, module="tests.io.one_of_several"):
    """All of them end well."""
    with started(count, folder, *scenarios, module=module) as runs:
        texts = [run.communicate(timeout=120)[0] for run in runs]
        assert [run.returncode for run in runs] == [0] * count, "\n".join(texts)
