"""Saves without end into each of the folders it is given: a program that is there to be killed.

One process a folder, forked before JAX has threads, so that the imports are paid once; its number
is printed. When it has died the next one begins.
"""

import os
import sys

import numpy as np

from lorax.io.arrays import prepare
from lorax.io.run_checkpoint import Checkpoints


def state(step: int) -> dict[str, np.ndarray]:
    """What is saved for `step`."""
    draw = np.random.default_rng(step)
    return {str(i): draw.normal(size=(40, 50)).astype(np.float32) for i in range(8)}


def save_all(folder: str) -> None:
    """One save right after the other; there is hardly a moment outside of them."""
    with Checkpoints(folder, best="loss", mode="min") as checkpoints:
        for step in range(1, 1000):
            checkpoints.save(step, state(step), {"step": step}, metrics={"loss": step % 5})


if __name__ == "__main__":
    prepare()
    for folder in sys.argv[1:]:
        process = os.fork()
        if not process:
            save_all(folder)
            os._exit(0)
        print(process, flush=True)
        os.waitpid(process, 0)
