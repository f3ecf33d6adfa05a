"""Several processes of one JAX program on this machine, that meet over the loopback."""

import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parent.parent

MEET = (
    "import sys, jax; jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))\n"
)
"""What a script for `started` begins with."""


def free_address() -> str:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """That of a process with so many CPU devices."""
    flags = re.sub(r"--xla_force_host\S+", "", os.environ.get("XLA_FLAGS", ""))
    flags += f" --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "1",
        **more,
    }  # fmt: skip


def process(command: Sequence[str], devices: int = 1, **more: str) -> subprocess.Popen[str]:
    """A Python process, its two streams to be read apart."""
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env=environment(devices, **more),
    )  # fmt: skip


def started(
    script: str, count: int = 2, devices: int = 1, *args: str
) -> list[subprocess.Popen[str]]:
    """`count` processes of a script that begins with `MEET`; sys.argv[4:] are `args`."""
    address = free_address()
    return [
        process(["-c", MEET + script, address, str(count), str(index), *args], devices)
        for index in range(count)
    ]


def ended(
    processes: Sequence[subprocess.Popen[str]], timeout: float = 120
) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each; Gloo's own lines left out."""
    found = []
    try:
        for one in processes:
            out, err = one.communicate(timeout=timeout)
            found.append((one.returncode, _own(out), _own(err)))
    finally:
        for one in processes:
            one.kill()
    return found


def _own(text: str) -> str:
    noise = ("[Gloo]", "peer ranks")  # its threads write into each other's lines
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not any(word in line for word in noise))
