"""How much memory does loading take? Measured in processes of their own."""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.io.names import leaf_shapes
from lorax.io.pretrained_save import save
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig

pytestmark = pytest.mark.runs

MEASURE = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from lorax.io.pretrained import load

jax.block_until_ready(jnp.zeros(3))
bytes_held = 0
if len(sys.argv) > 1:
    base = load(sys.argv[1], **json.loads(sys.argv[2])).base
    bytes_held = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").open())
print(bytes_held, 1024 * int(status["VmHWM"].split()[0]))
"""


def measure(*arguments):
    """Bytes of the parameters, and the most that the process ever had resident.

    Not ru_maxrss: a child inherits that of the process it was forked from, which is pytest.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_loading_takes_at_most_1_3_times_the_model(tmp_path):
    """190 MB in 16 bits: as stored, stacked, and cast to twice the size."""
    model = Llama(LlamaConfig(8000, 768, 12, 12, 12, 2048, scan=True))
    shapes = leaf_shapes(model)
    params: dict = {}
    for path, leaf in shapes.items():
        *folders, name = path.split("/")
        inner = params
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = np.broadcast_to(jnp.ones((), jnp.bfloat16), leaf.shape)
    save(tmp_path / "x", model, params)
    _, before = measure()
    for options in ({}, {"scan": True}, {"dtype": "float32"}):
        held, most = measure(str(tmp_path / "x"), json.dumps(options))
        assert held > 150e6
        assert most - before <= 1.3 * held, (options, held, most - before)
